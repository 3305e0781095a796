"""The columns of the heatmap that becomes a picture, in bounded space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class HeatmapWindow:
    """Columns of a heatmap, at most `max_columns` of them: a full window drops every second and doubles its stride.

    Example:
        >>> window = HeatmapWindow(max_columns=4)
        >>> for x in range(9):
        ...     window.add(x, np.zeros(2))
        >>> window.steps
        [0, 4, 8]
    """

    def __init__(self, max_columns: int = 320) -> None:
        self.max_columns, self.stride, self.offered = max_columns, 1, 0
        self.steps: list[int] = []
        self.columns: list[NDArray[np.floating]] = []

    def add(self, x: int, column: NDArray[np.floating]) -> None:
        """Keeps the column `[L]` of step `x` if the stride falls on it."""
        if len(self.columns) == self.max_columns:
            self.steps, self.columns, self.stride = self.steps[::2], self.columns[::2], 2 * self.stride
        if self.offered % self.stride == 0:
            self.steps.append(x)
            self.columns.append(column)
        self.offered += 1
