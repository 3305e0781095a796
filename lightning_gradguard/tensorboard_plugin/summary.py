"""RECORD: a guarded run into TensorBoard's event file, in bounded space.

What grows with the number of layers is thinned: at most `BLOCK` vectors for every doubling of the logging steps,
and `EXTRA` more for steps with findings. The run's scalars are written at every logging step, in one event.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary

from lightning_gradguard.findings import PREFIX, Incident, StepReport
from lightning_gradguard.record.report import Report
from lightning_gradguard.show import metadata
from lightning_gradguard.show.heatmap_image import Window, draw

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Vectors written before the stride between them doubles. Chosen: as many columns as can be told apart.
BLOCK = 1024
#: Vectors of steps with findings that are written whatever the stride. Chosen.
EXTRA = 256
#: Changes of incidents, and pictures of the heatmap at the start of one, in one event file. Chosen.
MAX_INCIDENT_EVENTS, MAX_PICTURES = 2000, 20
#: Layers of one incident that are stored by name. Chosen.
MAX_LAYERS = 64


class RunWriter:
    """Writes one run into one TensorBoard event file: scalars, packed layer statistics, incidents, pictures.

    Memory: one window of at most 320 heatmap columns for each optimizer, 2 bytes a layer and column. Event file: for
    `n` logging steps and `L` layers at most `BLOCK * (1 + log2(n / BLOCK)) + EXTRA` vectors of about `2 L + 100` bytes
    for each statistic, and 600 bytes of scalars a logging step (measured: `benchmarks/tab.py`).

    Args:
        summary_writer: The `SummaryWriter` of a TensorBoard logger, `TensorBoardLogger.experiment`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> from lightning_gradguard.collect.stats import GradStats
        >>> with TemporaryDirectory() as folder, SummaryWriter(folder) as tensorboard:
        ...     writer = RunWriter(tensorboard)
        ...     for x in range(3):
        ...         writer.step(StepReport(GradStats.of({"net.0": 3.0, "net.2": 4.0}, step=x)), x)
        ...     writer.close(Report(steps=3), x=3)
    """

    def __init__(self, summary_writer: SummaryWriter) -> None:
        self.summary_writer = summary_writer
        self._introduced: set[str] = set()
        self._vectors: dict[str, Thinned] = {}
        self._windows: dict[str, tuple[tuple[str, ...], Window]] = {}
        self._first_x: dict[tuple[str, str, int], int] = {}
        self._prefixes: list[str] = []
        self._incident_events = self._pictures = self._extra = 0

    def step(self, report: StepReport, x: int) -> None:
        """Writes one step: on logging steps, and on a step with findings before its incidents.

        Args:
            report: The step.
            x: Position on the loggers' step axis.
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
        """Writes a statistic of every layer, thinned; a new one gets an entry in the tab's switch by itself.

        Args:
            statistic: Its name, e.g. `"grad_norm"`.
            names: The layers in forward order, `[L]`.
            values: Non-negative numbers, `[L]`; NaN and inf are shown as such.
            x: Position on the loggers' step axis.
            optimizer: As in `StepReport`.
            force: Write it whatever the stride.
        """
        packed = metadata.encode_layers(values)
        tag = metadata.layers_tag(statistic, optimizer, names)
        if statistic == "grad_norm":
            self._window(optimizer, tuple(names)).add(x, packed)
        if self._due(tag, force):
            content = {"statistic": statistic, "optimizer": optimizer, "names": list(names)}
            self._write(x, metadata.tensor_value(tag, packed, self._introduce(tag, metadata.LAYERS, content)))

    def _curves(self, report: StepReport, scalars: Mapping[str, float], x: int, force: bool) -> None:
        """The scalars once more as one vector, so that the tab has them at the same steps as the layers."""
        tag = metadata.curves_tag(report.optimizer)
        if self._due(tag, force):
            vector = np.array([scalars.get(f"{report.prefix}/{name}", math.nan) for name in CURVES], np.float64)
            content = {"optimizer": report.optimizer, "names": CURVES}
            self._write(x, metadata.tensor_value(tag, vector, self._introduce(tag, metadata.CURVES, content)))

    def incident(self, incident: Incident, x: int) -> None:
        """Writes an incident when it starts, gains an action or ends: text, data for the tab, at first a picture.

        Args:
            incident: Its present state.
            x: Position on the loggers' step axis, now.
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
            "layers": incident.layers[:MAX_LAYERS],
            "layer_count": len(incident.layers),
        }
        packed = json.dumps({**plain, "x": first_x, "x_last": first_x + lasted, "text": str(incident)})
        tag = metadata.incidents_tag(incident.optimizer, incident.kind)
        self._write(x, metadata.text_value(tag, packed, self._introduce(tag, metadata.INCIDENTS, {})))
        self.summary_writer.add_text(f"{PREFIX}/incidents/{incident.kind}", as_code(str(incident)), x)
        if started and self._pictures < MAX_PICTURES:
            self._pictures += 1
            self._picture(incident.optimizer, x, str(incident))

    def close(self, report: Report, x: int) -> None:
        """Writes the end of the run: its report as text and the picture of its heatmap.

        Args:
            report: The whole story.
            x: Position on the loggers' step axis.
        """
        end = {
            "steps": report.steps,
            "incidents": len(report.incidents),
            "outcome": report.outcome,
            "verdict": report.verdict,
        }
        content = self._introduce(metadata.END_TAG, metadata.END, {})
        self._write(x, metadata.text_value(metadata.END_TAG, json.dumps(end), content))
        self.summary_writer.add_text(f"{PREFIX}/report", as_code(str(report)), x)
        for optimizer in self._windows:
            self._picture(optimizer, x, str(report).splitlines()[0])
        self.summary_writer.flush()

    def _picture(self, optimizer: str, x: int, title: str) -> None:
        names, window = self._windows.get(optimizer, ((), None))
        if window is not None and window.columns:
            tag = f"{PREFIX}/{optimizer}/heatmap" if optimizer else f"{PREFIX}/heatmap"
            marks = [first for (owner, _, _), first in self._first_x.items() if owner == optimizer]
            self.summary_writer.add_image(tag, draw(window, names, marks, title), x, dataformats="HWC")

    def _window(self, optimizer: str, names: tuple[str, ...]) -> Window:
        known, window = self._windows.get(optimizer, ((), Window()))
        if known != names:  # layers were frozen or unfrozen: a new picture
            window = Window()
            self._windows[optimizer] = (names, window)
        return window

    def _layout(self, prefix: str) -> None:
        """Charts of percentile bands for the Custom Scalars tab, once for each optimizer."""
        if prefix in self._prefixes:
            return
        self._prefixes.append(prefix)
        charts = {
            f"{prefix}: layers' gradient norm, {what}": [
                "Margin",
                [f"{prefix}/layer_norm/p{p}" for p in (50, low, high)],
            ]
            for prefix in self._prefixes
            for what, low, high in (("middle half", 25, 75), ("smallest to largest", 0, 100))
        }
        self.summary_writer.add_custom_scalars({"GradGuard": charts})

    def _introduce(self, tag: str, what: str, fields: dict[str, Any]) -> bytes:
        if tag in self._introduced:
            return b""
        self._introduced.add(tag)
        return metadata.encode_content(what, **fields)

    def _due(self, tag: str, force: bool) -> bool:
        return self._vectors.setdefault(tag, Thinned()).due() or force

    def _write(self, x: int, *values: Summary.Value) -> None:
        self.summary_writer._get_file_writer().add_summary(Summary(value=values), x)


#: The scalars that the tab draws, in the order of the packed vector.
CURVES = [
    "grad_norm", "grad_norm_clipped", "grad_norm_limit", "loss",
    "lr_factor", "lr", "clip_coefficient", "depth_slope",
]  # fmt: skip


class Thinned:
    """Says which of a stream to keep: all of the first block, every second of the next, every fourth then...

    Example:
        >>> thinned = Thinned(block=2)
        >>> [i for i in range(20) if thinned.due()]
        [0, 1, 2, 4, 8, 12, 16]
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.block, self.seen, self.kept = block, 0, 0

    def due(self) -> bool:
        """Whether to keep the next one."""
        keep = self.seen % (1 << (self.kept // self.block)) == 0
        self.seen += 1
        self.kept += keep
        return keep


def as_code(text: str, most_lines: int = 200) -> str:
    """`text` as a Markdown code block, so that no layer name is taken for markup."""
    lines = [line.replace("\r", " ") for line in text.splitlines()[:most_lines]]
    return "\n".join(f"    {line}" for line in lines)
