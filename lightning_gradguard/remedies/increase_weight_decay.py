"""ACT: weights that shrink unless the data want them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.loss_trend import DEFAULT_TOTAL_STEPS
from lightning_gradguard.findings import Finding
from lightning_gradguard.fixes.optimization import decay_rate
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class IncreaseWeightDecay(AbstractRemedy):
    """Raises the optimizer's weight decay for good, so far that only weights last which the data go on asking for.

    What counts is not the decay but how often it forgets a weight within the run: decay times learning rate times
    steps. So the new decay is `times / (learning rate * planned steps)`, with an SGD's momentum m counted as a rate
    1 / (1 - m) times as large; a larger decay of the user's stays. Where some groups have a decay and others none
    (biases, norms), the latter go on without. Adam without a decay gets the decoupled one.

    It is nothing for a `TryEach`, which judges by the training loss: decay raises that. It is a rung of its own.

    Args:
        times: Times that the run forgets a weight by a factor of e. Chosen: about as in the cure of the zoo's
            `weight_growth`, where 0.2 * 0.03 * 900 is 5.4.

    Raises:
        ValueError: If `times` is not positive.

    References:
        Krogh and Hertz 1991; Loshchilov and Hutter 2019, arXiv 1711.05101; Wang and Aitchison 2024, arXiv 2405.13698
        (the time that a decay remembers).
    """

    reversible: ClassVar[bool] = False
    cures: ClassVar[str] = "weight_growth"
    times: float = 5.0

    def __post_init__(self) -> None:
        if self.times <= 0:
            raise ValueError(f"`IncreaseWeightDecay(times=...)` must be positive, got {self.times!r}.")

    def apply(self, finding: Finding, step: PendingStep) -> str:
        groups = [group for group in step.optimizer.param_groups if "weight_decay" in group and "lr" in group]
        decayed = [group for group in groups if group["weight_decay"]]
        words = ""
        for group in decayed or groups:
            rate = decay_rate(group, step.lr_scale.base)
            if rate <= 0:
                continue
            before, after = (
                float(group["weight_decay"]),
                self.times / (rate * (step.stats.total_steps or DEFAULT_TOTAL_STEPS)),
            )
            if after > before:
                if not before and "decoupled_weight_decay" in group:
                    group["decoupled_weight_decay"] = True
                group["weight_decay"] = after
                words = words or f"weight decay {before:.3g} to {after:.3g}"
        return words
