"""DIAGNOSE: a loss function that is not given what it wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_gradguard.collect.loss_calls import DIFFERENCE, LOGARITHMS, LOGITS, REGRESSION, LossCall
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors.base import AbstractDetector, State, require
from lightning_gradguard.findings import Finding

#: Activations whose output cannot be a logit.
NO_LOGITS = frozenset(("softmax", "sigmoid", "special_expit", "hardsigmoid", "relu", "relu6"))


@dataclass(frozen=True)
class LossMismatch(AbstractDetector):
    """Reports a loss function whose input is not what it wants: a mistake in the program, which no guard can repair.

    A softmax or sigmoid before a loss that takes logits; a softmax over a single unit; logits or probabilities in
    `nll_loss`, which takes log-probabilities; a bounded output for targets beyond its bounds; the logarithm of a ReLU;
    one class; outputs and targets whose shapes differ, so that every output is compared with every target. The finding
    is repeated until a sample does not show it, so there is one incident, open to the end of the run.

    Only what is written with the functions of `torch.nn.functional` (or as an output minus a target) is seen.

    Args:
        outside: Share of the targets beyond the bounds of the output from which on they are reported. Chosen.
        name: Key of the state.

    Raises:
        ValueError: If `outside` is not between 0 and 1.

    Example:
        >>> from lightning_gradguard.collect.activation_stats import ActivationStats
        >>> sample = ActivationStats(losses=(LossCall("cross_entropy", "softmax", 10),))
        >>> detector = LossMismatch()
        >>> stats = GradStats.of({"net.0": 1.0}, step=0, activation_stats=sample)
        >>> print(*detector.update(detector.init(), stats)[1])
        step 0: loss_mismatch: cross_entropy takes logits, but its input comes from softmax: leave the softmax out
    """

    kind: ClassVar[str] = "loss_mismatch"
    page: ClassVar[str] = "data_and_loss"
    outside: float = 0.05
    name: str = "loss_mismatch"

    def __post_init__(self) -> None:
        require(0 < self.outside < 1, "LossMismatch(outside=...)", "must be between 0 and 1", self.outside)

    def advise(self, finding: Finding, stats: GradStats) -> str:
        return "change how the loss function is called; no policy can"

    def init(self) -> State:
        return {"detail": ""}

    def renew(self, state: State, improved: bool) -> State:
        return state  # the loss function is still the same

    def update(self, state: State, stats: GradStats) -> tuple[State, tuple[Finding, ...]]:
        if stats.activation_stats is not None:
            mistakes = dict.fromkeys(map(self.mistake, stats.activation_stats.losses))
            state = {"detail": "; ".join(filter(None, mistakes))}
        return state, (Finding(self.kind, stats.step, detail=state["detail"]),) if state["detail"] else ()

    def mistake(self, call: LossCall) -> str:
        """What is wrong with a call, and what to do; empty when nothing is."""
        name, after = call.function, call.after
        if after == "softmax" and call.width == 1 and name != "cross_entropy":
            return "softmax over a single unit is always 1: use a sigmoid, or two units"
        if name in ("cross_entropy", "nll_loss") and call.width == 1:
            return f"{name} over a single class is always 0: use binary_cross_entropy_with_logits, or two classes"
        if name in LOGITS and after in NO_LOGITS:
            return f"{name} takes logits, but its input comes from {after}: leave the {after} out"
        if name == "nll_loss" and (after == "softmax" or call.high > 1e-6):
            return "nll_loss takes log-probabilities, but its input has numbers above 0: put log_softmax before it"
        if name in LOGARITHMS and after == "relu":
            return "the logarithm of a ReLU's output is -inf wherever the ReLU is 0: use softmax and cross_entropy"
        if call.broadcast:
            return f"{name} compares every output with every target, as their shapes are {call.broadcast}"
        if (name in REGRESSION or name == DIFFERENCE) and call.outside > self.outside:
            return f"{call.outside:.0%} of the targets are beyond what {after} can reach: use a linear output"
        return ""
