"""Layers are added behind one activation."""

from __future__ import annotations

from mutants.layers import deepen, hidden
from mutants.operators import BAD_WEIGHTS, operator
from mutants.setups import Setup


@operator([*BAD_WEIGHTS, "no_progress", "stalled"], severity=(1.0, 40.0), needs=["depth"])
def depth(setup: Setup, severity: float) -> None:
    chain, at = setup.random.choice(hidden(setup.net))
    deepen(chain, at, round(severity))
