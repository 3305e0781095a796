"""Colours, words and labels of the figures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Names of statistics in words; others are shown by their own name.
WORDS = {"grad_norm": "gradient norm", "update_ratio": "update-to-weight ratio", "param_norm": "weight norm"}
#: Symbols for kinds of incidents, plotly's name and the same as text, so that colour is never the only difference.
SYMBOLS = (
    ("triangle-up", "\u25b2"), ("triangle-down", "\u25bc"), ("x", "\u2716"), ("square", "\u25a0"),
    ("diamond", "\u25c6"), ("star", "\u2605"), ("pentagon", "\u2b1f"), ("hexagon2", "\u2b22"),
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colours of one theme; the series are from the palette of Okabe and Ito (2008).

    Args:
        text: Of titles.
        muted: Of ticks and what is said in passing.
        grid: Of grid lines.
        series: Of the curves in one panel, in order.
        good: Of incidents that were resolved.
        warn: Of open ones.
        bad: Of unrecoverable ones.
    """

    text: str
    muted: str
    grid: str
    series: tuple[str, str, str]
    good: str
    warn: str
    bad: str

    def outcome(self, outcome: object) -> str:
        """The colour of an incident's outcome."""
        return {"resolved": self.good, "unrecoverable": self.bad}.get(str(outcome), self.warn)


LIGHT = Theme("#202124", "#5f6368", "#e3e5e8", ("#0072b2", "#d55e00", "#5f6368"), "#007a5a", "#b35c00", "#b3261e")
DARK = Theme("#e8eaed", "#b4b8bd", "#45484c", ("#56b4e9", "#f0a04b", "#b4b8bd"), "#2fc799", "#f5b74f", "#ff8a80")


def kind_symbols(kinds: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A symbol for each kind, the same wherever the same kinds are shown."""
    return {kind: SYMBOLS[i % len(SYMBOLS)] for i, kind in enumerate(sorted(set(kinds)))}


def statistic_words(statistic: str) -> str:
    """A statistic's name as it may stand in a figure."""
    return escape(WORDS.get(statistic, statistic))


def row_labels(names: Sequence[str], counts: Sequence[int], most: int = 24) -> list[str]:
    """A short and unique label for each row, with the number of layers it stands for.

    What all names begin with is left out.

    Example:
        >>> row_labels(["net.encoder.layer.0", "net.encoder.layer.1", "net.head"], [4, 4, 1], most=12)
        ['enc….layer.0 (4)', 'enc….layer.1 (4)', 'head']
    """
    skip = len(shared_prefix(names))
    labels: dict[str, None] = {}
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        text = label(name[skip:], most) + (f" ({count})" if count > 1 else "")
        labels[text if text not in labels else f"{text} #{i}"] = None
    return list(labels)


def shared_prefix(names: Sequence[str]) -> str:
    """The module, with its dot, that all of several names begin with.

    Example:
        >>> shared_prefix(["net.encoder.0", "net.encoder.1"]), shared_prefix(["net.0"]), shared_prefix(["a.0", "b.0"])
        ('net.encoder.', '', '')
    """
    first, last = (min(names), max(names)) if len(names) > 1 else ("", "")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind(".", 0, same) + 1]


def label(name: str, most: int) -> str:
    """A name as it may stand in a figure: on one line, at most `most` characters, and never markup.

    Example:
        >>> label("<b>encoder</b>.layers.0.attention.query", 24)
        '&lt;b&gt;enc…0.attention.query'
    """
    line = "\u23ce".join(name.splitlines()) or "(no name)"
    head = most // 4
    return escape(line if len(line) <= most else f"{line[:head]}\u2026{line[head + 1 - most :]}")


def wrapped(text: str, width: int = 70, lines: int = 8) -> str:
    """A hover text in lines of `width` characters."""
    return "<br>".join(escape(text[i : i + width]) for i in range(0, min(len(text), lines * width), width))


def bulk(values: NDArray[Any], least: float = 0.0) -> tuple[float, float] | None:
    """Ends of an axis that fits the bulk of finite `values` and keeps their spikes recognisable.

    The middle 96 % count as the bulk; beyond it the axis follows the extremes for as much as its width again (or
    `least`), so that one step at 1e30 does not flatten the rest of the run.

    Example:
        >>> bulk(np.array([1.0] * 50 + [2.0] * 50)), bulk(np.array([1.0] * 50 + [2.0] * 50 + [1e30]))
        ((1.0, 2.0), (1.0, 3.0))
    """
    if not len(values):
        return None
    low, high = (float(q) for q in np.quantile(values, (0.02, 0.98)))
    room = max(high - low, least)
    return max(float(values.min()), low - room), min(float(values.max()), high + room)


def escape(text: str) -> str:
    """Text that plotly shows as it is: it takes a few HTML tags for markup."""
    return html.escape(text, quote=False)
