"""ACT: one file a remedy; stateless, and in touch with the run only through `PendingStep`."""

from __future__ import annotations

from typing import Any

from lightning_gradguard.findings import Action
from lightning_gradguard.plugins import load_plugins
from lightning_gradguard.remedies.adaptive_clip import AdaptiveClip
from lightning_gradguard.remedies.base import AbstractClip, AbstractRemedy
from lightning_gradguard.remedies.cap_lr import CapLR
from lightning_gradguard.remedies.clips import AGC, AutoClip, ZClip
from lightning_gradguard.remedies.group_clip import GroupClip
from lightning_gradguard.remedies.increase_weight_decay import IncreaseWeightDecay
from lightning_gradguard.remedies.insert_norm import InsertNorm
from lightning_gradguard.remedies.normalize_input import NormalizeInput
from lightning_gradguard.remedies.reduce_dropout import ReduceDropout
from lightning_gradguard.remedies.reduce_eps import ReduceEps
from lightning_gradguard.remedies.reduce_lr import ReduceLR
from lightning_gradguard.remedies.reduce_momentum import ReduceMomentum
from lightning_gradguard.remedies.reinitialize import Reinitialize
from lightning_gradguard.remedies.remove_weight_decay import RemoveWeightDecay
from lightning_gradguard.remedies.revive_units import ReviveUnits
from lightning_gradguard.remedies.rollback import Rollback
from lightning_gradguard.remedies.scale_lr import ScaleLR
from lightning_gradguard.remedies.scale_lr_to_update_ratio import ScaleLRToUpdateRatio
from lightning_gradguard.remedies.set_forget_bias import SetForgetBias
from lightning_gradguard.remedies.skip_step import SkipStep
from lightning_gradguard.remedies.stop import Stop
from lightning_gradguard.remedies.swap_activation import SwapActivation
from lightning_gradguard.remedies.switch_to_adam import SwitchToAdam
from lightning_gradguard.remedies.try_each import TryEach
from lightning_gradguard.renamed import renamed_exports
from lightning_gradguard.step.pending_step import PendingStep

__all__ = [
    "AGC",
    "AbstractClip",
    "AbstractRemedy",
    "Action",
    "AdaptiveClip",
    "AutoClip",
    "CapLR",
    "GroupClip",
    "IncreaseWeightDecay",
    "InsertNorm",
    "NormalizeInput",
    "PendingStep",
    "ReduceDropout",
    "ReduceEps",
    "ReduceLR",
    "ReduceMomentum",
    "Reinitialize",
    "RemoveWeightDecay",
    "ReviveUnits",
    "Rollback",
    "ScaleLR",
    "ScaleLRToUpdateRatio",
    "SetForgetBias",
    "SkipStep",
    "Stop",
    "SwapActivation",
    "SwitchToAdam",
    "TryEach",
    "ZClip",
    "list_remedies",
]


__getattr__ = renamed_exports(
    __name__,
    {
        "AdaptUpdates": "SwitchToAdam",
        "CalmMomentum": "ReduceMomentum",
        "DecayWeights": "IncreaseWeightDecay",
        "EaseDecay": "RemoveWeightDecay",
        "FitLR": "ScaleLRToUpdateRatio",
        "HoldLR": "CapLR",
        "Try": "TryEach",
    },
    globals(),
)


def list_remedies() -> dict[str, type[AbstractRemedy]]:
    """Every remedy by name: those of this package, then those of installed distributions (`gradguard.remedies`).

    Example:
        >>> list_remedies()["SkipStep"]()
        SkipStep()
    """
    exported = ((name, globals()[name]) for name in __all__ if name != "AbstractRemedy")
    own = {name: value for name, value in exported if isinstance(value, type) and issubclass(value, AbstractRemedy)}
    return own | {name: plugin.offer for name, plugin in load_plugins("gradguard.remedies", _as_remedy, own).items()}


def _as_remedy(name: str, loaded: Any) -> tuple[str, type[AbstractRemedy]]:
    if not (isinstance(loaded, type) and issubclass(loaded, AbstractRemedy)):
        raise TypeError("a remedy must be a class that extends `AbstractRemedy`")
    return name, loaded
