"""Bad samples are reported in real runs with their micro-batch and dataset index, and never guessed."""

from __future__ import annotations

import gc
import json
import math
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import Faults, Net, fit, loader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_gradguard import GradGuard, GradStats
from lightning_gradguard.collect.batch_stats import BatchStats, sample_sizes
from lightning_gradguard.detectors import BadBatch
from lightning_gradguard.findings import Symptom


class Spoil(pl.Callback):
    """Puts a number into some samples of one batch."""

    def __init__(self, at: int, samples: list[int], value: float) -> None:
        self.at, self.samples, self.value = at, samples, value

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at:
            batch[0][self.samples, 2] = self.value


def reported(*callbacks: Any, module: Any = None, **options: Any) -> list[str]:
    guard = GradGuard()
    fit(module or Net(), *callbacks, guard, **options)
    details = [finding.detail for finding in guard.findings if finding.kind == "bad_batch"]
    told = [symptom.detail for incident in guard.incidents for symptom in incident.symptoms]
    assert set(details) <= set(told)
    return details


def plain() -> Net:
    """Without BatchNorm, which would spread one sample over all."""
    return Net(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (-math.inf, "Inf")])
def test_samples_are_reported_with_their_index_in_the_dataset(value: float, word: str) -> None:
    details = reported(Spoil(5, [3, 11], value))
    assert details == [f"samples 3 and 11 of the batch (83 and 91 in the dataset) contain {word}"]


def test_a_sample_far_larger_than_the_others_is_reported() -> None:
    guard = GradGuard()
    fit(plain(), Spoil(30, [7], 1e7), guard)
    (finding,) = [f for f in guard.findings if f.kind == "bad_batch"]
    assert finding.value > 1e6
    size = f"{finding.value:.3g} times as large as the median sample (limit 1,000 times)"
    assert finding.detail == f"sample 7 of the batch (487 in the dataset) is {size}"
    assert finding.limit == 1e3
    (incident,) = guard.incidents
    assert Symptom("bad_batch", finding.detail) in incident.symptoms


def test_the_samples_of_a_shuffled_loader_are_named_and_its_order_stays() -> None:
    def shuffled() -> DataLoader[Any]:
        return DataLoader(loader().dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(1))

    class Seen(pl.Callback):
        def __init__(self) -> None:
            self.sums: list[float] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.sums.append(float(batch[1].sum()))

    one, other = Seen(), Seen()
    torch.manual_seed(0)
    same = DataLoader(range(640), 16, shuffle=True, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    index = int(list(same)[5][3])
    detail = f"sample 3 of the batch ({index} in the dataset) contains NaN"
    torch.manual_seed(0)
    assert reported(Spoil(5, [3], math.nan), one, data=shuffled()) == [detail]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    fit(Net(), Spoil(5, [3], math.nan), other, data=shuffled())
    assert torch.equal(torch.get_rng_state(), state)
    assert one.sums == other.sums


def test_no_sample_is_reported_when_the_model_and_not_the_batch_gives_nan() -> None:
    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (math.nan if batch_idx == 9 else 1.0)

    assert reported(module=Broken()) == []


def test_no_batch_is_measured_in_a_healthy_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_gradguard.callback.sample_sizes", lambda batch: pytest.fail("measured"))
    assert reported() == []


def test_the_micro_batch_is_reported_and_its_samples_while_in_memory() -> None:
    last = reported(Spoil(11, [4], math.nan), accumulate_grad_batches=4)
    assert last == ["sample 4 of the batch (micro-batch 4 of 4, 180 in the dataset) contains NaN"]
    gone = reported(Spoil(9, [4], math.nan), accumulate_grad_batches=4)
    assert gone == [
        "loss of micro-batch 2 of 4 (144 to 159 in the dataset) is not finite or far above the others; its samples are "
        "no longer in memory"
    ]


def test_no_batch_is_kept() -> None:
    kept: list[Any] = []

    class Note(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            kept.append(weakref.ref(batch[0]))

    guard = GradGuard()
    fit(Net(), Faults({3: math.nan}), Note(), guard, max_steps=6)
    gc.collect()
    assert guard._data is None
    assert [ref() for ref in kept] == [None] * 6


def test_nested_batches_and_other_tensors() -> None:
    x = torch.ones(6, 3, 4)
    x[2, 1, 0] = math.inf
    batch = {"a": [x, torch.arange(6)], "b": (torch.ones(6, dtype=torch.float16), torch.full((2,), math.nan), "text")}
    assert np.isinf(sample_sizes(batch)).tolist() == [i == 2 for i in range(6)]
    assert sample_sizes({"text": ["a"]}).size == 0
    assert sample_sizes(torch.zeros(3, 2)).tolist() == [1.0, 1.0, 1.0]
    narrow = torch.tensor([[1.0], [2.0], [math.nan]]).to(torch.float8_e4m3fn)
    assert np.isnan(sample_sizes(narrow)).tolist() == [False, False, True]
    assert sample_sizes(torch.tensor([1.0, 1.0, 1e300], dtype=torch.float64)).tolist() == [1.0, 1.0, 1e300]
    mostly_zero = torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert sample_sizes(mostly_zero).tolist() == [1.0] * 4


def suspicious(**fields: Any) -> GradStats:
    return GradStats.of({"a": 1e5}, loss=1.0, **fields)


def test_a_level_that_lasts_without_bad_samples_is_accepted() -> None:
    detector = BadBatch()
    state = detector.init()
    for step in range(30):
        state, _ = detector.update(state, GradStats.of({"a": 1.0}, step=step, loss=1.0))
    sound = BatchStats(np.ones(4))
    for step in range(detector.patience):
        assert detector.wants_batch_stats(state, suspicious(step=step))
        state, found = detector.update(state, suspicious(step=step, batch_stats=sound))
        assert found == ()
    assert not detector.wants_batch_stats(state, suspicious())


def test_an_overflow_of_fp16_is_routine() -> None:
    stats = GradStats.of({"a": math.inf}, loss=1.0, scaler_overflow=True)
    assert not BadBatch().wants_batch_stats(BadBatch().init(), stats)


class OnOne(Spoil):
    """Spoils the batch of process 1 only, and writes the findings of each process to a file."""

    def __init__(self, guard: GradGuard, folder: Path) -> None:
        super().__init__(5, [3], math.nan)
        self.guard, self.folder = guard, folder

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1:
            if batch_idx == self.at:
                (place,) = (loader(20).dataset.tensors[0] == batch[0][3]).all(1).nonzero()
                (self.folder / "place.json").write_text(json.dumps(int(place)))
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        findings = [str(finding) for finding in self.guard.findings if finding.kind == "bad_batch"]
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(findings))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_all_processes_report_the_one_with_the_bad_sample(tmp_path: Path) -> None:
    guard = GradGuard()
    fit(plain(), OnOne(guard, tmp_path), guard, strategy="ddp_fork", devices=2, data=loader(20), max_steps=8)
    findings = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    place = json.loads((tmp_path / "place.json").read_text())
    expected = f"step 5: bad_batch: sample 3 of the batch (process 1, {place} in the dataset) contains NaN"
    assert findings == [[expected]] * 2
