"""Where GradGuard works: runs the tests behind every cell of the matrix and writes the tables of `docs/support.md`.

    python benchmarks/support.py            # about three minutes on two cores
    python benchmarks/support.py --check    # only checks that the tables are those of a passing run

A cell is "yes (tested)" only if every test named for it has passed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "support.md"
MARK = "<!-- from here on printed by benchmarks/support.py -->"
COLUMNS = ("statistics", "clip", "skip", "LR", "rollback", "resume")
HEAD = [f"|  | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
REMEDIES = ("test_statistics", "test_clip", "test_skip", "test_learning_rate", "test_rollback", "test_resume")
MANY = (
    "test_numbers_are_those_of_one_process", "test_clipping_reaches_every_piece",
    "test_trouble_of_one_process_is_skipped_exactly_by_all", "test_learning_rate_is_reduced_and_stays_the_users",
    "test_rollback_is_bit_exact", "test_a_resumed_run_goes_on_as_if_it_had_not_ended",
)  # fmt: skip


def remedies(cell: str) -> list[str]:
    return [f"tests/test_every_remedy.py::{test}[{cell}]" for test in REMEDIES]


def many(cell: str) -> list[str]:
    return [f"tests/test_distributed.py::{test}[{cell}]" for test in MANY]


def batchnorm() -> list[str]:
    return ["tests/test_distributed.py::test_buffers_of_all_processes_are_judged", *many("ddp_batchnorm")[1:]]


YES, MONITORS, UNTESTED = "yes (tested)", "monitors only", "untested"
#: Heading -> row -> for each column a test, or the text of the cell.
TABLE: dict[str, dict[str, list[str]]] = {
    "Precision": {
        "`32-true`": remedies("32-true"),
        "`64-true`": [
            *remedies("64-true")[:5],
            "as float32: Lightning loads the weights into a float32 module and converts it to double afterwards",
        ],
        "`bf16-mixed`": remedies("bf16-mixed"),
        "`bf16-true`": remedies("bf16-true"),
        "`16-true`": remedies("16-true"),
        "`16-mixed`, GradScaler": remedies("16-mixed"),
        "`16-mixed`, fused optimizer": remedies("16-mixed, fused"),
        "`bf16-mixed`, fused optimizer": remedies("bf16-mixed, fused"),
        "`32-true`, fused optimizer": remedies("32-true, fused"),
    },
    "Loops": {
        "automatic optimization": remedies("automatic"),
        "gradient accumulation": remedies("accumulation"),
        "manual optimization": remedies("manual"),
        "manual, with a closure": remedies("closure"),
        "several optimizers (a GAN)": remedies("several optimizers"),
        "LBFGS (one evaluation a step)": remedies("LBFGS"),
        "groups added by `BackboneFinetuning`": [
            *remedies("added groups")[:5],
            "not possible: Lightning leaves the backbone frozen after a resume within an epoch",
        ],
        "`self.optimizers(use_pl_optimizer=False)`": ["not possible: no hook is called (warns once)"] * 6,
        "`torch.compile`": [
            "tests/test_compile.py::test_no_break_and_no_recompilation[whole]",
            *remedies("compiled part")[1:],
        ],
    },
    "Gradients": {
        "frozen": remedies("frozen"),
        "unused (None)": remedies("unused"),
        "tied": remedies("tied"),
        "sparse": remedies("sparse"),
        "complex": remedies("complex"),
        "empty": remedies("empty"),
        "LoRA": remedies("LoRA"),
    },
    "Strategies": {
        "DDP": many("ddp"),
        "DDP, `static_graph`, `gradient_as_bucket_view`": many("ddp_static"),
        "DDP, accumulation under `no_sync`": many("ddp_accumulate"),
        "DDP, BatchNorm": batchnorm(),
        "FSDP1, `use_orig_params=True`": many("fsdp1"),
        "FSDP1, `use_orig_params=False`": many("fsdp1_flat"),
        "FSDP2 (`ModelParallelStrategy`)": many("fsdp2"),
        "HSDP": many("hsdp"),
        "tensor parallel": many("tp"),
        "FSDP2 × tensor parallel": many("fsdp_tp"),
        "DeepSpeed": [
            "monitors only: loss and buffers",
            *["not possible: DeepSpeed's engine takes the step"] * 4,
            MONITORS,
        ],
    },
    "Accelerators": {
        "CPU": remedies("automatic"),
        "CUDA": [f"{UNTESTED}; the tests marked `gpu` need a device"] * 6,
        "MPS": [UNTESTED] * 6,
        "XLA": [UNTESTED] * 6,
    },
}


class Outcomes:
    """A pytest plug-in that records which tests have passed."""

    def __init__(self) -> None:
        self.passed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


def tests() -> list[str]:
    """Every test behind a cell."""
    cells = [cell for rows in TABLE.values() for row in rows.values() for cell in row]
    return sorted({cell for cell in cells if cell.startswith("tests/")})


def row_of(name: str, cells: list[str], passed: Callable[[str], bool]) -> str:
    shown = [(YES if passed(c) else "**its test fails**") if c.startswith("tests/") else c for c in cells]
    return f"| {name} | {' | '.join(shown)} |"


def page(passed: Callable[[str], bool]) -> str:
    """The page, for the tests that pass."""
    lines = [PAGE.read_text().partition(MARK)[0] + MARK]
    for heading, rows in TABLE.items():
        lines += ["", f"## {heading}", "", *HEAD, *(row_of(name, cells, passed) for name, cells in rows.items())]
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    if check:
        return int(PAGE.read_text() != page(lambda test: True))
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *tests()], plugins=[outcomes])
    text = page(outcomes.passed.__contains__)
    PAGE.write_text(text)
    print(text)
    return int("its test fails" in text)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
