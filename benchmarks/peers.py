"""The tools that the tables compare. Tools that are not installed are left out."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from lightning_gradguard import GradGuard

#: Callbacks and Trainer options.
Setting = tuple[list[Any], dict[str, Any]]


def nothing() -> Setting:
    return [], {}


def clipping() -> Setting:
    return [], {"gradient_clip_val": 1.0}


def spike_detection() -> Setting:
    from lightning.pytorch.callbacks import SpikeDetection

    return [SpikeDetection()], {}


def zclip() -> Setting:
    from zclip import ZClipLightningCallback

    return [ZClipLightningCallback()], {}


def arc() -> Setting:
    from arc.api.integrations import LightningCallback

    return [LightningCallback(verbose=False)], {}


def gradguard() -> Setting:
    return [GradGuard()], {}


def repair() -> Setting:
    return [GradGuard("repair", record=False)], {}


#: Column title -> (required package, function that creates the tool with its own defaults).
ALL: dict[str, tuple[str, Callable[[], Setting]]] = {
    "no guard": ("lightning", nothing),
    "clip 1.0": ("lightning", clipping),
    "SpikeDetection": ("lightning", spike_detection),
    "ZClip": ("zclip", zclip),
    "ARC": ("arc", arc),
    "GradGuard": ("lightning", gradguard),
}
TOOLS = {title: make for title, (package, make) in ALL.items() if find_spec(package) is not None}
#: The same with the policy that changes models.
REPAIR = "GradGuard repair"
WITH_REPAIR = {**TOOLS, REPAIR: repair}
