"""The tools that run on every mutant."""

from __future__ import annotations

from peers import TOOLS as PEERS

from lightning_gradguard import GradGuard

ALONE, PROTECT, REPAIR = "no guard", "GradGuard", "GradGuard repair"
OURS = (PROTECT, REPAIR, "GradGuard monitor")
TOOLS = {
    **PEERS,
    PROTECT: lambda: ([GradGuard(record=False)], {}),
    REPAIR: lambda: ([GradGuard("repair", record=False)], {}),
    "GradGuard monitor": lambda: ([GradGuard("monitor", record=False)], {}),
}
