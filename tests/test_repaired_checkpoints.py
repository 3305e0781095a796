"""The checkpoint of a repaired model loads as the repaired model, or says why not; the repair is said in code."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Net, fit, loader, same_state
from torch import nn

import lightning_gradguard
from lightning_gradguard import CodeChange, GradGuard, GradStats, Policy, fixes
from lightning_gradguard.detectors import AbstractDetector, NonFinite
from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies import (
    InsertNorm,
    NormalizeInput,
    ReduceMomentum,
    Reinitialize,
    ScaleLR,
    SkipStep,
    SwapActivation,
    SwitchToAdam,
    TryEach,
)
from lightning_gradguard.step.model_changes import NewModule, changes_of, expression, record_change

STEPS = 20  # of an epoch


@dataclass(frozen=True)
class At(AbstractDetector):
    """Reports one step."""

    kind: ClassVar[str] = "at"
    name: str = "at"
    step: int = 10

    def init(self) -> dict[str, Any]:
        return {}

    def update(self, state: dict[str, Any], stats: GradStats) -> tuple[dict[str, Any], tuple[Finding, ...]]:
        return state, (Finding(self.kind, stats.step),) if stats.step == self.step else ()


REMEDIES: dict[str, Any] = {
    "swap": (SwapActivation("ELU"),),
    "norm": (InsertNorm(),),
    "input": (NormalizeInput(above=1e-6),),
    "all three": (SwapActivation("GELU"), InsertNorm(), NormalizeInput(above=1e-6)),
    "Adam": (SwitchToAdam(1e-2),),
    "learning rate": (ScaleLR(0.1),),
    "momentum": (ReduceMomentum(above=0.5, to=0.4),),
}
EXCHANGED = ("swap", "norm", "input", "all three")


def guard_with(name: str) -> GradGuard:
    """A guard that applies a remedy at step 10; a ladder that is never asked for makes searches possible."""
    policy = Policy({"at": [REMEDIES[name]], "nonfinite": [TryEach(((SkipStep(),),))]})
    return GradGuard(policy, [At(), NonFinite()])


def train(folder: Path, guard: GradGuard | None, ckpt_path: Any = None, **options: Any) -> tuple[Net, pl.Trainer]:
    torch.manual_seed(0)
    module = Net(optimizer=lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9))
    saving = ModelCheckpoint(folder, "{step}", save_top_k=-1, **options)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, callbacks=[saving, *([guard] if guard else [])],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(STEPS), ckpt_path=ckpt_path)
    return module.eval(), trainer


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs with each remedy, made once: the module, the guard and the folder of checkpoints."""
    done: dict[str, tuple[Net, GradGuard, Path]] = {}

    def run(name: str) -> tuple[Net, GradGuard, Path]:
        if name not in done:
            folder, guard = tmp_path_factory.mktemp("repaired"), guard_with(name)
            done[name] = (train(folder, guard)[0], guard, folder)
        return done[name]

    return run


@pytest.mark.parametrize("name", REMEDIES)
def test_it_loads_as_the_model_that_was_saved(name: str, repaired: Any) -> None:
    module, guard, folder = repaired(name)
    assert [incident.kind for incident in guard.incidents] == ["at"]
    loaded = lightning_gradguard.load(Net, folder / "step=60.ckpt").eval()
    x = torch.randn(4, 8)
    assert str(loaded) == str(module)
    assert torch.equal(loaded.net(x), module.net(x))
    assert type(loaded) is Net


@pytest.mark.filterwarnings("ignore:Found keys that are")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("name", EXCHANGED)
def test_loaded_as_ever_it_says_what_to_do(name: str, repaired: Any) -> None:
    with pytest.raises(RuntimeError, match=r"gradguard: this model was changed .* `lightning_gradguard.load\(Module"):
        Net.load_from_checkpoint(repaired(name)[2] / "step=60.ckpt")
    with pytest.warns(UserWarning, match="gradguard: this model was changed"):
        Net.load_from_checkpoint(repaired(name)[2] / "step=60.ckpt", strict=False)
    with pytest.raises(RuntimeError, match="gradguard: this model was changed"):
        train(repaired(name)[2] / "unused", None, repaired(name)[2] / "step=40.ckpt")


@pytest.mark.parametrize("name", sorted(REMEDIES.keys() - set(EXCHANGED)))
def test_where_no_module_was_exchanged_it_loads_as_ever(name: str, repaired: Any) -> None:
    module, _, folder = repaired(name)
    assert same_state(Net.load_from_checkpoint(folder / "step=60.ckpt"), module)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("policy", ["same", "protect"])
@pytest.mark.parametrize("name", REMEDIES)
def test_resumed_it_goes_on_as_the_uninterrupted_run(name: str, policy: str, repaired: Any, tmp_path: Path) -> None:
    module, whole, folder = repaired(name)
    guard = guard_with(name) if policy == "same" else GradGuard("protect", [NonFinite()])
    resumed, _ = train(tmp_path, guard, folder / "step=20.ckpt")
    assert same_state(resumed, module)
    assert guard.changes == whole.changes != ()


def test_weights_alone_say_it_too(tmp_path: Path) -> None:
    module, _ = train(tmp_path, guard_with("norm"), save_weights_only=True)
    assert same_state(lightning_gradguard.load(Net, tmp_path / "step=60.ckpt"), module)
    with pytest.raises(RuntimeError, match="gradguard: this model was changed"):
        Net().load_state_dict(module.state_dict())


