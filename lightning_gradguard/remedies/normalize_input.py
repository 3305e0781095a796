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
from lightning_gradguard.tensors.norms import Floats

#: Largest RMS of a feature above which inputs are far off, as in `UnnormalizedInput`. Samples whose norm is below the
#: inverse are far off, too: that of words counted or one-hot, whose features are small one by one, is about 1. Chosen.
FAR = 30.0
#: Dimensions after the channels in the input of each layer; 0 where the features are the last dimension.
SPATIAL = {nn.Linear: 0, nn.RNNBase: 0, nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True)
class NormalizeInput(AbstractRemedy):
    """Puts a `RunningStandardize` before the first layer when the input is far from standardized.

    Args:
        above: Largest RMS of a feature that is left alone, unless the samples' norm is below 1/30. Default as in
            `UnnormalizedInput`.

    Raises:
        ValueError: If `above` is not positive.
    """

    only_model: ClassVar[bool] = True
    cause: ClassVar[str] = "unnormalized_input"
    only_corrects: ClassVar[bool] = True
    above: float = 30.0

    def __post_init__(self) -> None:
        require_number("NormalizeInput(above=...)", self.above, above=0)

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether a feature's RMS is above 30 or the samples' norm below 1/30."""
        rms = rms_of(step)
        return len(rms) > 0 and (rms.max() > FAR or is_tiny(rms))

    @property
    def name(self) -> str:
        return f"NormalizeInput({self.above:g})"

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        rms = rms_of(step)
        if step.module is None or step.activation_stats is None or not len(rms):
            return None
        name = step.activation_stats.layers[0]
        layer = step.module.get_submodule(name)
        spatial = next((dims for cls, dims in SPATIAL.items() if isinstance(layer, cls)), None)
        if spatial is None or not np.isfinite(rms).all() or not (rms.max() > self.above or is_tiny(rms)):
            return None
        arguments = {"features": len(rms), "spatial": spatial}
        step.replace_module(name, NewModule("RunningStandardize", arguments, "before"))
        return self.did(f"standardized the input of {name}, whose features had an RMS of up to {rms.max():.3g}")


def rms_of(step: PendingStep) -> Floats:
    """RMS of each feature of the first layer's input, `[F]`; empty where that is not known."""
    stats = step.activation_stats
    return np.hypot(stats.input_mean, stats.input_std) if stats is not None else np.empty(0)


def is_tiny(rms: Floats) -> bool:
    """Whether samples with features of this RMS, `[F]`, are far too small, but not 0."""
    return 0 < float(np.linalg.norm(rms)) < 1 / FAR
