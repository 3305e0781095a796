"""What was seen, in words and numbers.

A `Finding` is what one detector says of one step. An `Incident` groups the findings of one episode with what was
done about them. Kinds are open strings: each detector declares its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lightning_gradguard.collect.stats import GradStats

#: How an incident ended. "open" means the run ended, or goes on, with the symptom still there.
RESOLVED, OPEN, UNRECOVERABLE = "resolved", "open", "unrecoverable"


@dataclass(frozen=True)
class Finding:
    """One detector's statement about one optimizer step.

    Args:
        kind: The symptom, as declared by the detector, e.g. `"exploding"`.
        step: Optimizer step of this fit, counted from 0.
        layers: Layers concerned, worst first; empty when the whole model (or the loss) is meant.
        value: The number that crossed the limit.
        limit: The limit it crossed, in the same unit as `value`.
        detail: One clause for people, with the number, its unit and the limit.

    Example:
        >>> print(Finding("exploding", 412, ("net.2",), 9.1e5, 24.0, "gradient norm is 9.1e+05 (limit 24)"))
        step 412: exploding in net.2: gradient norm is 9.1e+05 (limit 24)
    """

    kind: str
    step: int
    layers: tuple[str, ...] = ()
    value: float = math.nan
    limit: float = math.nan
    detail: str = ""

    def __str__(self) -> str:
        return f"step {self.step}: {describe(self.kind, self.layers, self.detail)}"


@dataclass(frozen=True)
class Incident:
    """The findings of one episode of one kind, and what was done.

    Args:
        kind: As in `Finding`.
        first_step: Step of the first finding.
        last_step: Step of the last finding so far.
        layers: Every layer named in the episode, in order of appearance.
        actions: Names of the remedies applied, in order; a remedy repeated without another between is named once,
            so that an incident stays small however long it lasts.
        outcome: `"resolved"`, `"open"` or `"unrecoverable"`.
        count: Number of findings in the episode.
        value: The worst value seen.
        limit: The limit at that moment.
        detail: The clause of the finding with that value.
        optimizer: Which optimizer, by index, when there are several; otherwise empty.

    Example:
        >>> first = Incident.start(Finding("nonfinite", 7, detail="loss is nan"), actions=("SkipStep",))
        >>> later = first.extended(Finding("nonfinite", 8, detail="loss is nan"), actions=("SkipStep",))
        >>> print(later.closed("resolved"))
        steps 7-8: nonfinite: loss is nan, 2 findings; SkipStep; resolved
    """

    kind: str
    first_step: int
    last_step: int
    layers: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    outcome: str = OPEN
    count: int = 1
    value: float = math.nan
    limit: float = math.nan
    detail: str = ""
    optimizer: str = ""

    @classmethod
    def start(cls, finding: Finding, actions: Iterable[str] = (), optimizer: str = "") -> Incident:
        """Opens an incident with its first finding."""
        return cls(
            finding.kind, finding.step, finding.step, finding.layers, tuple(actions),
            value=finding.value, limit=finding.limit, detail=finding.detail, optimizer=optimizer,
        )  # fmt: skip

    def extended(self, finding: Finding, actions: Iterable[str] = ()) -> Incident:
        """The same incident with one more finding."""
        layers = tuple(dict.fromkeys((*self.layers, *finding.layers)))
        taken = tuple(actions)
        repeated = self.actions[len(self.actions) - len(taken) :] == taken
        worse = finding.value > self.value or (math.isnan(self.value) and not math.isnan(finding.value))
        worst: Finding | Incident = finding if worse else self
        return replace(
            self, last_step=finding.step, layers=layers, count=self.count + 1,
            value=worst.value, limit=worst.limit, detail=worst.detail,
            actions=self.actions if repeated else (*self.actions, *taken),
        )  # fmt: skip

    def closed(self, outcome: str) -> Incident:
        """The same incident with its final `outcome`."""
        return replace(self, outcome=outcome)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to `incidents.jsonl`; non-finite numbers become text so that it stays JSON."""
        plain = {**asdict(self), "layers": list(self.layers), "actions": list(self.actions)}
        for key in ("value", "limit"):
            plain[key] = plain[key] if math.isfinite(plain[key]) else str(plain[key])
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Incident:
        """The reverse of `to_dict`."""
        fields = {**plain, "layers": tuple(plain["layers"]), "actions": tuple(plain["actions"])}
        return cls(**{**fields, "value": float(plain["value"]), "limit": float(plain["limit"])})

    @property
    def steps(self) -> str:
        """First and last step: `7`, or `7-16`."""
        return f"{self.first_step}" + (f"-{self.last_step}" if self.last_step > self.first_step else "")

    def __str__(self) -> str:
        steps = f"step{'s' * ('-' in self.steps)} {self.steps}"
        what = describe(self.kind, self.layers, self.detail)
        times = f", {self.count} findings" if self.count > 1 else ""
        where = f"optimizer {self.optimizer}, " if self.optimizer else ""
        return f"{where}{steps}: {what}{times}; {', '.join(self.actions) or 'no action'}; {self.outcome}"


