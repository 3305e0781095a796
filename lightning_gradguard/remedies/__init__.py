"""ACT: one file a remedy; stateless, and in touch with the run only through `PendingStep`."""

from lightning_gradguard.remedies.adaptive_clip import AdaptiveClip
from lightning_gradguard.remedies.base import AbstractClip, AbstractRemedy
from lightning_gradguard.remedies.clips import AGC, AutoClip, ZClip
from lightning_gradguard.remedies.hold_lr import HoldLR
from lightning_gradguard.remedies.reduce_lr import ReduceLR
from lightning_gradguard.remedies.rollback import Rollback
from lightning_gradguard.remedies.skip_step import SkipStep
from lightning_gradguard.remedies.stop import Stop

__all__ = [
    "AGC",
    "AbstractClip",
    "AbstractRemedy",
    "AdaptiveClip",
    "AutoClip",
    "HoldLR",
    "ReduceLR",
    "Rollback",
    "SkipStep",
    "Stop",
    "ZClip",
]
