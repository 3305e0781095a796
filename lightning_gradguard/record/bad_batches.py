"""RECORD: the batches of skipped steps on disk, and a list of samples to leave out of the next run."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_gradguard.findings import StepReport
from lightning_gradguard.record.location import Location

#: Skipped steps whose batches are kept, in each process. Chosen.
MOST_BATCHES = 20
EXCLUDE = "exclude.json"


class BadBatches:
    """Keeps the batches of the first skipped steps of a run. A failure only warns, once.

    Every process keeps its own batches: `step-000412-rank-0.pt`. The first one writes `exclude.json`: under `"exclude"`
    the dataset indices of samples that are not finite or far larger than the others; under `"suspects"` those of the
    other samples of skipped batches in which no sample stands out. A list that is there already is added to.

    Args:
        directory: Where; made when it is needed.
        rank: This process.
    """

    def __init__(self, directory: Location, rank: int = 0) -> None:
        self.directory, self.rank = directory, rank
        self._saved, self._failed = 0, False

    def add(self, report: StepReport, batches: Sequence[Any]) -> None:
        """A step; the batches are kept if it was skipped.

        Args:
            report: The step.
            batches: Its micro-batches that are in memory.
        """
        if not report.outcome.cancelled:
            return
        try:
            self._save(report, batches)
            if self.rank == 0:
                self._exclude(report)
        except Exception as error:
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"GradGuard could not save a bad batch to {self.directory} ({type(error).__name__}: {error}); the "
                    "run goes on.",
                    stacklevel=2,
                )

    def _save(self, report: StepReport, batches: Sequence[Any]) -> None:
        if self._saved >= MOST_BATCHES:
            return
        kept = {
            "step": report.stats.step,
            "findings": [str(finding) for finding in report.findings],
            "indices": list(report.stats.batch_stats.indices) if report.stats.batch_stats is not None else [],
            "batches": tree_map(on_host, list(batches)),
        }
        data = io.BytesIO()
        torch.save(kept, data)
        which = f"-optimizer-{report.optimizer}" if report.optimizer else ""
        (self.directory / f"step-{report.stats.step:06d}{which}-rank-{self.rank}.pt").write(data.getvalue())
        self._saved += 1

    def _exclude(self, report: StepReport) -> None:
        """Adds the step's samples to the list."""
        bad = {index for finding in report.findings for index in finding.samples}
        known = report.stats.batch_stats.indices if report.stats.batch_stats is not None else ()
        suspects = set() if bad else set(known)
        if not (bad or suspects):
            return
        path = self.directory / EXCLUDE
        before = json.loads(path.read() or "{}")
        bad |= set(before.get("exclude", ()))
        suspects = (suspects | set(before.get("suspects", ()))) - bad
        path.write(json.dumps({"exclude": sorted(bad), "suspects": sorted(suspects)}).encode())


def on_host(value: Any) -> Any:
    """A tensor without the rest of its storage, in host memory; anything else as it is."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value
