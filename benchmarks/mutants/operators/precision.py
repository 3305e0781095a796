"""Weights, inputs and optimizer in bfloat16."""

from __future__ import annotations

from causes import SMALL
from mutant import Draw, Operator, Program


def mutate(program: Program, draw: Draw) -> str | None:
    draw.random.random()
    if program.train[0].is_floating_point():
        program.train = (program.train[0].bfloat16(), *program.train[1:])
        program.held_out = (program.held_out[0].bfloat16(), *program.held_out[1:])
    program.net = program.net.bfloat16()
    loss = program.loss
    program.loss = lambda net, x, y: loss(net, x, y.bfloat16() if y.is_floating_point() else y)
    return "bfloat16"


OPERATOR = Operator("precision", mutate, SMALL)
