"""DIAGNOSE: one file for each symptom; pure reducers from a stream of `GradStats` to findings."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

from lightning_gradguard.collect.loss_level import LOSS_LEVEL
from lightning_gradguard.collect.loss_trend import LOSS_TREND
from lightning_gradguard.detectors.bad_batch import BadBatch
from lightning_gradguard.detectors.base import AbstractDetector, State, diagnose
from lightning_gradguard.detectors.collapsed import Collapsed
from lightning_gradguard.detectors.constant_target import ConstantTarget
from lightning_gradguard.detectors.damaged_weights import DamagedWeights
from lightning_gradguard.detectors.dead_units import DeadUnits
from lightning_gradguard.detectors.diverging import Diverging
from lightning_gradguard.detectors.early_outlier import EarlyOutlier
from lightning_gradguard.detectors.exploding import Exploding
from lightning_gradguard.detectors.exploding_buffer import ExplodingBuffer
from lightning_gradguard.detectors.invalid_lr import InvalidLR
from lightning_gradguard.detectors.loss_increase import LossIncrease
from lightning_gradguard.detectors.loss_mismatch import LossMismatch
from lightning_gradguard.detectors.loss_spike import LossSpike
from lightning_gradguard.detectors.lr_jump import LRJump
from lightning_gradguard.detectors.no_progress import NoProgress
from lightning_gradguard.detectors.nonfinite import NonFinite
from lightning_gradguard.detectors.nonfinite_state import NonFiniteState
from lightning_gradguard.detectors.oscillating import Oscillating
from lightning_gradguard.detectors.overshooting import Overshooting
from lightning_gradguard.detectors.poor_initialization import PoorInitialization
from lightning_gradguard.detectors.saturated import Saturated
from lightning_gradguard.detectors.stalled import Stalled
from lightning_gradguard.detectors.through_time import ExplodingThroughTime, VanishingThroughTime
from lightning_gradguard.detectors.unnormalized_input import UnnormalizedInput
from lightning_gradguard.detectors.unnormalized_target import UnnormalizedTarget
from lightning_gradguard.detectors.unused import Unused
from lightning_gradguard.detectors.vanishing import Vanishing
from lightning_gradguard.detectors.weight_growth import WeightGrowth
from lightning_gradguard.plugins import load_plugins
from lightning_gradguard.renamed import renamed_exports

__all__ = [
    "DETECTORS",
    "AbstractDetector",
    "BadBatch",
    "Collapsed",
    "ConstantTarget",
    "DamagedWeights",
    "DeadUnits",
    "Diverging",
    "EarlyOutlier",
    "Exploding",
    "ExplodingBuffer",
    "ExplodingThroughTime",
    "InvalidLR",
    "LRJump",
    "LossIncrease",
    "LossMismatch",
    "LossSpike",
    "NoProgress",
    "NonFinite",
    "NonFiniteState",
    "Oscillating",
    "Overshooting",
    "PoorInitialization",
    "Saturated",
    "Stalled",
    "State",
    "UnnormalizedInput",
    "UnnormalizedTarget",
    "Unused",
    "Vanishing",
    "VanishingThroughTime",
    "WeightGrowth",
    "diagnose",
    "list_detectors",
]

#: The detectors of `GradGuard()`. Causes come before their effects: a loss spike before the explosion, because a step
#: that is skipped needs no clipping, and unscaled inputs before the saturation and the dead units they cause.
DETECTORS: tuple[AbstractDetector, ...] = (
    NonFinite(),
    NonFiniteState(),
    DamagedWeights(),
    BadBatch(),
    LossSpike(),
    Exploding(),
    EarlyOutlier(),
    ExplodingBuffer(),
    LossIncrease(),
    InvalidLR(),
    LRJump(),
    Overshooting(),
    LossMismatch(),
    ConstantTarget(),
    UnnormalizedInput(),
    UnnormalizedTarget(),
    Vanishing(),
    Stalled(),
    Oscillating(),
    PoorInitialization(),
    VanishingThroughTime(),
    ExplodingThroughTime(),
    Saturated(),
    DeadUnits(),
    Diverging(),
    Collapsed(),
    NoProgress(),
    WeightGrowth(),
    Unused(),
)


__getattr__ = renamed_exports(__name__, {"Relapse": "LossIncrease"}, globals())


@functools.cache
def list_detectors() -> tuple[AbstractDetector, ...]:
    """What `GradGuard()` runs by default: `DETECTORS`, then those of installed distributions (`gradguard.detectors`).

    The first call in a process writes a log line that names the installed ones.

    Example:
        >>> list_detectors()[0]
        NonFinite(name='nonfinite')
    """
    taken = {LOSS_TREND, LOSS_LEVEL, *(detector.name for detector in DETECTORS)}
    plugins = load_plugins("gradguard.detectors", _as_detector, taken)
    if plugins and os.environ.get("LOCAL_RANK", "0") == "0":  # not once more for every process of a machine
        named = ", ".join(f"{name!r} of {plugin.distribution}" for name, plugin in plugins.items())
        logging.getLogger("lightning_gradguard").info("GradGuard also runs the installed detectors %s.", named)
    return (*DETECTORS, *(plugin.offer for plugin in plugins.values()))


def _as_detector(_: str, loaded: Any) -> tuple[str, AbstractDetector]:
    detector = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(detector, AbstractDetector) or not getattr(detector, "kind", ""):
        raise TypeError("a detector must extend `AbstractDetector` and have a `kind`")
    return detector.name, detector
