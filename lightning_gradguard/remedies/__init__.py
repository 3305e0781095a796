"""ACT: one file a remedy; stateless, and in touch with the run only through `PendingStep`."""

from lightning_gradguard.remedies.adapt_updates import AdaptUpdates
from lightning_gradguard.remedies.adaptive_clip import AdaptiveClip
from lightning_gradguard.remedies.base import AbstractClip, AbstractRemedy
from lightning_gradguard.remedies.calm_momentum import CalmMomentum
from lightning_gradguard.remedies.clips import AGC, AutoClip, ZClip
from lightning_gradguard.remedies.decay_weights import DecayWeights
from lightning_gradguard.remedies.ease_decay import EaseDecay
from lightning_gradguard.remedies.fit_lr import FitLR
from lightning_gradguard.remedies.hold_lr import HoldLR
from lightning_gradguard.remedies.insert_norm import InsertNorm
from lightning_gradguard.remedies.normalize_input import NormalizeInput
from lightning_gradguard.remedies.reduce_lr import ReduceLR
from lightning_gradguard.remedies.reinitialize import Reinitialize
from lightning_gradguard.remedies.rescale_layers import RescaleLayers
from lightning_gradguard.remedies.restart import Restart
from lightning_gradguard.remedies.revive_units import ReviveUnits
from lightning_gradguard.remedies.rollback import Rollback
from lightning_gradguard.remedies.scale_lr import ScaleLR
from lightning_gradguard.remedies.set_forget_bias import SetForgetBias
from lightning_gradguard.remedies.skip_step import SkipStep
from lightning_gradguard.remedies.stop import Stop
from lightning_gradguard.remedies.swap_activation import SwapActivation
from lightning_gradguard.remedies.try_each import Try

__all__ = [
    "AGC",
    "AbstractClip",
    "AbstractRemedy",
    "AdaptUpdates",
    "AdaptiveClip",
    "AutoClip",
    "CalmMomentum",
    "DecayWeights",
    "EaseDecay",
    "FitLR",
    "HoldLR",
    "InsertNorm",
    "NormalizeInput",
    "ReduceLR",
    "Reinitialize",
    "RescaleLayers",
    "Restart",
    "ReviveUnits",
    "Rollback",
    "ScaleLR",
    "SetForgetBias",
    "SkipStep",
    "Stop",
    "SwapActivation",
    "Try",
    "ZClip",
]
