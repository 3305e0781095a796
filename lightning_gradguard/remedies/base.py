"""ACT: what every remedy is: stateless, frozen, and in touch with the run only through `PendingStep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning_gradguard.findings import Finding
from lightning_gradguard.step.pending_step import PendingStep


class AbstractRemedy(ABC):
    """One answer to a finding. Subclasses are final frozen dataclasses.

    Attributes:
        reversible: Whether it leaves the model as the user built it; `policy="protect"` uses only such.
        uses_snapshots: Whether snapshots have to be taken for it.
        uses_search: Whether it tries other remedies over several steps.
        cures: Kind of what was wrong when this, tried, helps; empty where that says nothing.
    """

    reversible: ClassVar[bool] = True
    uses_snapshots: ClassVar[bool] = False
    uses_search: ClassVar[bool] = False
    cures: ClassVar[str] = ""

    @abstractmethod
    def apply(self, finding: Finding, step: PendingStep) -> str:
        """Does it, and says in a few words what was done; an empty string when there was nothing left to do."""

    @property
    def name(self) -> str:
        """How it is called in incidents."""
        return type(self).__name__


class AbstractClip(ABC):
    """Clipping at every step, by a limit that may follow the run. Subclasses are final frozen dataclasses.

    Given to `GradGuard(clip=...)`. Configuration is frozen; what evolves is a plain state, saved with the detectors'.

    Attributes:
        unitwise: Whether it needs whole rows of the weights.
    """

    unitwise: ClassVar[bool] = False

    @abstractmethod
    def init(self) -> dict[str, Any]:
        """The state before the first step."""

    @abstractmethod
    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        """Clips the pending step if it is over the limit; the new state. A non-finite norm changes nothing."""
