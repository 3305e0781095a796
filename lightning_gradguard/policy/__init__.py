"""DECIDE: which remedy answers a finding, by a ladder for each kind, and the three policies that come by name."""

from lightning_gradguard.policy.check import check_policy
from lightning_gradguard.policy.ladders import Policy, decide
from lightning_gradguard.policy.presets import MONITOR, PRESETS, PROTECT, REPAIR

__all__ = ["MONITOR", "PRESETS", "PROTECT", "REPAIR", "Policy", "check_policy", "decide"]
