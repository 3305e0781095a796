"""`doctor`: a verdict before a run, the change as code, and nothing left behind."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from runs import Net, loader, same_state
from torch import Tensor, nn

from lightning_gradguard import doctor, fixes
from lightning_gradguard.cli import main


def adam(lr: float) -> Any:
    return lambda params: torch.optim.Adam(params, lr=lr)


class Noisy(Net):
    """Draws from the generators of Python and numpy."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        random.random()
        np.random.rand()
        return super().training_step(batch, batch_idx)


def broken() -> Any:
    torch.manual_seed(0)
    return Noisy(optimizer=adam(1e-5)), loader(60)


def healthy() -> Any:
    torch.manual_seed(0)
    return Net(optimizer=adam(3e-2)), loader(60)


def nothing() -> None:
    """Not what `gradguard doctor` wants."""


class Data(pl.LightningDataModule):
    """For the configuration of a LightningCLI."""

    def train_dataloader(self) -> Any:
        return loader(60)


class Slow(Net):
    """The same."""

    def __init__(self, lr: float = 1e-5) -> None:
        super().__init__(optimizer=adam(lr))


def test_a_broken_run_gets_its_cause_and_a_change_that_repairs_it() -> None:
    module, data = broken()
    before, state = copy.deepcopy(module), (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    diagnosis = doctor(module, data, steps=40, max_epochs=4)
    assert (diagnosis.state, diagnosis.cause) == ("broken", "lr_too_small")
    assert same_state(module, before)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]
    assert not hasattr(module, "_trainer") or module._trainer is None
    (change,) = diagnosis.changes
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)
    exec(change.code, {"optimizer": optimizer, "fixes": fixes})
    repaired = doctor(Net(optimizer=adam(optimizer.param_groups[0]["lr"])), data, steps=40, max_epochs=4)
    assert repaired.state != "broken"
    assert str(diagnosis).startswith("Broken: lr_too_small.\nThe loss is ")
    assert f"    {change}" in str(diagnosis)


def test_a_healthy_run_is_called_healthy_and_its_arms_are_told() -> None:
    module, data = healthy()
    diagnosis = doctor(module, data, steps=24, max_epochs=4)
    assert diagnosis.state.startswith("healthy")
    assert len(diagnosis.arms) > 10
    assert diagnosis.control.loss < diagnosis.untrained
    assert len(diagnosis.control.history) == 24 + 3 * 16 + 8  # once, three passes over two thirds, the rest measured


def test_a_run_of_fewer_steps_than_asked_for_is_examined_at_its_end() -> None:
    module, data = healthy()
    diagnosis = doctor(module, data, max_steps=30)
    assert len(diagnosis.control.history) == 30 + 3 * 20 + 10


def test_a_run_that_nothing_helps_gets_nowhere() -> None:
    class Random(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, _ = batch
            return nn.functional.cross_entropy(self.net(x), torch.randint(0, 3, (len(x),)))

    torch.manual_seed(0)
    diagnosis = doctor(Random(optimizer=adam(1e-4)), loader(60), steps=24, max_epochs=4)
    assert diagnosis.state == "gets nowhere"
    assert diagnosis.changes == ()
    assert "check the loss function" in str(diagnosis)


def test_a_rate_that_is_far_too_large_is_broken() -> None:
    torch.manual_seed(0)
    diagnosis = doctor(Net(optimizer=adam(30.0)), loader(60), steps=24, max_epochs=4)
    assert (diagnosis.state, diagnosis.cause) == ("broken", "lr_too_large")
    assert diagnosis.control.loss > 3 * diagnosis.best.loss


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: doctor(Net(), loader(), steps=10), "of at least 24"),
        (lambda: doctor(nn.Linear(1, 1), loader()), "must be a LightningModule"),
        (lambda: doctor(Two(), loader(), max_epochs=4), "one optimizer, automatic optimization"),
        (lambda: doctor(Without(), loader(60)), "one optimizer, automatic optimization"),
        (lambda: doctor(Net(), loader(5), max_epochs=2), "at least 24 optimizer steps on finite batches, got 10"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*acts like 'protect'", "ignore:.*configure_optimizers. returned .None.")
def test_what_cannot_be_examined_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


class Two(Net):
    """Two optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]


class Without(Net):
    """No optimizer."""

    def configure_optimizers(self) -> Any:
        return None


def test_the_command_takes_a_function_and_writes_a_page(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    options = ["--steps", "24", "--max_epochs", "4"]
    assert main(["doctor", "test_doctor:broken", *options, "--html", str(tmp_path / "page.html")]) == 1
    told = capsys.readouterr().out
    assert told.startswith("Broken: lr_too_small.")
    assert "the run as it is" in told
    page = (tmp_path / "page.html").read_text()
    assert "Broken: lr_too_small." in page
    assert "ScaleLR(1000)" in page
    assert main(["doctor", "test_doctor:healthy", *options]) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI's own
def test_the_command_takes_the_configuration_of_a_lightning_cli(tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "app.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, max_epochs: 2}\n"
        "model: {class_path: test_doctor.Slow, init_args: {lr: 1.0e-5}}\n"
        "data: {class_path: test_doctor.Data}\n"
    )
    assert main(["doctor", str(config), "--steps", "24", "--max_epochs", "4"]) == 1
    assert capsys.readouterr().out.startswith("Broken: lr_too_small.")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("test_doctor", "must be package.module:function or a YAML file"),
        ("test_doctor:nothing", "must return a LightningModule and its data"),
        ("no_such_module:make", "no_such_module"),
    ],
)
def test_a_wrong_source_gets_a_sentence(source: str, message: str, capsys: Any) -> None:
    assert main(["doctor", source]) == 2
    assert message in capsys.readouterr().err
