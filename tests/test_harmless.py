"""A short form of `benchmarks/harmless.py`: healthy runs end with the same bits, and nothing is said about them."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn")
from harmless import judge

#: A schedule has to come to its end; the others show what they are in a third of the steps.
WHOLE = ("momentum_cosine_to_zero", "adam_one_cycle", "rmsprop_steps", "second_task")
SHORT = (
    "sgd_constant", "nesterov_warm_restarts", "adamw_warmup_cosine", "adagrad_constant", "warmup_by_epochs",
    "accumulation_and_clip", "batch_of_one", "batch_of_four_with_batchnorm", "rare_class_batch_of_one",
    "heavy_tailed_targets", "strong_dropout", "small_data_memorised", "batchnorm_input_layer", "sigmoid_plateau",
    "relu_small_init_plateau", "frozen_first_layer", "gradual_unfreezing", "autoencoder", "wide_catapult",
    "tanh_rnn_sgd", "lstm_adding_momentum", "sparse_embedding", "regression_to_zero", "hinge_to_exactly_zero",
    "rmsprop_line", "gaussian_likelihood", "policy_gradient", "q_learning", "gan",
)  # fmt: skip


@pytest.mark.parametrize(("name", "steps"), [*((n, 1000) for n in WHOLE), *((n, 300) for n in SHORT)])
def test_the_guard_leaves_a_healthy_run_alone(name: str, steps: int) -> None:
    (verdict,) = judge(name, seed=0, steps=steps).values()
    assert verdict.harmless, verdict


def test_a_tool_that_changes_a_run_is_seen() -> None:
    verdicts = judge("heavy_tailed_targets", seed=0, steps=50, tools=("no guard", "clip 1.0"))
    assert {tool: verdict.word for tool, verdict in verdicts.items()} == {"no guard": "same", "clip 1.0": "changed"}