def describe(kind: str, layers: tuple[str, ...], detail: str) -> str:
    """Symptom, layers and clause: `exploding in net.2: gradient norm is 9.1e+05 (limit 24)`."""
    where = f" in {shortlist(layers)}" if layers else ""
    return f"{kind}{where}" + (f": {detail}" if detail else "")


def shortlist(names: tuple[str, ...], most: int = 3) -> str:
    """The first `most` names and how many more there are.

    Example:
        >>> shortlist(("a", "b", "c", "d", "e"))
        'a, b, c and 2 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


#: Every scalar's name begins with this, in every logger.
PREFIX = "gradguard"


#: Percentiles over layers that stand for all layers in stock charts: 5 curves, however many layers there are.
PERCENTILES = (0, 25, 50, 75, 100)


@dataclass(frozen=True, eq=False)
class StepReport:
    """One optimizer step: what was measured, found and done.

    Args:
        stats: The measurements, before any clipping.
        findings: What the detectors said.
        actions: What was done, one sentence for each remedy, in order.
        clip_coefficient: What the gradients were multiplied by; 1 when nothing was clipped.
        skipped: Whether the step was cancelled.
        lr_factor: What the user's learning rate was multiplied by.
        limit: The gradient-norm limit in force, NaN while there is none.
        optimizer: The optimizer's index when there are several; otherwise empty.
        stop_reason: Why training should end, if it should.
    """

    stats: GradStats
    findings: tuple[Finding, ...] = ()
    actions: tuple[str, ...] = ()
    clip_coefficient: float = 1.0
    skipped: bool = False
    lr_factor: float = 1.0
    limit: float = math.nan
    optimizer: str = ""
    stop_reason: str = ""

    @property
    def prefix(self) -> str:
        """Start of this optimizer's scalar names: `gradguard`, or `gradguard/1` for the second of several."""
        return f"{PREFIX}/{self.optimizer}" if self.optimizer else PREFIX

    def scalars(self) -> dict[str, float]:
        """Every scalar worth a curve, by its full name; unknown ones are left out."""
        norm = self.stats.global_norm
        curves = {
            "grad_norm": norm,
            "grad_norm_clipped": 0.0 if self.skipped else norm * self.clip_coefficient,
            "grad_norm_limit": self.limit,
            "clip_coefficient": 0.0 if self.skipped else self.clip_coefficient,
            "lr_factor": self.lr_factor,
            "lr": self.stats.lr,
            "depth_slope": self.stats.depth_slope,
            "loss": math.nan if self.stats.loss is None else self.stats.loss,
        }
        usable = self.stats.grad_norm[np.isfinite(self.stats.grad_norm)]
        if len(usable):
            bands = np.percentile(usable, PERCENTILES)
            curves |= {f"layer_norm/p{p}": float(v) for p, v in zip(PERCENTILES, bands, strict=True)}
        measured = ("grad_norm", "loss")
        return {f"{self.prefix}/{k}": v for k, v in curves.items() if k in measured or math.isfinite(v)}


def layers_of(findings: Iterable[Finding]) -> Sequence[str]:
    """Every layer named by `findings`, in order, once."""
    return list(dict.fromkeys(name for finding in findings for name in finding.layers))
