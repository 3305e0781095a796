"""Colours, words and labels of the figures."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

#: Names of statistics in words; others are shown by their own name.
WORDS = {"grad_norm": "gradient norm", "update_ratio": "update-to-weight ratio", "param_norm": "weight norm"}


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


def statistic_words(statistic: str) -> str:
    """A statistic's name as it may stand in a figure."""
    return escape(WORDS.get(statistic, statistic))


def row_labels(names: Sequence[str], counts: Sequence[int], most: int = 24) -> list[str]:
    """A short and unique label for each row, with the number of layers it stands for.

    Example:
        >>> row_labels(["encoder.layer.0", "encoder.layer.1", "head"], [4, 4, 1], most=12)
        ['encod…yer.0 (4)', 'encod…yer.1 (4)', 'head']
    """
    labels: dict[str, None] = {}
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        text = label(name, most) + (f" ({count})" if count > 1 else "")
        labels[text if text not in labels else f"{text} #{i}"] = None
    return list(labels)


def label(name: str, most: int) -> str:
    """A name as it may stand in a figure: on one line, at most `most` characters, and never markup.

    Example:
        >>> label("<b>encoder</b>.layers.0.attention.query", 24)
        '&lt;b&gt;encoder&lt;…ntion.query'
    """
    line = "\u23ce".join(name.splitlines()) or "(no name)"
    head = most // 2 - 1
    return escape(line if len(line) <= most else f"{line[:head]}\u2026{line[-head:]}")


def wrapped(text: str, width: int = 70, lines: int = 8) -> str:
    """A hover text in lines of `width` characters."""
    return "<br>".join(escape(text[i : i + width]) for i in range(0, min(len(text), lines * width), width))


def escape(text: str) -> str:
    """Text that plotly shows as it is: it takes a few HTML tags for markup."""
    return html.escape(text, quote=False)
