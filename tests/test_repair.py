"""The reduced repair benchmark: failing programs under `policy="repair"`, and twins that must not be changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "repair")]

QUICK = [
    "ones_before_tanh", "zeros_everywhere", "relus_of_mean_three_halves", "biases_of_minus_ten", "raw_wine",
    "line_far_away", "momentum_of_a_thousand_steps", "transformer_at_one_half", "one_record_of_nan", "flipped_bits",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    import importlib.util

    spec = importlib.util.spec_from_file_location("repair_bench", BENCHMARKS / "repair" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["repair_bench"] = module
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", QUICK)
def test_a_failing_run_is_detected_and_repaired(bench, name: str) -> None:
    alone = bench.judge(name, True, "no guard", 0)
    guarded = bench.judge(name, True, "GradGuard repair", 0)
    assert not alone.success
    assert guarded.right is not None, guarded.incidents
    assert guarded.success, (guarded.quality, guarded.incidents)


@pytest.mark.parametrize("name", QUICK)
def test_its_healthy_twin_is_not_changed(bench, name: str) -> None:
    twin = bench.judge(name, False, "GradGuard repair", 0)
    assert twin.success
    assert not twin.incidents
    assert twin.weights == bench.judge(name, False, "no guard", 0).weights


def test_a_program_error_ends_as_a_finding_and_an_open_incident(bench) -> None:
    ending = bench.judge("softmax_of_one", True, "GradGuard repair", 0)
    assert ending.right is not None
    assert not ending.success
