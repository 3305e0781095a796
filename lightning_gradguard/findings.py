"""The plain values that travel between the rooms.

A `Finding` is what one detector reports about one step, an `Action` what one remedy did about it, a `TrialEvent` what
an experiment with remedies has shown. An `Incident` groups the findings of one episode with what was done about them, a
`StepReport` holds everything about one step. Kinds are open strings: each detector declares its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lightning_gradguard.collect.stats import GradStats

#: How an incident ended. "open" means the run ended, or goes on, with the symptom still there; "degraded" that the
#: symptom has ended, but the run ended with a loss above the one before the incident.
RESOLVED, OPEN, DEGRADED, UNRECOVERABLE = "resolved", "open", "degraded", "unrecoverable"
#: Outcomes of a run, beside "degraded" and "unrecoverable".
HEALTHY, RECOVERED = "healthy", "recovered"
#: What has become of remedies that an experiment tried: the run goes on with them, or they did not reach it.
KEPT, UNDONE = "kept", "undone"
#: What an experiment reports beside `KEPT`: something is clearly better, and the run was left as it is; or nothing is.
PROPOSED, EXHAUSTED = "proposed", "exhausted"
#: Every scalar's name begins with this, in every logger.
PREFIX = "gradguard"
#: Samples that an incident names. Chosen.
MOST_SAMPLES = 1000
#: Percentiles over layers that stand for all layers in stock charts: 5 curves, however many layers there are.
PERCENTILES = (0, 25, 50, 75, 100)
#: Further findings that an incident keeps. Chosen.
MOST_SYMPTOMS = 10
#: Sets of remedies that an incident names. Chosen.
MOST_TRIALS = 1000
#: Sets of remedies that tab and report show of an incident. Chosen.
SHOWN_TRIALS = 12
#: Fields of an incident that are numbers and may be NaN.
NUMBERS = ("value", "limit", "loss_before", "loss_after")


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
        samples: Indices in the dataset of the samples meant; empty when none are meant or they are not known.
        is_notice: Whether it is about the program and tells nothing of how the run stands.

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
    samples: tuple[int, ...] = ()
    is_notice: bool = False

    @property
    def summary(self) -> str:
        """The finding without its step."""
        return describe(self.kind, self.layers, self.detail)

    def __str__(self) -> str:
        return f"step {self.step}: {self.summary}"


@dataclass(frozen=True)
class Action:
    """What one remedy did.

    Args:
        name: The remedy's display name, e.g. `"AdaptiveClip"`.
        summary: What was done, as a clause in the past tense.

    Example:
        >>> print(Action("AdaptiveClip", "clipped the gradient norm from 9.1e+05 to 24"))
        clipped the gradient norm from 9.1e+05 to 24
    """

    name: str
    summary: str

    def __str__(self) -> str:
        return self.summary


@dataclass(frozen=True)
class Trial:
    """A set of remedies that was tried in an experiment beside the run.

    Args:
        remedies: Display names of the remedies.
        outcome: `"kept"` or `"undone"`.
        loss: Mean loss of the last third of the steps that it was given; inf when they could not be taken.
    """

    remedies: str
    outcome: str = UNDONE
    loss: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data; a loss that is not finite becomes text so that it stays JSON."""
        return {**asdict(self), "loss": as_json(self.loss)}


