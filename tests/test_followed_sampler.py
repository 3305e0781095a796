"""The samples of a batch are known however they are drawn, and what is drawn stays the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Net, fit, loader, same_state
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_gradguard import GradGuard
from lightning_gradguard.collect.followed_sampler import FollowedSampler, dataset_indices, follow_loader, leave_loader
from lightning_gradguard.trainer import training_indices

DATA = TensorDataset(*loader(batches=6, batch_size=8).dataset.tensors, torch.arange(48))  # type: ignore[attr-defined]


class Indexed(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


class Compare(pl.Callback):
    """Compares the indices that are known with those in the batch, which other loops over the loader do not change."""

    def __init__(self, guard: GradGuard) -> None:
        self.guard, self.order, self.known = guard, [], []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.train_dataloader.persistent_workers:  # another loop over it takes the training's batches
            return
        state = torch.get_rng_state()
        next(iter(trainer.train_dataloader))
        torch.set_rng_state(state)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.order.append(tuple(batch[2].tolist()))
        self.known.append(training_indices(trainer, self.guard._data[1]) if self.guard._data else ())


class Pairs:
    """A batch sampler that is none of torch's."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(int(i), 47 - int(i)) for i in torch.randperm(20)])

    def __len__(self) -> int:
        return 20


LOADERS: dict[str, dict[str, Any]] = {
    "in order": {"batch_size": 8},
    "shuffled": {"batch_size": 8, "shuffle": True},
    "weighted": {"batch_size": 8, "sampler": WeightedRandomSampler(torch.arange(48.0), 48)},
    "own batch sampler": {"batch_sampler": Pairs()},
    "two workers": {"batch_size": 2, "shuffle": True, "num_workers": 2},
    "persistent workers": {"batch_size": 4, "shuffle": True, "num_workers": 1, "persistent_workers": True},
}


@pytest.mark.parametrize("name", LOADERS)
def test_indices_are_known_and_the_order_stays(name: str) -> None:
    runs = []
    for guard in (GradGuard(), None):
        pl.seed_everything(1, verbose=False)
        compare, module = Compare(guard or GradGuard()), Indexed()
        data = DataLoader(DATA, **LOADERS[name])
        own = data.batch_sampler
        fit(module, *[guard] * (guard is not None), compare, data=data, max_epochs=2)
        assert data.batch_sampler is own
        runs.append((module, compare))
    (guarded, compare), (plain, without) = runs
    assert compare.known == compare.order == without.order
    assert len(set(compare.order)) > len(compare.order) / 2 or name in ("in order", "own batch sampler")
    assert same_state(guarded, plain)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_run_that_resumes_within_an_epoch_knows_its_samples(tmp_path: Any) -> None:
    guard = GradGuard()
    save = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    fit(Indexed(), guard, save, data=DataLoader(DATA, 8, shuffle=True), enable_checkpointing=True)
    compare = Compare(guard)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[guard, compare],
    )  # fmt: skip
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer.fit(Indexed(), DataLoader(DATA, 8, shuffle=True), ckpt_path=tmp_path / "step=4.ckpt")
    assert compare.known == compare.order != []


def test_a_sampler_of_several_processes_is_followed() -> None:
    sampler = DistributedSampler(DATA, num_replicas=2, rank=1, shuffle=True, seed=3)
    batches = DataLoader(DATA, 4, sampler=sampler)
    follow_loader(batches)
    batches.batch_sampler.sampler.set_epoch(2)  # type: ignore[union-attr]
    assert (sampler.epoch, batches.sampler) == (2, sampler)
    running = iter(batches)
    assert all(dataset_indices(running, i) == tuple(batch[2].tolist()) for i, batch in enumerate(running))


def test_only_the_last_batches_are_kept() -> None:
    running = iter(FollowedSampler(BatchSampler(range(100), 2, False), kept=3))
    for _ in range(10):
        next(running)
    assert [running.indices(i) for i in (6, 7, 9, 10, -1)] == [(), (14, 15), (18, 19), (), ()]


def test_keys_that_are_no_numbers_are_unknown() -> None:
    running = iter(FollowedSampler([["a"], None, 7], kept=3))
    assert list(running) == [["a"], None, 7]
    assert [running.indices(i) for i in range(3)] == [(), (), (7,)]


def test_loaders_that_cannot_be_followed_are_left_alone() -> None:
    class Own(DataLoader[Any]):
        def __iter__(self) -> Any:
            return super().__iter__()

    unordered = {"in_order": False} if "in_order" in vars(DataLoader([1])) else {}
    for data in (Own(DATA, 4), [1, 2], *([DataLoader(DATA, 4, **unordered)] if unordered else [])):
        follow_loader(data)
        leave_loader(data)
        assert not isinstance(getattr(data, "batch_sampler", None), FollowedSampler)
    assert dataset_indices(iter([1]), 0) == ()


def test_a_followed_sampler_is_what_it_follows() -> None:
    followed = FollowedSampler(BatchSampler(RandomSampler(range(10)), 3, True), kept=2)
    assert (len(followed), followed.batch_size, followed.drop_last) == (3, 3, True)
    for again in (copy.deepcopy(followed), pickle.loads(pickle.dumps(followed))):
        assert again.batch_size == 3
    with pytest.raises(AttributeError, match="unheard_of"):
        _ = followed.unheard_of
