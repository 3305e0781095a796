"""The heatmap of layers by step as a picture for TensorBoard's Images tab, where the GradGuard tab is not installed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_gradguard.show.heatmap_window import HeatmapWindow
from lightning_gradguard.show.metadata import NONFINITE_COLOR, VIRIDIS, ZERO_COLOR, rgb, viridis

#: Size of the colored area in pixels, and the margins for layer names, title, color bar and steps.
WIDTH, HEIGHT = 640, 360
LEFT, TOP, RIGHT, BOTTOM = 190, 30, 90, 40
#: Layer names that fit beside the colored area.
MAX_LABELS = 18
LEGEND = "input at the top; white line: incident; gray: zero; orange: NaN or inf"
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
INK, PAPER = (32, 33, 36), (255, 255, 255)


def draw_heatmap(window: HeatmapWindow, names: Sequence[str], marks: Sequence[int], title: str) -> NDArray[np.uint8]:
    """Draws the heatmap with the input at the top and a line at each incident.

    Args:
        window: The columns, log10 of a statistic of each layer.
        names: The layers, `[L]`, input first.
        marks: First steps of the incidents.
        title: One line above the heatmap.

    Returns:
        An RGB picture, `[height, width, 3]`.
    """
    log10 = np.stack(window.columns, axis=1).astype(np.float64)
    finite = log10[np.isfinite(log10)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    high = max(high, low + 1e-6)
    page = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM), PAPER)
    page.paste(
        Image.fromarray(colorize(log10, low, high)).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST),
        (LEFT, TOP),
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    pen.text((LEFT, 9), ascii_only(title, 100), INK, font)
    draw_axes(pen, font, window.steps, names)
    draw_color_bar(page, pen, font, low, high)
    draw_marks(pen, window.steps, marks)
    return np.asarray(page)


def colorize(log10: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Colors `[L, T, 3]` of logarithms `[L, T]`; rows that share a pixel show their maximum."""
    if len(log10) > HEIGHT:
        edges = np.linspace(0, len(log10), HEIGHT, endpoint=False).astype(int)
        log10 = np.maximum.reduceat(log10, edges, axis=0)
    colors = viridis((log10 - low) / (high - low))
    colors[np.isneginf(log10)] = rgb(ZERO_COLOR)
    colors[np.isnan(log10) | np.isposinf(log10)] = rgb(NONFINITE_COLOR)
    return colors


def draw_axes(pen: ImageDraw.ImageDraw, font: Font, steps: Sequence[int], names: Sequence[str]) -> None:
    """Writes layer names at the left, and the first, middle and last step below."""
    for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), MAX_LABELS)).astype(int)):
        middle = TOP + HEIGHT * (i + 0.5) / len(names)
        pen.text((LEFT - 6, middle), ascii_only(names[i], 28), INK, font, anchor="rm")
    for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        at = min(int(share * len(steps)), len(steps) - 1)
        pen.text((LEFT + WIDTH * share, TOP + HEIGHT + 6), f"step {steps[at]}", INK, font, anchor=anchor)
    pen.text((LEFT, TOP + HEIGHT + 22), LEGEND, INK, font)


def draw_color_bar(page: Image.Image, pen: ImageDraw.ImageDraw, font: Font, low: float, high: float) -> None:
    """Draws the color scale from `10**high` down to `10**low`."""
    ramp = viridis(np.linspace(1, 0, HEIGHT))[:, None, :]
    page.paste(Image.fromarray(ramp).resize((14, HEIGHT)), (LEFT + WIDTH + 12, TOP))
    for share in np.linspace(0, 1, len(VIRIDIS) // 2):
        value = 10.0 ** (high - share * (high - low))
        pen.text((LEFT + WIDTH + 32, TOP + HEIGHT * share), f"{value:.0e}", INK, font, anchor="lm")


def draw_marks(pen: ImageDraw.ImageDraw, steps: Sequence[int], marks: Sequence[int]) -> None:
    """Draws a white line with a dark edge at each incident inside the window."""
    for mark in marks:
        if steps[0] <= mark <= steps[-1]:
            at = LEFT + WIDTH * (np.searchsorted(steps, mark) + 0.5) / len(steps)
            pen.line((at, TOP, at, TOP + HEIGHT), fill=INK, width=3)
            pen.line((at, TOP, at, TOP + HEIGHT), fill=PAPER, width=1)


def ascii_only(text: str, max_length: int) -> str:
    """`text` on one line, in ASCII because the font has no more, and shortened in the middle if it is too long."""
    plain = " ".join(text.split()).encode("ascii", "replace").decode()
    half = (max_length - 3) // 2
    return plain if len(plain) <= max_length else f"{plain[:half]}...{plain[-half:]}"
