"""A run killed with SIGKILL between two checkpoints and resumed decides like one that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "resume_run.py"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(SCRIPT.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def last_words(log: Path) -> list[dict[str, Any]]:
    """The last line about every episode, as a reader of the log sees it; without the time of day."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        assert line["origin"].pop("time")
    return list({(line["kind"], line["first_step"]): line for line in lines}.values())


@pytest.mark.parametrize("kill_at", ["131", "167"])
def test_killed_and_resumed_decides_the_same(tmp_path: Path, kill_at: str) -> None:
    whole = run(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    killed = run(tmp_path / "killed", "--kill-at", kill_at)
    assert killed.returncode == -signal.SIGKILL
    resumed = run(tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    expected = last_words(tmp_path / "whole" / "incidents.jsonl")
    assert {line["kind"] for line in expected} >= {"nonfinite", "lr_jump", "damaged_weights"}
    assert last_words(tmp_path / "killed" / "incidents.jsonl") == expected
    assert whole.stdout.splitlines()[-1] == resumed.stdout.splitlines()[-1], "the final weights differ"
