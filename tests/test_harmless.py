"""A short form of `benchmarks/harmless.py`: healthy runs end with bit-identical weights and without a finding."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn")
from harmless import judge

#: Recipes whose difficulty comes late: the end of a schedule, a second task, a rare class. With their seeds.
WHOLE = {
    "momentum_cosine_to_zero": 0, "adam_one_cycle": 0, "warmup_by_epochs": 0, "second_task": 0, "batch_of_one": 0,
    "rare_class_batch_of_one": 1,
}  # fmt: skip
SHORT = (
    "sgd_constant", "nesterov_warm_restarts", "adamw_warmup_cosine", "adagrad_constant", "rmsprop_steps",
    "accumulation_and_clip", "batch_of_four_with_batchnorm", "heavy_tailed_targets", "small_data_memorised",
    "batchnorm_input_layer", "frozen_first_layer", "autoencoder", "wide_catapult", "tanh_rnn_sgd", "sparse_embedding",
    "regression_to_zero", "hinge_to_exactly_zero", "rmsprop_line", "gaussian_likelihood", "policy_gradient",
    "q_learning", "gan",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "seed", "steps"), [*((n, seed, 1000) for n, seed in WHOLE.items()), *((n, 0, 300) for n in SHORT)]
)
def test_a_healthy_run_is_not_changed(name: str, seed: int, steps: int) -> None:
    (verdict,) = judge(name, seed, steps).values()
    assert verdict.harmless, verdict


def test_a_tool_that_changes_a_run_is_detected() -> None:
    verdicts = judge("heavy_tailed_targets", seed=0, steps=50, tools=("no guard", "clip 1.0"))
    assert {tool: verdict.word for tool, verdict in verdicts.items()} == {"no guard": "same", "clip 1.0": "changed"}
