"""ACT: one file a remedy; stateless, and in touch with the run only through `PendingStep`."""

from lightning_gradguard.remedies.adaptive_clip import AdaptiveClip
from lightning_gradguard.remedies.base import AbstractClip, AbstractRemedy
from lightning_gradguard.remedies.cap_lr import CapLR
from lightning_gradguard.remedies.clips import AGC, AutoClip, ZClip
from lightning_gradguard.remedies.increase_weight_decay import IncreaseWeightDecay
from lightning_gradguard.remedies.insert_norm import InsertNorm
from lightning_gradguard.remedies.normalize_input import NormalizeInput
from lightning_gradguard.remedies.reduce_lr import ReduceLR
from lightning_gradguard.remedies.reduce_momentum import ReduceMomentum
from lightning_gradguard.remedies.reinitialize import Reinitialize
from lightning_gradguard.remedies.remove_weight_decay import RemoveWeightDecay
from lightning_gradguard.remedies.rescale_layers import RescaleLayers
from lightning_gradguard.remedies.restart import Restart
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

__all__ = [
    "AGC",
    "AbstractClip",
    "AbstractRemedy",
    "AdaptiveClip",
    "AutoClip",
    "CapLR",
    "IncreaseWeightDecay",
    "InsertNorm",
    "NormalizeInput",
    "ReduceLR",
    "ReduceMomentum",
    "Reinitialize",
    "RemoveWeightDecay",
    "RescaleLayers",
    "Restart",
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
]