def test_a_healthy_checkpoint_is_as_without_the_guard(tmp_path: Path) -> None:
    module, _ = train(tmp_path, GradGuard("repair"))
    assert not [key for key in torch.load(tmp_path / "step=60.ckpt", weights_only=True)["state_dict"] if "guard" in key]
    loaded = lightning_gradguard.load(Net, tmp_path / "step=60.ckpt")
    for model in (module, loaded):
        assert not model._state_dict_hooks
        assert not model._load_state_dict_pre_hooks
    assert same_state(loaded, module)


def test_weights_from_before_the_change_are_not_taken_for_the_changed_model(repaired: Any) -> None:
    module, _, folder = repaired("swap")
    before = train(folder / "other", None)[0].state_dict()
    with pytest.raises(RuntimeError, match=r"before GradGuard changed this model \(self.net\[2\] = nn.ELU\(\)"):
        module.load_state_dict(before)
    assert same_state(copy.deepcopy(module), module)
    pickle.loads(pickle.dumps(module.net))


def test_another_model_is_refused(repaired: Any) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 3)))

    with pytest.raises(ValueError, match=r"changed 'net.2' from ReLU to ELU .* but the model has a Tanh there"):
        lightning_gradguard.load(Other, repaired("swap")[2] / "step=60.ckpt")


def test_a_checkpoint_cannot_name_anything_but_modules() -> None:
    for name in ("functional", "os.system", "Module.__init__"):
        with pytest.raises(ValueError, match=r"must be the name of a module in torch.nn or 'RunningStandardize', got"):
            NewModule(name).build(nn.Linear(1, 1))


# -------------------------------------------------------------------- as code


@pytest.mark.parametrize("name", EXCHANGED)
def test_the_code_makes_the_change(name: str, repaired: Any) -> None:
    module, guard, folder = repaired(name)
    pasted = Net()
    for change in guard.changes:
        exec(change.code, {"self": pasted, "nn": nn, "fixes": fixes})
    assert str(pasted) == str(module)

    class Pasted(Net):
        def __init__(self) -> None:
            super().__init__(pasted.net)

    assert same_state(lightning_gradguard.load(Pasted, folder / "step=60.ckpt"), module)


def test_the_report_says_what_to_write_and_where(repaired: Any) -> None:
    report = str(repaired("all three")[1].report())
    assert "write at the end of `__init__`:\n    self.net[2] = nn.GELU(approximate='none')" not in report
    assert "write at the end of `__init__`:\n    self.net[2] = nn.GELU()  # was ReLU()\n" in report
    assert "    self.net[0] = nn.Sequential(self.net[0], nn.LayerNorm(normalized_shape=16, elementw" in report
    for name, code in {
        "Adam": "optimizer = torch.optim.Adam(self.parameters(), lr=0.01)  # was SGD",
        "learning rate": 'for group in optimizer.param_groups: group["lr"] *= 0.1',
        "momentum": "optimizer.param_groups[0].update(momentum=0.4)  # was momentum=0.9",
    }.items():
        assert str(repaired(name)[1].report()).endswith(f"write at the end of `configure_optimizers`:\n    {code}")


def test_new_weights_are_said_as_the_fix_that_draws_them(tmp_path: Path) -> None:
    policy = Policy({"at": [Reinitialize()], "nonfinite": [TryEach(((SkipStep(),),))]})
    guard = GradGuard(policy, [At(), NonFinite()])
    fit(Net(), guard, data=loader(11))
    one, other = Net(), Net()
    for module in (one, other):
        for change in guard.changes:
            exec(change.code, {"self": module, "fixes": fixes})
    assert len(guard.changes) == 2  # two layers with different gains
    assert same_state(one, other)


def test_a_later_change_of_the_same_replaces_the_earlier_one() -> None:
    model = nn.Linear(1, 1)
    for code, subject in (("a", "optimizer lr"), ("b", ""), ("c", "optimizer lr"), ("b", "")):
        record_change(model, CodeChange(code, subject=subject))
    assert [change.code for change in changes_of(model)] == ["b", "c", "b"]
    record_change(model, CodeChange("d", subject="optimizer"))
    assert [change.code for change in changes_of(model)] == ["b", "b", "d"]


@pytest.mark.parametrize(("path", "code"), [("net", "self.net"), ("a.0.b", "self.a[0].b"), ("d.k-1", "self.d['k-1']")])
def test_a_path_as_code(path: str, code: str) -> None:
    assert expression(path) == code


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_fresh_instance_is_rebuilt_for_validation_too(repaired: Any) -> None:
    module, _, folder = repaired("all three")
    fresh, losses = Net(), []
    fresh.validation_step = lambda batch, batch_idx: losses.append(fresh.net(batch[0]).sum())  # type: ignore[assignment]
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[GradGuard()], enable_progress_bar=False, enable_checkpointing=False
    )  # fmt: skip
    trainer.validate(fresh, loader(1), ckpt_path=folder / "step=60.ckpt", verbose=False)
    assert same_state(fresh, module)
    assert torch.equal(losses[0], module.net(next(iter(loader(1)))[0]).sum())
