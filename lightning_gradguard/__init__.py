"""One PyTorch Lightning callback that sees gradient trouble, repairs the run and shows it in TensorBoard.

Public names are resolved on first use (PEP 562): TensorBoard imports this package for its plug-in, and must not pay
for torch and Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

#: Public name -> the module that defines it.
_EXPORTS = {
    "Finding": "findings",
    "CodeChange": "step.model_changes",
    "Diagnosis": "examine",
    "GradGuard": "callback",
    "GradStats": "collect.stats",
    "Incident": "findings",
    "MONITOR": "policy.presets",
    "PROTECT": "policy.presets",
    "Policy": "policy.ladders",
    "REPAIR": "policy.presets",
    "Report": "record.report",
    "alerts": "alerts",
    "detectors": "detectors",
    "doctor": "examine",
    "fixes": "fixes",
    "load": "checkpoints",
    "policy": "policy",
    "remedies": "remedies",
    "zoo": "zoo",
}
_MODULES = {"alerts", "detectors", "fixes", "policy", "remedies", "zoo"}

__all__ = [
    "MONITOR",
    "PROTECT",
    "REPAIR",
    "CodeChange",
    "Diagnosis",
    "Finding",
    "GradGuard",
    "GradStats",
    "Incident",
    "Policy",
    "Report",
    "__version__",
    "alerts",
    "detectors",
    "doctor",
    "fixes",
    "load",
    "policy",
    "remedies",
    "zoo",
]

if TYPE_CHECKING:
    from lightning_gradguard import alerts, detectors, fixes, remedies, zoo
    from lightning_gradguard.callback import GradGuard
    from lightning_gradguard.checkpoints import load
    from lightning_gradguard.collect.stats import GradStats
    from lightning_gradguard.examine import Diagnosis, doctor
    from lightning_gradguard.findings import Finding, Incident
    from lightning_gradguard.policy import ladders as policy
    from lightning_gradguard.policy.ladders import Policy
    from lightning_gradguard.policy.presets import MONITOR, PROTECT, REPAIR
    from lightning_gradguard.record.report import Report
    from lightning_gradguard.step.model_changes import CodeChange


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lightning_gradguard' has no attribute {name!r}")
    module = importlib.import_module(f"lightning_gradguard.{_EXPORTS[name]}")
    if name == "GradGuard":
        module.join_namespaces()
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
