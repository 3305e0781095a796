"""The tools that run on every mutant."""

from __future__ import annotations

from peers import REPAIR, WITH_REPAIR

from lightning_gradguard import GradGuard

ALONE, PROTECT = "no guard", "GradGuard"
OURS = (PROTECT, REPAIR, "GradGuard monitor")
TOOLS = {
    **WITH_REPAIR,
    PROTECT: lambda: ([GradGuard(record=False)], {}),
    "GradGuard monitor": lambda: ([GradGuard("monitor", record=False)], {}),
}
