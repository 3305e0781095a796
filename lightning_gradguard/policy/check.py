"""DECIDE: the policy and the detectors of a guard, held against each other."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_gradguard.arguments import require
from lightning_gradguard.collect.loss_level import LOSS_LEVEL
from lightning_gradguard.collect.loss_trend import LOSS_TREND
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.policy.ladders import Policy
from lightning_gradguard.policy.presets import PRESETS


def check_policy(policy: str | Policy, detectors: Sequence[AbstractDetector]) -> Policy:
    """The policy as a value.

    Args:
        policy: A preset's name, or a policy.
        detectors: What the policy is to answer.

    Raises:
        ValueError: If the policy is unknown or names a kind that no detector reports, or if `detectors` holds anything
            but detectors with different names.

    Example:
        >>> from lightning_gradguard.detectors import DETECTORS
        >>> check_policy("protect", DETECTORS).name
        'protect'
    """
    for detector in detectors:
        require(isinstance(detector, AbstractDetector), "GradGuard(detectors=...)", "must hold detectors", detector)
    names = [LOSS_TREND, LOSS_LEVEL, *(detector.name for detector in detectors)]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"`GradGuard(detectors=...)` must have different names, got {doubled[0]!r} twice; set `name`.")
    chosen = PRESETS.get(policy) if isinstance(policy, str) else policy
    if not isinstance(chosen, Policy):
        raise ValueError(f"`GradGuard(policy=...)` must be one of {sorted(PRESETS)} or a Policy, got {policy!r}.")
    kinds = sorted({detector.kind for detector in detectors})
    for kind in () if isinstance(policy, str) else chosen.ladders:
        if kind not in kinds:
            raise ValueError(
                f"`GradGuard(policy=...)` names {kind!r}, but no detector reports it; they report: {', '.join(kinds)}."
            )
    return chosen
