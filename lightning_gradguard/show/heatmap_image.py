"""The layer-by-step heatmap as a picture, for TensorBoard's Images tab where there is no GradGuard tab."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_gradguard.show.metadata import NONFINITE_COLOR, VIRIDIS, ZERO_COLOR, rgb, viridis

#: Size of the coloured area in pixels, and the margins for layer names, title and colour bar. Chosen.
WIDTH, HEIGHT = 640, 360
LEFT, TOP, RIGHT, BOTTOM = 190, 30, 90, 40
LABELS = 18
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
INK, PAPER = (32, 33, 36), (255, 255, 255)


class Window:
    """The last columns of a heatmap, thinned to at most `most` of them: doubling its stride when it is full.

    Example:
        >>> window = Window(most=4)
        >>> for x in range(9):
        ...     window.add(x, np.zeros(2))
        >>> window.steps
        [0, 4, 8]
    """

    def __init__(self, most: int = 320) -> None:
        self.most, self.stride, self.seen = most, 1, 0
        self.steps: list[int] = []
        self.columns: list[NDArray[np.floating]] = []

    def add(self, x: int, column: NDArray[np.floating]) -> None:
        """Takes one column `[L]` if it falls on the stride."""
        if len(self.columns) == self.most:
            self.steps, self.columns, self.stride = self.steps[::2], self.columns[::2], 2 * self.stride
        if self.seen % self.stride == 0:
            self.steps.append(x)
            self.columns.append(column)
        self.seen += 1


def draw(window: Window, names: Sequence[str], marks: Sequence[int], title: str) -> NDArray[np.uint8]:
    """Draws the heatmap of log10 norms, input at the top, with a line at every incident.

    Args:
        window: The columns, log10 of a norm per layer.
        names: The layers, `[L]`, input first.
        marks: Steps of the incidents.
        title: One line above the picture.

    Returns:
        An RGB picture, `[height, width, 3]`.
    """
    field = np.stack(window.columns, axis=1).astype(np.float64)
    finite = field[np.isfinite(field)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    high = max(high, low + 1e-6)
    page = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM), PAPER)
    page.paste(
        Image.fromarray(paint(field, low, high)).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST),
        (LEFT, TOP),
    )
    pen, font = ImageDraw.Draw(page), ImageFont.load_default()
    pen.text((LEFT, 9), ascii_only(title, 100), INK, font)
    draw_axes(pen, font, window.steps, names)
    draw_colorbar(page, pen, font, low, high)
    draw_marks(pen, window.steps, marks)
    return np.asarray(page)


def paint(field: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """Colours `[L, T, 3]` of a field of logarithms; rows that must share a pixel show their largest."""
    if len(field) > HEIGHT:
        edges = np.linspace(0, len(field), HEIGHT, endpoint=False).astype(int)
        field = np.maximum.reduceat(field, edges, axis=0)
    colors = viridis((field - low) / (high - low))
    colors[np.isneginf(field)] = rgb(ZERO_COLOR)
    colors[np.isnan(field) | np.isposinf(field)] = rgb(NONFINITE_COLOR)
    return colors


def draw_axes(pen: ImageDraw.ImageDraw, font: Font, steps: Sequence[int], names: Sequence[str]) -> None:
    """Layer names at the left, first, middle and last step below."""
    for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), LABELS)).astype(int)):
        middle = TOP + HEIGHT * (i + 0.5) / len(names)
        pen.text((LEFT - 6, middle), ascii_only(names[i], 28), INK, font, anchor="rm")
    for share, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        at = min(int(share * len(steps)), len(steps) - 1)
        pen.text((LEFT + WIDTH * share, TOP + HEIGHT + 6), f"step {steps[at]}", INK, font, anchor=anchor)
    pen.text(
        (LEFT, TOP + HEIGHT + 22),
        "input at the top; white lines: incidents; grey: zero; orange: not finite",
        INK,
        font,
    )


def draw_colorbar(page: Image.Image, pen: ImageDraw.ImageDraw, font: Font, low: float, high: float) -> None:
    """The scale, in powers of ten."""
    ramp = viridis(np.linspace(1, 0, HEIGHT))[:, None, :]
    page.paste(Image.fromarray(ramp).resize((14, HEIGHT)), (LEFT + WIDTH + 12, TOP))
    for share in np.linspace(0, 1, len(VIRIDIS) // 2):
        value = 10.0 ** (high - share * (high - low))
        pen.text((LEFT + WIDTH + 32, TOP + HEIGHT * share), f"{value:.0e}", INK, font, anchor="lm")


def draw_marks(pen: ImageDraw.ImageDraw, steps: Sequence[int], marks: Sequence[int]) -> None:
    """A white line with a dark edge at each incident inside the window."""
    for mark in marks:
        if steps[0] <= mark <= steps[-1]:
            at = LEFT + WIDTH * (np.searchsorted(steps, mark) + 0.5) / len(steps)
            pen.line((at, TOP, at, TOP + HEIGHT), fill=INK, width=3)
            pen.line((at, TOP, at, TOP + HEIGHT), fill=PAPER, width=1)


def ascii_only(text: str, most: int) -> str:
    """`text` on one line in characters that every font has, its middle cut out when too long."""
    plain = " ".join(text.split()).encode("ascii", "replace").decode()
    half = (most - 3) // 2
    return plain if len(plain) <= most else f"{plain[:half]}...{plain[-half:]}"
