"""Now and then a batch is scaled."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import on_batch, rest


@operator([*BAD_INPUT, "loss_increase", "nonfinite", "damaged_weights"], (1.0, 1e6), ["real inputs"], SUDDEN)
def batches_scaled(setup: Setup, severity: float) -> None:
    late = rest(setup)
    some = set(setup.random.sample(late, 1 + len(late) // 20))
    on_batch(setup, some, lambda x, y: x.mul_(severity))
