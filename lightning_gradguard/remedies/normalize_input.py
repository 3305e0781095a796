"""ACT: standardize the input of the first layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from lightning_gradguard.arguments import require_number
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.model_changes import NewModule
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class NormalizeInput(AbstractRemedy):
    """Puts a `RunningStandardize` before the first layer when the input is far from standardized.

    Args:
        above: Largest RMS of a feature that is left alone. Default as in `UnnormalizedInput`.

    Raises:
        ValueError: If `above` is not positive.
    """

    only_model: ClassVar[bool] = True
    cause: ClassVar[str] = "unnormalized_input"
    above: float = 30.0

    def __post_init__(self) -> None:
        require_number("NormalizeInput(above=...)", self.above, above=0)

    @property
    def name(self) -> str:
        return f"NormalizeInput({self.above:g})"

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.module is None or step.activation_stats is None or not len(step.activation_stats.input_mean):
            return None
        rms = np.hypot(step.activation_stats.input_mean, step.activation_stats.input_std)
        name = step.activation_stats.layers[0]
        layer = step.module.get_submodule(name)
        spatial = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}.get(type(layer))
        if spatial is None or not (np.isfinite(rms).all() and rms.max() > self.above):
            return None
        arguments = {"features": len(rms), "spatial": spatial}
        step.replace_module(name, NewModule("RunningStandardize", arguments, "before"))
        return self.did(f"standardized the input of {name}, whose features had an RMS of up to {rms.max():.3g}")
