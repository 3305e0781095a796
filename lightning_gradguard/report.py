"""RECORD: what one step looked like and what was done, as plain data from which everything shown is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_gradguard.findings import OPEN, UNRECOVERABLE, Finding, Incident
from lightning_gradguard.stats import GradStats

#: Every scalar's name begins with this, in every logger.
PREFIX = "gradguard"
#: Percentiles over layers that stand for all layers in stock charts: 5 curves, however many layers there are.
PERCENTILES = (0, 25, 50, 75, 100)
INCIDENT_LOG = "incidents.jsonl"


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


@dataclass(frozen=True)
class Report:
    """A run's story: how many steps, and every incident.

    Example:
        >>> print(Report(steps=1000))
        GradGuard: 1000 steps, no incident.
    """

    steps: int
    incidents: tuple[Incident, ...] = ()
    verdict: str = ""

    @property
    def outcome(self) -> str:
        """The worst outcome among the incidents: "healthy", "resolved", "open" or "unrecoverable"."""
        outcomes = {incident.outcome for incident in self.incidents}
        return next((o for o in (UNRECOVERABLE, OPEN) if o in outcomes), "resolved" if outcomes else "healthy")

    def __str__(self) -> str:
        if not self.incidents:
            return f"GradGuard: {self.steps} steps, no incident."
        kinds = Counter(incident.kind for incident in self.incidents)
        total = ", ".join(f"{times} {kind}" for kind, times in kinds.most_common())
        lines = [f"GradGuard: {self.steps} steps, {len(self.incidents)} incident(s): {total}; {self.outcome}."]
        return "\n".join([*lines, *(f"  {incident}" for incident in self.incidents), *filter(None, [self.verdict])])


def append_incident(path: Path, incident: Incident) -> None:
    """Appends one line to the incident log and flushes it; a later line about the same episode replaces this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(incident.to_dict(), ensure_ascii=False) + "\n")


def read_incidents(path: Path) -> tuple[Incident, ...]:
    """The incidents of a log, each in its last form, in order of their first step; torn lines are passed over."""
    latest: dict[tuple[str, str, int], Incident] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            incident = Incident.from_dict(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue
        latest[incident.optimizer, incident.kind, incident.first_step] = incident
    return tuple(sorted(latest.values(), key=lambda incident: incident.first_step))


def layers_of(findings: Iterable[Finding]) -> Sequence[str]:
    """Every layer named by `findings`, in order, once."""
    return list(dict.fromkeys(name for finding in findings for name in finding.layers))
