"""From some step on, one sample of many batches is far too large."""

from __future__ import annotations

from mutants.operators import BAD_INPUT, SUDDEN, operator
from mutants.setups import Setup
from mutants.strikes import on_batch, rest


@operator([*BAD_INPUT, "loss_increase", "nonfinite"], (1e1, 1e6), ["real inputs"], SUDDEN)
def large_samples_later(setup: Setup, severity: float) -> None:
    late = rest(setup)
    some = set(setup.random.sample(late, 1 + len(late) // 5))
    on_batch(setup, some, lambda x, y: x[0].mul_(severity))
