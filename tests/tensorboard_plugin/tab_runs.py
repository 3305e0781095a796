"""Step statistics with chosen values."""

from __future__ import annotations

import numpy as np

from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats


def stats(step: int, norms: np.ndarray, names: tuple[str, ...] | None = None, **fields: object) -> GradStats:
    """Statistics of the given layers, by default named `block.<i>.linear`."""
    names = names or tuple(f"block.{i}.linear" for i in range(len(norms)))
    layers = Layers(names, np.full(len(norms), 16), np.ones(len(norms), bool))
    return GradStats(step, layers, norms, **{"loss": 0.5, "lr": 0.1, **fields})