@dataclass(frozen=True)
class TrialEvent:
    """The outcome of an experiment between two steps.

    Args:
        kind: `KEPT`: the run goes on with what was clearly better. `PROPOSED`: something was, and the run was left as
            it is. `EXHAUSTED`: nothing was.
        about: Kind of the finding that the experiment is about; empty when it was about none.
        remedies: Display names of the remedies that were kept.
        summary: What they did.
        cause: What was wrong with the run if these remedies help: the kind of a finding.
        loss: Mean loss with them, over the last third of the steps that were taken again.
        before: Mean loss of the run over the same steps; inf where it was not finite.
        trials: Every set of remedies that was tried.
        advice: What is left for the user to do, when nothing was kept.
    """

    kind: str
    about: str = ""
    remedies: str = ""
    summary: str = ""
    cause: str = ""
    loss: float = math.nan
    before: float = math.nan
    trials: tuple[Trial, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        if self.kind != EXHAUSTED:
            did = "kept " if self.kind == KEPT else "would keep "
            return (
                f"{did}{self.remedies} ({self.summary}): beside the run its loss was {self.loss:.3g} over the same "
                f"steps, the run's {self.before:.3g}"
            )
        return f"tried {len(self.trials)} sets of remedies beside the run, none was clearly better"

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TrialEvent:
        """The reverse of `asdict`."""
        return cls(**{**plain, "trials": tuple(Trial(**trial) for trial in plain["trials"])})


@dataclass(frozen=True)
class Origin:
    """When and where an incident began, as far as it is known. No decision depends on it.

    Args:
        time: Of the first finding, UTC, in the form of ISO 8601; empty when unknown.
        epoch: Counted from 0.
        batch: Index of the batch in the epoch.
        rank: The process that trained on the batch with the worst sample, in a run of several processes.
        lr: Largest learning rate of the step, after any reduction by the guard.
    """

    time: str = ""
    epoch: int | None = None
    batch: int | None = None
    rank: int | None = None
    lr: float | None = None


@dataclass(frozen=True)
class Symptom:
    """What another detector reported on a step that an incident's actions answered.

    Args:
        kind: As in `Finding`.
        detail: As in `Finding`.
    """

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return describe(self.kind, (), self.detail)


@dataclass(frozen=True)
class Incident:
    """The findings of one episode of one kind, and what was done.

    Args:
        kind: As in `Finding`.
        first_step: Step of the first finding.
        last_step: Step of the last finding so far.
        layers: Every layer named in the episode, in order of appearance.
        actions: Names of the remedies that did something, in order; a remedy repeated without another between is named
            once, so that an incident stays small however long it lasts.
        symptoms: Further findings on the same steps, which the same actions answered; the first `MOST_SYMPTOMS`.
        trials: Sets of remedies that were tried beside the run, with their losses, at most a thousand.
        advice: What to change by hand: what the detector advises, or the experiment where there was one.
        outcome: `"resolved"`, `"open"`, `"degraded"` or `"unrecoverable"`.
        loss_before: The median loss before the incident; NaN when it is not known.
        loss_after: The median loss after it; NaN while it is open.
        count: Number of findings in the episode.
        value: The worst value seen.
        limit: The limit at that moment.
        detail: The clause of the finding with that value.
        optimizer: Which optimizer, by index, when there are several; otherwise empty.
        samples: Indices in the dataset of the samples meant, at most a thousand.
        is_notice: As in `Finding`: the outcome of the run does not depend on it.
        origin: When and where it began. Two incidents that differ in nothing else are equal.

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
    symptoms: tuple[Symptom, ...] = ()
    trials: tuple[Trial, ...] = ()
    advice: str = ""
    outcome: str = OPEN
    loss_before: float = math.nan
    loss_after: float = math.nan
    count: int = 1
    value: float = math.nan
    limit: float = math.nan
    detail: str = ""
    optimizer: str = ""
    samples: tuple[int, ...] = ()
    is_notice: bool = False
    origin: Origin = field(default=Origin(), compare=False, repr=False)

    @classmethod
    def start(
        cls,
        finding: Finding,
        actions: Iterable[str] = (),
        optimizer: str = "",
        loss_before: float = math.nan,
        advice: str = "",
    ) -> Incident:
        """Opens an incident with its first finding."""
        return cls(
            finding.kind, finding.step, finding.step, finding.layers, tuple(actions), loss_before=loss_before,
            value=finding.value, limit=finding.limit, detail=finding.detail, optimizer=optimizer,
            samples=finding.samples, is_notice=finding.is_notice, advice=advice,
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
            samples=tuple(dict.fromkeys((*self.samples, *finding.samples)))[:MOST_SAMPLES],
        )  # fmt: skip

    def tried(self, event: TrialEvent) -> Incident:
        """The same incident after an experiment about it."""
        trials = (*self.trials, *event.trials)[-MOST_TRIALS:]
        new = event.kind == KEPT and self.actions[-1:] != (event.remedies,)
        actions = (*self.actions, event.remedies) if new else self.actions
        advice = event.advice or ("" if event.kind == KEPT else self.advice)
        return replace(self, trials=trials, actions=actions, advice=advice)

    @property
    def best_trials(self) -> tuple[Trial, ...]:
        """What was kept, then the best of the others: what is shown of an experiment."""
        return tuple(sorted(self.trials, key=lambda trial: (trial.outcome != KEPT, trial.loss)))[:SHOWN_TRIALS]

    def with_symptoms(self, findings: Sequence[Finding]) -> Incident:
        """The same incident with further findings that its actions answered."""
        further = (Symptom(finding.kind, finding.detail) for finding in findings)
        symptoms = tuple(dict.fromkeys((*self.symptoms, *further)))[:MOST_SYMPTOMS]
        samples = dict.fromkeys((*self.samples, *(sample for finding in findings for sample in finding.samples)))
        return replace(self, symptoms=symptoms, samples=tuple(samples)[:MOST_SAMPLES])

    def closed(self, outcome: str, loss_after: float = math.nan) -> Incident:
        """The same incident with its final `outcome`."""
        return replace(self, outcome=outcome, loss_after=loss_after)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as written to `incidents.jsonl`; non-finite numbers become text so that it stays JSON."""
        plain = {**asdict(self), "layers": list(self.layers), "actions": list(self.actions)}
        plain["trials"] = [trial.to_dict() for trial in self.trials]
        plain["symptoms"] = [asdict(symptom) for symptom in self.symptoms]
        plain["samples"] = list(self.samples)
        for key in NUMBERS:
            plain[key] = as_json(plain[key])
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Incident:
        """The reverse of `to_dict`."""
        fields = {**plain, "layers": tuple(plain["layers"]), "actions": tuple(plain["actions"])}
        fields["trials"] = tuple(
            Trial(**{**trial, "loss": float(trial.get("loss", math.nan))}) for trial in plain.get("trials", ())
        )
        fields["symptoms"] = tuple(Symptom(**symptom) for symptom in plain.get("symptoms", ()))
        fields |= {"samples": tuple(plain.get("samples", ())), "origin": Origin(**plain.get("origin", {}))}
        numbers = {key: float(plain[key]) for key in NUMBERS if key in plain}
        return cls(**{**fields, **{key: math.nan if math.isnan(n) else n for key, n in numbers.items()}})

    @property
    def steps(self) -> str:
        """First and last step: `7`, or `7-16`."""
        return f"{self.first_step}" + (f"-{self.last_step}" if self.last_step > self.first_step else "")

    def __str__(self) -> str:
        steps = f"step{'s' * ('-' in self.steps)} {self.steps}"
        what = describe(self.kind, self.layers, self.detail)
        first = {symptom.kind: symptom for symptom in reversed(self.symptoms)}
        what += "".join(f"; also {first[kind]}" for kind in dict.fromkeys(symptom.kind for symptom in self.symptoms))
        times = f", {self.count} findings" if self.count > 1 else ""
        where = f"optimizer {self.optimizer}, " if self.optimizer else ""
        done = ", ".join(self.actions) or "no action"
        lasting = f" (loss {self.loss_after:.3g}, was {self.loss_before:.3g})" if self.outcome == DEGRADED else ""
        return f"{where}{steps}: {what}{times}; {done}; {self.outcome}{lasting}"

    @property
    def message(self) -> str:
        """The incident, and what to change by hand."""
        return f"{self}; advice: {self.advice}" if self.advice else str(self)


def as_json(number: float) -> float | str:
    """A number as JSON has it; one that is not finite as text.

    Example:
        >>> as_json(1.5), as_json(math.inf)
        (1.5, 'inf')
    """
    return number if math.isfinite(number) else str(number)


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


@dataclass(frozen=True)
class Response:
    """How one finding was answered.

    Args:
        kind: Of the finding.
        remedies: The remedies that were chosen, each as its `repr`.
        actions: What those did that did something.
    """

    kind: str
    remedies: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Restoration:
    """A snapshot that was put back after a step, because the weights were ruined and about to leave the run.

    Args:
        finding: What was wrong with the weights.
        step: The snapshot's step; None when there was none.
        at_end: Whether it was at the end of the run.
    """

    finding: Finding
    step: int | None = None
    at_end: bool = False


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The outcome of acting on one step.

    Args:
        responses: How each finding was answered, in order.
        cancelled: Whether the step was made a no-op.
        clip_coefficient: What the gradients were multiplied by; 1 when nothing was clipped.
        lr_factor: What the user's learning rate is multiplied by.
        snapshot: Whether a snapshot was taken before the step.
        restored: Step of the snapshot that was put back; None without one.
        model_changed: Whether the model is another one from here on.
        objective_changed: Whether the weight decay is higher from here on, so that the loss may rise.
        trial: The outcome of an experiment just before this step, if there was one.
        stopped_by: Kind of the finding whose remedy asked for the end of training; empty when none did.
        stop_reason: Why training should end; empty when it should not.
        restoration: What was put back after the step, before a checkpoint, an average, or the end of the run.
    """

    responses: tuple[Response, ...] = ()
    cancelled: bool = False
    clip_coefficient: float = 1.0
    lr_factor: float = 1.0
    snapshot: bool = False
    restored: int | None = None
    model_changed: bool = False
    objective_changed: bool = False
    trial: TrialEvent | None = None
    stopped_by: str = ""
    stop_reason: str = ""
    restoration: Restoration | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class StepReport:
    """One optimizer step: what was measured, found and done.

    Args:
        stats: The measurements, before any clipping.
        findings: What the detectors reported.
        outcome: What was done, and what came of it.
        limit: The gradient-norm limit in force, NaN while there is none.
        optimizer: The optimizer's index when there are several; otherwise empty.
        largest_norm: Largest finite gradient norm since the last written step; NaN when that is not followed.
    """

    stats: GradStats
    findings: tuple[Finding, ...] = ()
    outcome: StepOutcome = StepOutcome()
    limit: float = math.nan
    optimizer: str = ""
    largest_norm: float = math.nan

    @property
    def actions(self) -> tuple[Action, ...]:
        """What the remedies did, in order."""
        return tuple(action for response in self.outcome.responses for action in response.actions)

    @property
    def prefix(self) -> str:
        """Start of this optimizer's scalar names: `gradguard`, or `gradguard/1` for the second of several."""
        return f"{PREFIX}/{self.optimizer}" if self.optimizer else PREFIX

    def scalars(self) -> dict[str, float]:
        """Every scalar worth a curve, by its full name; unknown ones are left out."""
        norm, done = self.stats.global_norm, self.outcome
        curves = {
            "grad_norm": norm,
            "grad_norm_clipped": 0.0 if done.cancelled else norm * done.clip_coefficient,
            "grad_norm_limit": self.limit,
            "grad_norm_max": self.largest_norm,
            "clip_coefficient": 0.0 if done.cancelled else done.clip_coefficient,
            "lr_factor": done.lr_factor,
            "lr": self.stats.lr,
            "depth_slope": self.stats.depth_slope,
            "loss": math.nan if self.stats.loss is None else self.stats.loss,
            "update_ratio": self.stats.global_update_ratio,
            "weight_norm": self.stats.global_param_norm,
        }
        groups = {f"{self.prefix}/grad_norm/{name}": norm for name, norm in self.stats.group_norm.items()}
        usable = self.stats.grad_norm[np.isfinite(self.stats.grad_norm)]
        if len(usable):
            bands = np.percentile(usable, PERCENTILES)
            curves |= {f"layer_norm/p{p}": float(v) for p, v in zip(PERCENTILES, bands, strict=True)}
        measured = ("grad_norm", "loss")
        return {f"{self.prefix}/{k}": v for k, v in curves.items() if k in measured or math.isfinite(v)} | groups


def layers_of(findings: Iterable[Finding]) -> Sequence[str]:
    """Every layer named by `findings`, in order, once."""
    return list(dict.fromkeys(name for finding in findings for name in finding.layers))
