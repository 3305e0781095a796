"""The batches of skipped steps on disk, and a run without their bad samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from runs import Faults, Net, fit, loader, same_state
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_gradguard import GradGuard
from lightning_gradguard.record.bad_batches import MOST_BATCHES


def spoiled(samples: list[int]) -> TensorDataset:
    x, y = loader().dataset.tensors  # type: ignore[attr-defined]
    x[samples, 1] = math.nan
    return TensorDataset(x, y)


def saved(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(path, weights_only=False) for path in sorted(folder.glob("*.pt"))]


def excluded(folder: Path) -> dict[str, list[int]]:
    return dict(json.loads((folder / "exclude.json").read_text()))


def linear() -> Net:
    return Net(nn.Sequential(nn.Linear(8, 3)))  # BatchNorm would spread a sample over the batch


def test_bad_samples_are_saved_listed_and_left_out(tmp_path: Path) -> None:
    data, folder = spoiled([3, 500]), tmp_path / "bad"
    guard = GradGuard(save_bad_batches=folder)
    fit(linear(), guard, data=DataLoader(data, 16, shuffle=True))
    assert excluded(folder) == {"exclude": [3, 500], "suspects": []}
    assert [step["step"] for step in saved(folder)] == sorted({f.step for f in guard.findings})
    for step in saved(folder):
        (batch,) = step["batches"]
        assert torch.equal(batch[0].nan_to_num(7), torch.stack([data[i][0] for i in step["indices"]]).nan_to_num(7))
        assert any("bad_batch" in finding for finding in step["findings"])
    clean = Subset(data, [i for i in range(len(data)) if i not in excluded(folder)["exclude"]])
    again = GradGuard(save_bad_batches=tmp_path / "none")
    fit(linear(), again, data=DataLoader(clean, 16, shuffle=True))
    assert again.findings == ()
    assert not (tmp_path / "none").exists()


def test_a_list_is_added_to(tmp_path: Path) -> None:
    for samples in ([3], [40]):
        fit(linear(), GradGuard(save_bad_batches=str(tmp_path)), data=DataLoader(spoiled(samples), 16))
    assert excluded(tmp_path) == {"exclude": [3, 40], "suspects": []}


def test_samples_of_a_batch_in_which_none_stands_out_are_suspects(tmp_path: Path) -> None:
    class Label(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * (math.nan if batch_idx == 9 else 1.0)

    fit(Label(), GradGuard(save_bad_batches=tmp_path))
    assert excluded(tmp_path) == {"exclude": [], "suspects": list(range(144, 160))}


def test_all_micro_batches_of_a_step_are_saved(tmp_path: Path) -> None:
    fit(linear(), GradGuard(save_bad_batches=tmp_path), data=DataLoader(spoiled([70]), 16), accumulate_grad_batches=4)
    (step,) = saved(tmp_path)
    assert [batch[0].isnan().any().item() for batch in step["batches"]] == [True, False, False, False]
    assert excluded(tmp_path) == {"exclude": [], "suspects": list(range(64, 80))}


def test_the_number_of_batches_is_bounded(tmp_path: Path) -> None:
    faults = Faults({step: math.nan for step in range(0, 120, 4)})
    fit(Net(), faults, GradGuard(save_bad_batches=tmp_path), max_epochs=3)
    assert len(saved(tmp_path)) == MOST_BATCHES


def test_a_failure_only_warns_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pl.seed_everything(0, verbose=False)
    with pytest.warns(UserWarning, match="could not save a bad batch to .*file/x") as caught:
        fit(Net(), Faults({20: math.nan, 30: math.nan}), GradGuard(save_bad_batches=tmp_path / "file" / "x"))
    assert sum("could not save" in str(w.message) for w in caught) == 1


def test_saving_does_not_change_the_run(tmp_path: Path) -> None:
    runs = []
    for guard in (GradGuard(), GradGuard(save_bad_batches=tmp_path)):
        pl.seed_everything(0, verbose=False)
        runs.append(Net())
        fit(runs[-1], Faults({20: math.nan}), guard)
    assert same_state(*runs)


@pytest.mark.parametrize("value", ["", 7, True])
def test_a_directory_is_asked_for(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`GradGuard\(save_bad_batches=...\)` must be a directory, got"):
        GradGuard(save_bad_batches=value)
