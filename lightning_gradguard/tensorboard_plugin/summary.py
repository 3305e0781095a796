"""RECORD: writes a run into TensorBoard's event file, in bounded space.

Layer statistics are thinned: at most `BLOCK` vectors for every doubling of the logging steps, and `EXTRA` more for
steps with findings. Scalars are written at every logging step, in one event.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary

from lightning_gradguard.extras import needed_for
from lightning_gradguard.findings import PREFIX, Incident, StepReport
from lightning_gradguard.record.report import Report
from lightning_gradguard.show import metadata
from lightning_gradguard.show.heatmap_window import HeatmapWindow

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Vectors written before the stride doubles: about as many columns as a screen can resolve.
BLOCK = 1024
#: Most vectors of steps with findings that are written regardless of the stride. Default chosen, not measured.
EXTRA = 256
#: Most changes of incidents, and most pictures of the heatmap, in one event file. Defaults chosen, not measured.
MAX_INCIDENT_EVENTS, MAX_PICTURES = 2000, 20
#: Most layer names stored with one incident. Default chosen, not measured.
MAX_LAYERS = 64


class RunWriter:
    """Writes one run into one TensorBoard event file: scalars, packed layer statistics, incidents, pictures.

    Memory: for each optimizer one window of at most 320 heatmap columns, 2 bytes for each layer and column.

    Event file: for `n` logging steps and `L` layers, each statistic takes at most
    `BLOCK * (1 + log2(n / BLOCK)) + EXTRA` vectors of about `2 L + 100` bytes. Scalars take about 600 bytes a logging
    step (measured by `benchmarks/tab.py`).

    Args:
        summary_writer: The `SummaryWriter` of a TensorBoard logger, `TensorBoardLogger.experiment`.
        closes: Whether `close` closes it too.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> from lightning_gradguard.collect.stats import GradStats
        >>> with TemporaryDirectory() as folder, SummaryWriter(folder) as tensorboard:
        ...     writer = RunWriter(tensorboard)
        ...     for x in range(3):
        ...         writer.step(StepReport(stats=GradStats.of({"net.0": 3.0, "net.2": 4.0}, step=x)), x)
        ...     writer.close(Report(steps=3), x=3)
    """

    def __init__(self, summary_writer: SummaryWriter, closes: bool = False) -> None:
        self.summary_writer, self.closes = summary_writer, closes
        self._introduced: set[str] = set()
        self._vectors: dict[str, Thinning] = {}
        self._windows: dict[str, tuple[tuple[str, ...], HeatmapWindow]] = {}
        self._first_x: dict[tuple[str, str, int], int] = {}
        self._prefixes: list[str] = []
        self._largest: dict[str, float] = {}  # gradient norm since the last vector of curves
        self._incident_events = self._pictures = self._extra = 0

    def step(self, report: StepReport, x: int) -> None:
        """Writes one step. Call it on logging steps, and on a step with findings before `incident`.

        Args:
            report: The step.
            x: The loggers' step.
        """
        stats, scalars = report.stats, report.scalars()
        self._layout(report.prefix)
        self._write(x, *(Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()))
        force = bool(report.findings) and self._extra < EXTRA
        self._extra += force
        self._curves(report, scalars, x, force)
        for statistic in ("grad_norm", "update_ratio", "param_norm"):
            values = getattr(stats, statistic)
            if values is not None:
                self.layers(statistic, stats.layers.names, values, x, report.optimizer, force=force)

    def layers(
        self,
        statistic: str,
        names: Sequence[str],
        values: NDArray[Any],
        x: int,
        optimizer: str = "",
        *,
        force: bool = False,
    ) -> None:
        """Writes a statistic of every layer, thinned. The tab offers every statistic that was written.

        Args:
            statistic: Its name, e.g. `"grad_norm"`.
            names: The layers in forward order, `[L]`.
            values: Non-negative numbers, `[L]`. NaN and inf are shown in a color of their own.
            x: The loggers' step.
            optimizer: The optimizer's index when there are several; otherwise empty.
            force: Write the vector regardless of the stride.
        """
        packed = metadata.encode_layers(values)
        tag = metadata.layers_tag(statistic, optimizer, names)
        if statistic == "grad_norm":
            self._window(optimizer, tuple(names)).add(x, packed)
        if self._due(tag, force):
            content = {"statistic": statistic, "optimizer": optimizer, "names": list(names)}
            self._write(x, metadata.tensor_value(tag, packed, self._introduce(tag, metadata.LAYERS, content)))

    def _curves(self, report: StepReport, scalars: Mapping[str, float], x: int, force: bool) -> None:
        """Writes the scalars again, as one vector, so that the tab has them at the same steps as the layers."""
        tag, largest = metadata.curves_tag(report.optimizer), f"{report.prefix}/grad_norm_max"
        self._largest[tag] = float(np.fmax(self._largest.get(tag, math.nan), scalars.get(largest, math.nan)))
        if self._due(tag, force):
            scalars = {**scalars, largest: self._largest.pop(tag)}
            vector = np.array([scalars.get(f"{report.prefix}/{name}", math.nan) for name in CURVES], np.float64)
            content = {"optimizer": report.optimizer, "names": CURVES}
            self._write(x, metadata.tensor_value(tag, vector, self._introduce(tag, metadata.CURVES, content)))

    def incident(self, incident: Incident, x: int) -> None:
        """Writes an incident. Call it when the incident starts, has a new action, and ends.

        At its start a picture of the heatmap is written too.

        Args:
            incident: Its current state.
            x: The loggers' current step.
        """
        key = (incident.optimizer, incident.kind, incident.first_step)
        if self._incident_events >= MAX_INCIDENT_EVENTS:
            return
        self._incident_events += 1
        started = key not in self._first_x
        lasted = incident.last_step - incident.first_step
        first_x = self._first_x.setdefault(key, max(0, x - lasted))
        plain = {
            **incident.to_dict(),
            "trials": [trial.to_dict() for trial in incident.best_trials],
            "layers": incident.layers[:MAX_LAYERS],
            "layer_count": len(incident.layers),
        }
        packed = json.dumps({**plain, "x": first_x, "x_last": first_x + lasted, "text": incident.message})
        tag = metadata.incidents_tag(incident.optimizer, incident.kind)
        self._write(x, metadata.text_value(tag, packed, self._introduce(tag, metadata.INCIDENTS, {})))
        self.summary_writer.add_text(f"{PREFIX}/incidents/{incident.kind}", as_code(incident.message), x)
        if started and self._pictures < MAX_PICTURES:
            self._pictures += 1
            self._picture(incident.optimizer, x, str(incident))

    def close(self, report: Report, x: int) -> None:
        """Writes the end of the run: its report as text, and a picture of the heatmap.

        Args:
            report: The run's report.
            x: The loggers' step.
        """
        content = self._introduce(metadata.END_TAG, metadata.END, {})
        self._write(x, metadata.text_value(metadata.END_TAG, json.dumps(report.end), content))
        self.summary_writer.add_text(f"{PREFIX}/report", as_code(str(report)), x)
        try:
            for optimizer in self._windows:
                self._picture(optimizer, x, str(report).splitlines()[0])
        finally:
            self.summary_writer.flush()
            if self.closes:
                self.summary_writer.close()

    def _picture(self, optimizer: str, x: int, title: str) -> None:
        with needed_for("The picture of the heatmap"):
            from lightning_gradguard.show.heatmap_image import draw_heatmap
        names, window = self._windows.get(optimizer, ((), None))
        if window is not None and window.columns:
            tag = f"{PREFIX}/{optimizer}/heatmap" if optimizer else f"{PREFIX}/heatmap"
            marks = [first for (owner, _, _), first in self._first_x.items() if owner == optimizer]
            self.summary_writer.add_image(tag, draw_heatmap(window, names, marks, title), x, dataformats="HWC")

    def _window(self, optimizer: str, names: tuple[str, ...]) -> HeatmapWindow:
        known, window = self._windows.get(optimizer, ((), HeatmapWindow()))
        if known != names:  # layers were frozen or unfrozen
            window = HeatmapWindow()
            self._windows[optimizer] = (names, window)
        return window

    def _layout(self, prefix: str) -> None:
        """Adds charts of percentile bands to the Custom Scalars tab, once for each optimizer."""
        if prefix in self._prefixes:
            return
        self._prefixes.append(prefix)
        charts = {
            f"{prefix}: gradient norm over the layers, {what}": [
                "Margin",
                [f"{prefix}/layer_norm/p{p}" for p in (50, low, high)],
            ]
            for prefix in self._prefixes
            for what, low, high in (("25th to 75th percentile", 25, 75), ("minimum to maximum", 0, 100))
        }
        self.summary_writer.add_custom_scalars({"GradGuard": charts})

    def _introduce(self, tag: str, what: str, fields: dict[str, Any]) -> bytes:
        if tag in self._introduced:
            return b""
        self._introduced.add(tag)
        return metadata.encode_content(what, **fields)

    def _due(self, tag: str, force: bool) -> bool:
        return self._vectors.setdefault(tag, Thinning()).due() or force

    def _write(self, x: int, *values: Summary.Value) -> None:
        writer: Any = self.summary_writer  # `_get_file_writer` has no types
        writer._get_file_writer().add_summary(Summary(value=values), x)


#: The scalars that the tab draws, in the order of the stored vector.
CURVES = [
    "grad_norm", "grad_norm_clipped", "grad_norm_limit", "loss",
    "lr_factor", "lr", "clip_coefficient", "depth_slope", "grad_norm_max",
]  # fmt: skip


class Thinning:
    """Decides which items of a stream to keep, with a stride that doubles after every `block` kept items.

    Example:
        >>> thinning = Thinning(block=2)
        >>> [i for i in range(20) if thinning.due()]
        [0, 1, 2, 4, 8, 12, 16]
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.block, self.offered, self.kept = block, 0, 0

    def due(self) -> bool:
        """Whether to keep the next item."""
        keep = self.offered % (1 << (self.kept // self.block)) == 0
        self.offered += 1
        self.kept += keep
        return keep


def as_code(text: str, most_lines: int = 200) -> str:
    """`text` as a Markdown code block, so that layer names are not interpreted as Markdown."""
    lines = [line.replace("\r", " ") for line in text.splitlines()[:most_lines]]
    return "\n".join(f"    {line}" for line in lines)
