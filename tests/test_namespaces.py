"""Importing the guard changes nothing: only the namespace of the user's Trainer is loaded, and it keeps its log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")
PARTS = {
    "guard": "from lightning_gradguard import GradGuard",
    "lightning": "import {namespace} as pl; from {namespace}.cli import LightningCLI",
}
#: A Trainer with the guard in a list, one with the guard alone, and the CLI, which knows it from the command line.
RUNS = """
import sys, warnings
warnings.simplefilter("ignore")
from {namespace}.demos.boring_classes import BoringModel
quiet = dict(max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
quiet |= dict(accelerator="cpu", enable_model_summary=False)
for alone in (False, True):
    guard = GradGuard()
    pl.Trainer(callbacks=guard if alone else [guard], **quiet).fit(BoringModel())
    print(guard.report().steps)
arguments = ["fit", "--trainer.callbacks+=lightning_gradguard.GradGuard", "--trainer.callbacks.policy=monitor"]
built = LightningCLI(BoringModel, args=arguments, trainer_defaults=quiet)
print(sum(isinstance(c, GradGuard) for c in built.trainer.callbacks))
"""
LOG = """
from lightning_utilities.core import rank_zero
print(rank_zero.log.name, *sorted({{"pytorch_lightning", "lightning.pytorch"}} & set(sys.modules)))
"""


def printed(code: str, namespace: str, folder: Path) -> list[str]:
    command = [sys.executable, "-c", code.format(namespace=namespace)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_only_the_users_namespace_is_loaded_and_keeps_its_log(namespace: str, tmp_path: Path) -> None:
    code = "\n".join([PARTS["lightning"], PARTS["guard"], RUNS, LOG])
    assert printed(code, namespace, tmp_path) == ["3", "3", "1", f"{namespace}.utilities.rank_zero {namespace}"]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_namespace_that_is_imported_later_takes_the_guard_too(namespace: str, tmp_path: Path) -> None:
    code = "\n".join([PARTS["guard"], PARTS["lightning"], RUNS, LOG])
    *runs, log = printed(code, namespace, tmp_path)
    assert runs == ["3", "3", "1"]
    assert log.startswith(f"{namespace}.utilities.rank_zero")
