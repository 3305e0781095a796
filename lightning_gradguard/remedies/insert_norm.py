"""ACT: normalization between a layer and its activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.model_changes import NewModule
from lightning_gradguard.step.pending_step import PendingStep

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class InsertNorm(AbstractRemedy):
    """Inserts a LayerNorm before every hidden activation; after a convolution a GroupNorm with one group.

    It has no parameters, so the optimizer, the strategy and the schedule are not affected, and it works for any batch
    size. The layer becomes `nn.Sequential(layer, norm)`, so its parameters are one level deeper in `state_dict`.

    References:
        Ba, Kiros and Hinton 2016, arXiv 1607.06450; Wu and He 2018, arXiv 1803.08494.
    """

    only_model: ClassVar[bool] = True

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        if step.module is None or step.activation_stats is None:
            return None
        last, count = step.activation_stats.layers[-1], 0
        for name in dict.fromkeys(a.layer for a in step.activation_stats.activations if a.layer != last):
            layer = step.module.get_submodule(name)
            if type(layer) is nn.Linear:
                arguments = {"normalized_shape": layer.out_features, "elementwise_affine": False}
                norm = NewModule("LayerNorm", arguments, "after")
            elif isinstance(layer, _CONVOLUTIONS):
                arguments = {"num_groups": 1, "num_channels": layer.out_channels, "affine": False}
                norm = NewModule("GroupNorm", arguments, "after")
            else:
                continue
            step.replace_module(name, norm)
            count += 1
        return self.did(f"inserted normalization after {count} layers") if count else None
