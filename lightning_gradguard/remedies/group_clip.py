"""ACT: a clip for each group of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_gradguard.arguments import require
from lightning_gradguard.collect.groups import check_regex
from lightning_gradguard.remedies.base import AbstractClip
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class GroupClip(AbstractClip):
    """Clips groups of parameters, each by its own clip with its own state; `GradGuard(clip={...})` makes it.

    Args:
        clips: A clip for each regular expression, which is searched for in the names of the parameters. Parameters that
            match none are not clipped.
    """

    clips: Mapping[str, AbstractClip]

    @property
    def unitwise(self) -> bool:  # type: ignore[override]  # a constant of the other clips
        return any(clip.unitwise for clip in self.clips.values())

    @property
    def label(self) -> str:
        return ", ".join(f"{regex}: {clip.label}" for regex, clip in self.clips.items())

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.clips)

    def init(self) -> dict[str, Any]:
        return {regex: clip.init() for regex, clip in self.clips.items()}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        parts = {regex: step.part(regex) for regex in self.clips}
        state = {regex: clip.apply(state[regex], parts[regex]) for regex, clip in self.clips.items()}
        step.join(parts.values())
        return state


def as_clip(call: str, clip: object) -> AbstractClip | None:
    """A clip, or a mapping of regular expressions to clips as one.

    Args:
        call: How it was given, for the error.
        clip: What was given; None for none.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> as_clip("GradGuard(clip=...)", {"^head": 1.0})
        Traceback (most recent call last):
        ValueError: `GradGuard(clip=...)['^head']` must be a clip such as ZClip(), got 1.0.
    """
    if not isinstance(clip, Mapping):
        require(clip is None or isinstance(clip, AbstractClip), call, "must be a clip such as ZClip()", clip)
        return clip  # type: ignore[return-value]
    require(bool(clip), call, "must be a clip such as ZClip(), or a clip for each group", clip)
    for regex, one in clip.items():
        check_regex(f"{call}[{regex!r}]", regex)
        fits = isinstance(one, AbstractClip) and not isinstance(one, GroupClip)
        require(fits, f"{call}[{regex!r}]", "must be a clip such as ZClip()", one)
    return GroupClip(dict(clip))
