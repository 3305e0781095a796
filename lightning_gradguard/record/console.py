"""RECORD: tells a run on the console: a line when an incident opens, when it changes, and when it ends."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence

from tqdm import tqdm

from lightning_gradguard.findings import EXHAUSTED, HEALTHY, OPEN, UNRECOVERABLE, Incident, StepReport
from lightning_gradguard.record.report import Report


class AboveBars(logging.Handler):
    """Writes messages to stderr, each on lines of its own above a progress bar.

    tqdm takes its bar away meanwhile, and rich has replaced the stream while its bar is shown.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


log = logging.getLogger("lightning_gradguard")
if (
    not log.handlers and not logging.getLogger().handlers
):  # as Lightning does: visible unless the user configured logging
    log.addHandler(AboveBars())
    log.setLevel(logging.INFO)


class Console:
    """Logs one run to `logging.getLogger("lightning_gradguard")`.

    Findings of an open incident are told again when something else was done about them, and at every power of two of
    their number: a guard that clips at a thousand steps needs ten lines.
    """

    def __init__(self) -> None:
        self._findings: Counter[tuple[str, str]] = Counter()  # of each open incident, by optimizer and kind

    def begin(self, layers: int, policy: str, home: str) -> None:
        """The start of a run.

        Args:
            layers: How many are watched.
            policy: Its name.
            home: Where its files are; empty when none are written.
        """
        where = f"log in {home}" if home else "no log, because there is no logger"
        log.info("GradGuard watches %d layers, policy %r, %s.", layers, policy, where)

    def step(self, report: StepReport, changed: Sequence[Incident] = ()) -> None:
        """One step.

        Args:
            report: What was found and done.
            changed: Incidents that began, changed or ended.
        """
        news = {incident.kind for incident in changed if incident.outcome in (OPEN, UNRECOVERABLE)}
        begun = {i.kind: f"; advice: {i.advice}" for i in changed if i.first_step == report.stats.step and i.advice}
        done = {response.kind: ", ".join(map(str, response.actions)) for response in report.outcome.responses}
        trial = report.outcome.trial
        first = trial is not None and trial.kind != EXHAUSTED  # the first finding tells of the experiment
        for finding in report.findings[int(first) :]:
            key = report.optimizer, finding.kind
            if finding.kind not in news and key not in self._findings:  # a symptom of another incident
                continue
            self._findings[key] += 1
            count = self._findings[key]
            if finding.kind in news or count & (count - 1) == 0:
                times = f", {count} findings" if count > 1 else ""
                advice = begun.get(finding.kind, "")
                tell(report, f"{finding.summary}{times}; {done.get(finding.kind) or 'no action'}{advice}")
        if trial is not None:
            tell(
                report, f"{trial.about or trial.cause}: {trial}" + (f"; advice: {trial.advice}" if trial.advice else "")
            )
        for incident in changed:
            if incident.outcome != OPEN:
                self._findings.pop((incident.optimizer, incident.kind), None)
                tell(report, f"incident ended: {incident}")

    def end(self, report: Report) -> None:
        """The end of the run, with its outcome."""
        levels = {HEALTHY: logging.INFO, UNRECOVERABLE: logging.ERROR}
        log.log(levels.get(report.outcome, logging.WARNING), "%s", report)


def tell(report: StepReport, text: str) -> None:
    """One line about a step."""
    which = f"optimizer {report.optimizer}, " if report.optimizer else ""
    log.warning("%sstep %d: %s", which, report.stats.step, text)
