"""Weights of one layer times up to 1,000, either way, at one step."""

from __future__ import annotations

from typing import Any

from chaos_faults import Fault
from edits import fill
from mutant import LAYERS, Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    factor, step, at = draw.either_way(1e3), draw.step(program), draw.random.randrange(10**6)

    def hit(module: Any, step: int) -> None:
        layers = [m for m in module.modules() if isinstance(m, LAYERS)]
        fill(layers[at % len(layers)], factor)

    program.fault = Fault([step], state=hit)
    return f"one layer x {factor:.3g} at step {step}"


OPERATOR = Operator(
    "weights_hit",
    mutate,
    (
        "damaged_weights",
        "loss_spike",
        "exploding",
        "loss_increase",
        "diverging",
        "nonfinite",
        "collapsed",
        "dead_units",
    ),
    sudden=True,
)
