"""Every script in `examples` runs as it stands, ends in order, and tells what its docstring says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
CONFIG = ("fit", "--config", str(EXAMPLES / "lightning_cli.yaml"))
#: Script -> what is optional for it, its arguments, and patterns of what it tells.
SCRIPTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "digits": ("sklearn", (), (r"100 in the dataset", r"700 in the dataset", r"training data: 9\d%")),
    "lightning_cli": ("jsonargparse", CONFIG, (r"200 steps, 2 incident\(s\): 2 nonfinite; recovered",)),
    "forgetful_lstm": (
        "torch",
        (),
        (r"vanishing_through_time in lstm.*SetForgetBias; resolved", r"last loss 0\.[0-2]"),
    ),
    "transformer": ("torch", (), (r"50 steps, 1 incident\(s\): 1 nonfinite; recovered", r"micro-batch 3 of 4")),
    "plain_pytorch": ("torch", (), (r"200 steps, 2 incident\(s\): 2 nonfinite; recovered", r"last loss 0\.0")),
    "fabric": ("lightning", (), (r"100 steps, ", r"last loss 0\.[0-2]")),
    "transformers_trainer": (
        "transformers",
        (),
        (r"200 steps, 2 incident\(s\): 2 nonfinite; recovered", r"micro-batch 1 of 2"),
    ),
    "gan": ("torch", (), (r"optimizer 1, step 50: nonfinite in critic\.0", r"2 incident\(s\): 2 nonfinite; recovered")),
    "resume_after_kill": ("torch", (), (r"ended with exit code 9", r"ends with the same weights: True")),
    "optuna_search": ("optuna", (), (r"[1-5] trials pruned, best",)),
}


def run(script: str, arguments: tuple[str, ...], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLES / f"{script}.py"), *arguments],
        capture_output=True, text=True, timeout=200, cwd=folder, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_runs(script: str, tmp_path: Path) -> None:
    needs, arguments, patterns = SCRIPTS[script]
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}")
    told = run(script, arguments, tmp_path)
    for pattern in patterns:
        assert re.search(pattern, told), f"{pattern} is not in\n{told[-3000:]}"


def test_two_processes_keep_the_same_weights(tmp_path: Path) -> None:
    told = run("ddp_two_processes", (), tmp_path)
    assert "(process 1, 321 in the dataset) contains NaN; SkipStep" in told
    weights = re.findall(r"sum of the weights (-?\d+\.\d+)", told)
    assert len(weights) == 2
    assert len(set(weights)) == 1


def test_every_example_is_short_and_on_the_page() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for script in EXAMPLES.glob("*.py"):
        assert f"(../examples/{script.name})" in page, script.name
    for script in (*SCRIPTS, "ddp_two_processes"):
        assert len((EXAMPLES / f"{script}.py").read_text(encoding="utf-8").splitlines()) <= 60, script
