"""ACT: more weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.arguments import require_number
from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.optimization import decay_rate
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class IncreaseWeightDecay(AbstractRemedy):
    """Raises the optimizer's weight decay for the rest of the run.

    The product of decay, learning rate and steps tells by how many factors of e a weight decays within the run. So the
    new decay is `times / (learning rate * planned steps)`, where an SGD's momentum m counts as a learning rate that is
    1 / (1 - m) times as large. A larger decay of the user's stays. Where some groups have a decay and others none
    (biases, norms), the latter stay without. Adam without a decay gets the decoupled one.

    Do not put it into a `TryEach`, which compares training losses: weight decay raises the training loss.

    Args:
        times: Factors of e by which a weight decays within the run. Default chosen: about as in the cure of the zoo's
            `weight_growth`, where 0.2 * 0.03 * 900 is 5.4.

    Raises:
        ValueError: If `times` is not positive.

    References:
        Krogh and Hertz 1991; Loshchilov and Hutter 2019, arXiv 1711.05101; Wang and Aitchison 2024, arXiv 2405.13698
        (time scale of weight decay).
    """

    cause: ClassVar[str] = "weight_growth"
    times: float = 5.0

    def __post_init__(self) -> None:
        require_number("IncreaseWeightDecay(times=...)", self.times, above=0)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        groups = [group for group in step.optimizer.param_groups if "weight_decay" in group and "lr" in group]
        decayed = [group for group in groups if group["weight_decay"]]
        changes = []
        for group in decayed or groups:
            rate = decay_rate(group, step.lr_factor.base)
            if rate <= 0:
                continue
            before, after = (
                float(group["weight_decay"]),
                self.times / (rate * (step.stats.total_steps or DEFAULT_TOTAL_STEPS)),
            )
            if after > before:
                decoupled = {"decoupled_weight_decay": True} if "decoupled_weight_decay" in group and not before else {}
                step.set_hyperparameters(group, weight_decay=after, **decoupled)
                changes.append(f"increased weight decay from {before:.3g} to {after:.3g}")
        return self.did(changes[0]) if changes else None
