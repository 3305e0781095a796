"""Colors, symbols and labels of the figures."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Titles and units of the built-in statistics; others are shown by name.
TITLES = {"grad_norm": "gradient norm", "update_ratio": "update-to-weight ratio", "param_norm": "weight norm"}
UNITS = {"grad_norm": "L2 norm", "update_ratio": "ratio", "param_norm": "L2 norm"}
#: Symbols for kinds of incidents: plotly's name, and the same as text. Color alone would not tell them apart for all.
SYMBOLS = (
    ("triangle-up", "\u25b2"), ("triangle-down", "\u25bc"), ("x", "\u2716"), ("square", "\u25a0"),
    ("diamond", "\u25c6"), ("star", "\u2605"), ("pentagon", "\u2b1f"), ("hexagon2", "\u2b22"),
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colors of one theme. The colors of the curves are from the palette of Okabe and Ito (2008).

    Args:
        text: Titles.
        paper: The page, translucent, behind titles that lines would cross.
        muted: Ticks and secondary text.
        grid: Grid lines.
        series: The curves of one panel, in order.
        kinds: The kinds of incidents on the time line, in order.
        good: Resolved incidents.
        warn: Open incidents.
        bad: Unrecoverable incidents.
    """

    text: str
    paper: str
    muted: str
    grid: str
    series: tuple[str, str, str]
    kinds: tuple[str, ...]
    good: str
    warn: str
    bad: str

    def outcome(self, outcome: object) -> str:
        """The color of an incident's outcome."""
        return {"resolved": self.good, "recovered": self.good, "unrecoverable": self.bad}.get(str(outcome), self.warn)


LIGHT = Theme(
    text="#202124", paper="rgba(255,255,255,0.8)", muted="#5f6368", grid="#e3e5e8",
    series=("#0072b2", "#d55e00", "#5f6368"),
    kinds=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5f6368", "#8c564b"),
    good="#007a5a", warn="#b35c00", bad="#b3261e",
)  # fmt: skip
DARK = Theme(
    text="#e8eaed", paper="rgba(48,48,48,0.8)", muted="#b4b8bd", grid="#45484c",
    series=("#56b4e9", "#f0a04b", "#b4b8bd"),
    kinds=("#56b4e9", "#f0a04b", "#2fc799", "#e79cc6", "#8ab6ff", "#f0e442", "#b4b8bd", "#c49c94"),
    good="#2fc799", warn="#f5b74f", bad="#ff8a80",
)  # fmt: skip


def kind_symbols(kinds: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A symbol for each kind; the same set of kinds always gets the same symbols."""
    return {kind: SYMBOLS[i % len(SYMBOLS)] for i, kind in enumerate(sorted(set(kinds)))}


def statistic_title(statistic: str) -> str:
    """A statistic's name as it is shown in a figure."""
    return escape(TITLES.get(statistic, statistic))


def row_titles(names: Sequence[str], counts: Sequence[int], types: Mapping[str, str]) -> list[str]:
    """The full and unique name of each row, with the class of its module and its number of layers.

    Example:
        >>> row_titles(["net.0", "net.block"], [1, 3], {"net.0": "Linear", "net.block": "Sequential"})
        ['net.0 (Linear)', 'net.block (Sequential, 3 layers)']
    """
    titles: dict[str, None] = {}
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        known = short_label(str(types[name]), 60) if name in types else ""
        notes = ", ".join(filter(None, [known, f"{count} layers" if count > 1 else ""]))
        text = short_label(name, 200) + (f" ({notes})" if notes else "")
        titles[text if text not in titles else f"{text} #{i}"] = None
    return list(titles)


def row_labels(names: Sequence[str], counts: Sequence[int], max_length: int = 24) -> list[str]:
    """A short and unique label for each row, with its number of layers where there are several.

    The module that all names share is left out.

    Example:
        >>> row_labels(["net.encoder.layer.0", "net.encoder.layer.1", "net.head"], [4, 4, 1], max_length=12)
        ['enc….layer.0 (4)', 'enc….layer.1 (4)', 'head']
    """
    skip = len(shared_prefix(names))
    labels: dict[str, None] = {}
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        text = short_label(name[skip:], max_length) + (f" ({count})" if count > 1 else "")
        labels[text if text not in labels else f"{text} #{i}"] = None
    return list(labels)


def shared_prefix(names: Sequence[str]) -> str:
    """The module that all of several names begin with, including its dot.

    Example:
        >>> shared_prefix(["net.encoder.0", "net.encoder.1"]), shared_prefix(["net.0"]), shared_prefix(["a.0", "b.0"])
        ('net.encoder.', '', '')
    """
    first, last = (min(names), max(names)) if len(names) > 1 else ("", "")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(".", 0, same) + 1]


def short_label(name: str, max_length: int) -> str:
    """A name on one line, shortened to `max_length` characters and escaped.

    Example:
        >>> short_label("<b>encoder</b>.layers.0.attention.query", 24)
        '&lt;b&gt;enc…0.attention.query'
    """
    line = "\u23ce".join(name.splitlines()) or "(no name)"
    head = max_length // 4
    return escape(line if len(line) <= max_length else f"{line[:head]}\u2026{line[head + 1 - max_length :]}")


def wrap_text(text: str, width: int = 70, max_lines: int = 8) -> str:
    """A hover text in lines of at most `width` characters, broken between words where possible."""
    lines = textwrap.wrap(text, width, max_lines=max_lines, placeholder=" \u2026")
    return "<br>".join(map(escape, lines))


def robust_range(values: NDArray[Any], least: float = 0.0, cut: float = 0.02) -> tuple[float, float] | None:
    """Limits of an axis that fits most of the finite `values`; None if there are none.

    The axis covers all but `cut` of the values at each end, and extends to the extremes by at most the same width again
    (or by `least`), so that one step at 1e30 does not flatten the rest of the run.

    Example:
        >>> robust_range(np.array([1.0] * 50 + [2.0] * 50)), robust_range(np.array([1.0] * 50 + [2.0] * 50 + [1e30]))
        ((1.0, 2.0), (1.0, 3.0))
    """
    if not len(values):
        return None
    low, high = (float(q) for q in np.quantile(values, (cut, 1 - cut)))
    margin = max(high - low, least)
    return max(float(values.min()), low - margin), min(float(values.max()), high + margin)


def escape(text: str) -> str:
    """Escapes `text` for plotly, which interprets a few HTML tags."""
    return html.escape(text, quote=False)
