"""Names of layers and buffers are the user's own: prefixes of wrappers are removed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import Net, fit
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lightning_gradguard import GradGuard
from lightning_gradguard.collect.forward_state import ForwardState
from lightning_gradguard.collect.layers import ParamTable, clean_name, clean_parameters, clean_paths


def body() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


WRAPPED: dict[str, Any] = {
    "compiled": compiled,
    "checkpointed": checkpoint_wrapper,
    "data parallel": nn.DataParallel,
    "compiled, then data parallel": lambda m: nn.DataParallel(compiled(m)),
    "data parallel, then compiled": lambda m: compiled(nn.DataParallel(m)),
    "every layer": lambda m: nn.Sequential(*(checkpoint_wrapper(compiled(part)) for part in m)),
}


def names(module: nn.Module) -> tuple[str, ...]:
    return ParamTable(clean_parameters(module), list(module.parameters())).layers.names


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_prefixes_of_wrappers_are_removed(wrapper: str) -> None:
    plain, wrapped = nn.ModuleDict({"net": body()}), nn.ModuleDict({"net": WRAPPED[wrapper](body())})
    assert names(wrapped) == names(plain) == ("net.0", "net.1", "net.2")
    assert [slot.name for slot in ForwardState(wrapped).slots] == [slot.name for slot in ForwardState(plain).slots]


def test_a_module_called_module_keeps_its_name() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.my_orig_mod = nn.Linear(2, 2)

    assert names(nn.Sequential(Holder())) == ("0.module", "0.my_orig_mod")
    assert names(nn.Sequential(nn.DataParallel(Holder()))) == ("0.module", "0.my_orig_mod")
    assert names(Holder()) == ("module", "my_orig_mod")


def test_a_wrapped_root() -> None:
    assert names(nn.DataParallel(body())) == ("0", "1", "2")
    assert clean_paths(nn.DataParallel(body()))["module"] == ""


def test_prefixes_are_removed_anywhere_in_a_name() -> None:
    name = "_fsdp_wrapped_module.a._checkpoint_wrapped_module._orig_mod.b.weight"
    assert clean_name(name) == "a.b.weight"
    assert clean_name("a_orig_mod.weight") == "a_orig_mod.weight"


def test_a_report_has_clean_names() -> None:
    guard, module = GradGuard(), Net()
    module.net = compiled(module.net)
    fit(module, guard, limit_train_batches=3)
    report = guard.last_report
    assert report.stats.layers.names == ("net.0", "net.1", "net.3")
    assert report.stats.buffers == ("net.1.running_mean", "net.1.running_var")
