"""ACT: standardise what reaches the first layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from lightning_gradguard.findings import Finding
from lightning_gradguard.fixes.standardize import RunningStandardize
from lightning_gradguard.modules.surgery import replace_module
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class NormalizeInput(AbstractRemedy):
    """Puts a `RunningStandardize` before the first layer when its input is far from standardised.

    Args:
        above: Largest RMS of a feature that is left alone; the default is that of `UnnormalizedInput`.

    Raises:
        ValueError: If `above` is not positive.
    """

    reversible: ClassVar[bool] = False
    cures: ClassVar[str] = "unnormalized_input"
    above: float = 30.0

    def __post_init__(self) -> None:
        if self.above <= 0:
            raise ValueError(f"`NormalizeInput(above=...)` must be positive, got {self.above!r}.")

    @property
    def name(self) -> str:
        return f"NormalizeInput({self.above:g})"

    def apply(self, finding: Finding, step: PendingStep) -> str:
        if step.module is None or step.look is None or not len(step.look.input_mean):
            return ""
        rms = np.hypot(step.look.input_mean, step.look.input_std)
        name = step.look.layers[0]
        layer = step.module.get_submodule(name)
        spatial = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}.get(type(layer))
        if spatial is None or not (np.isfinite(rms).all() and rms.max() > self.above):
            return ""
        device = next(layer.parameters()).device
        replace_module(step.module, name, nn.Sequential(RunningStandardize(len(rms), spatial).to(device), layer))
        return f"input of {name} standardised (RMS up to {rms.max():.3g})"
