"""The tables of docs/support.md are those of a passing run, and the example with two processes runs."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_a_passing_run_prints() -> None:
    support = runpy.run_path(str(ROOT / "benchmarks" / "support.py"))
    assert support["PAGE"].read_text() == support["page"](lambda test: True)


def test_every_cell_names_an_existing_test() -> None:
    support = runpy.run_path(str(ROOT / "benchmarks" / "support.py"))
    wanted = support["tests"]()
    files = sorted({test.partition("::")[0] for test in wanted})
    quiet = ("-o", "addopts=", "-q", "--collect-only", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *quiet, *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout.splitlines()
    assert set(wanted) <= set(listed)


def test_two_processes_on_a_cpu() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "fsdp2_two_processes.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    told = [run.stdout.partition(f"process {rank}: ")[2].partition("\n")[0] for rank in (0, 1)]
    assert (
        told[0] == "step 5: nonfinite in net.0, net.2, net.4: loss is nan, gradient is not finite; SkipStep; resolved"
    )
    assert told[1].startswith(told[0])
