"""RECORD: writes a run to the console, the incident log, the step log, TensorBoard and every other logger.

A failure in writing never stops a run: a warning is given once, and everything else goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from lightning_gradguard.findings import OPEN, PREFIX, Incident, StepReport
from lightning_gradguard.record.console import Console
from lightning_gradguard.record.histograms import Histogram
from lightning_gradguard.record.incident_log import INCIDENT_LOG, IncidentLog
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER, write_end
from lightning_gradguard.record.step_log import Recorder


class RunWriter(Protocol):
    """Writes the panels of one run."""

    def step(self, report: StepReport, x: int) -> None: ...

    def incident(self, incident: Incident, x: int) -> None: ...

    def close(self, report: Report, x: int) -> None: ...


class Unwritten:
    """What one optimizer's steps have brought since the last one that was written.

    Args:
        report: The first of these steps.
        x: Its place on the loggers' axis.
    """

    def __init__(self, report: StepReport, x: int) -> None:
        self._norm = math.nan
        self._sampled = report.stats
        self.add(report, x)

    def add(self, report: StepReport, x: int) -> None:
        """One more step."""
        self._latest, self.x = report, x
        norm = report.stats.global_norm
        if math.isfinite(norm) and not norm <= self._norm:
            self._norm = norm
        if report.stats.update_ratio is not None:
            self._sampled = report.stats

    def report(self) -> StepReport:
        """The latest step, with what was sampled and the largest gradient norm since the last written one."""
        stats, sampled = self._latest.stats, self._sampled
        if sampled is not stats and sampled.layers.names == stats.layers.names:
            stats = replace(stats, param_norm=sampled.param_norm, update_ratio=sampled.update_ratio)
        return replace(self._latest, stats=stats, largest_norm=self._norm)


class Logbook:
    """Writes a run, on rank zero.

    Args:
        folder: The run's directory; None writes no files.
        boards: What writes the panels of TensorBoard.
        loggers: Lightning's other loggers.
        optimizers: Names of the optimizers whose every step is recorded for `gradguard replay`.
        guard: The guard's name, which the names of its curves in other loggers begin with; empty for one without.
        versions: Of what runs here, for the incident log.
    """

    def __init__(
        self,
        folder: Location | None,
        boards: Iterable[RunWriter] = (),
        loggers: Iterable[Any] = (),
        optimizers: Iterable[str] = (),
        guard: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.prefix = f"{PREFIX}/{guard}" if guard else PREFIX
        self.incidents = IncidentLog(folder / INCIDENT_LOG, versions) if folder is not None else None
        self.recorders = {n: Recorder(folder / FOLDER, n) for n in optimizers} if folder is not None else {}
        self.console = Console()
        self.boards, self.loggers = list(boards), list(loggers)
        self._unwritten: dict[str, Unwritten] = {}
        self._broken: set[str] = set()

    def step(self, report: StepReport, x: int, changed: Sequence[Incident] = ()) -> None:
        """Every step: keeps it for replay, logs what was done, and writes incidents.

        Args:
            report: The step.
            x: Its place on the loggers' axis.
            changed: Incidents that began, changed or ended in it.
        """
        if report.optimizer in self._unwritten:
            self._unwritten[report.optimizer].add(report, x)
        else:
            self._unwritten[report.optimizer] = Unwritten(report, x)
        if report.optimizer in self.recorders:
            origin = next((i.origin for i in changed if i.first_step == report.stats.step), None)
            self.quietly("the record of steps", self.recorders[report.optimizer].add, report, origin)
        if report.findings or report.outcome.trial or changed:
            self.console.step(report, changed)
        if changed:
            self.write()
        for incident in changed:
            self.incident(incident, x)

    def write(self) -> None:
        """On logging steps, when an incident changes, and at the end: the curves of what is not written yet."""
        written, self._unwritten = self._unwritten, {}
        for steps in written.values():
            self._write(steps.report(), steps.x)

    def _write(self, report: StepReport, x: int) -> None:
        for board in self.boards:
            self.quietly("TensorBoard", board.step, report, x)
        for logger in self.loggers:
            curves = {f"{self.prefix}{name.removeprefix(PREFIX)}": y for name, y in report.scalars().items()}
            self.quietly(type(logger).__name__, logger.log_metrics, curves, x)
        for recorder in self.recorders.values():
            self.quietly("the record of steps", recorder.flush)

    def histograms(
        self, writers: Mapping[str, Callable[[dict[str, Histogram], int], None]], made: dict[str, Histogram], x: int
    ) -> None:
        """Histograms, for the loggers that show them.

        Args:
            writers: What writes them, by what it writes to.
            made: The histograms by name.
            x: Their place on the loggers' axis.
        """
        for what, write in writers.items():
            self.quietly(what, write, made, x)

    def incident(self, incident: Incident, x: int) -> None:
        """An incident that began, changed or ended."""
        if self.incidents is not None:
            self.quietly(INCIDENT_LOG, self.incidents.add, incident)
        for board in self.boards:
            self.quietly("TensorBoard", board.incident, incident, x)

    def close(self, report: Report, x: int) -> None:
        """The end of the run."""
        self.console.end(report)
        self.write()
        for incident in report.incidents:
            if incident.outcome == OPEN:
                self.incident(incident, x)
        if self.incidents is not None:
            self.quietly(INCIDENT_LOG, self.incidents.flush)
        for board in self.boards:
            self.quietly("TensorBoard", board.close, report, x)
        for logger in self.loggers:
            self.quietly(type(logger).__name__, log_incident_table, logger, report)
        for recorder in self.recorders.values():
            self.quietly("the record of steps", recorder.close)
        for recorder in list(self.recorders.values())[:1]:  # they share a folder
            self.quietly("the record of steps", write_end, recorder.folder, report.end)

    def quietly(self, what: str, write: Callable[..., Any], *args: Any) -> None:
        """Writes; a failure is warned about once for each `what`."""
        try:
            write(*args)
        except Exception as error:
            if what not in self._broken:
                self._broken.add(what)
                warnings.warn(
                    f"GradGuard could not write to {what} ({type(error).__name__}: {error}); the run goes on.",
                    stacklevel=2,
                )


def log_incident_table(logger: Any, report: Report) -> None:
    """Gives an experiment tracker the list of incidents: W&B and Comet as a table, MLflow as an artifact."""
    if not report.incidents:
        return
    columns = ["steps", "kind", "done", "outcome", "incident"]
    rows = [[i.steps, i.kind, ", ".join(i.actions), i.outcome, i.message] for i in report.incidents]
    if hasattr(logger, "log_text"):
        logger.log_text(key="gradguard/incidents", columns=columns, data=rows)
    elif hasattr(logger, "run_id") and hasattr(logger.experiment, "log_text"):
        logger.experiment.log_text(logger.run_id, f"{report}\n", "gradguard/incidents.txt")
    elif hasattr(getattr(logger, "experiment", None), "log_table"):
        logger.experiment.log_table("gradguard_incidents.csv", tabular_data=rows, headers=columns)
