"""ACT: what every remedy is: stateless, frozen, and in touch with the run only through `PendingStep`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from lightning_gradguard.arguments import require
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.renamed import adopt_renamed
from lightning_gradguard.step.pending_step import PendingStep


class AbstractRemedy(ABC):
    """One answer to a finding. Subclasses are final frozen dataclasses: a remedy is identified by its value.

    Attributes:
        uses_snapshots: Whether snapshots have to be taken for it.
        uses_search: Whether it asks for other remedies to be tried.
        only_model: Whether it changes weights or modules and leaves the optimizer as it is.
        only_corrects: Whether it helps only where something is wrong. Others, such as a larger learning rate, speed up
            many healthy runs.
        only_skips: Whether it does nothing but cancel the step, so that a healthy step after it shows sound weights.
        cause: What was wrong with a run that this remedy, tried, helps: the kind of a finding; empty where that says
            nothing.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class HalveGradients(AbstractRemedy):
        ...     def apply(self, finding, step):
        ...         return self.did("halved the gradients") if step.scale_gradients(0.5) else None
        >>> HalveGradients().name
        'HalveGradients'
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adopt_renamed(cls, {"uses_course": "uses_search", "cures": "cause"})

    uses_snapshots: ClassVar[bool] = False
    uses_search: ClassVar[bool] = False
    only_model: ClassVar[bool] = False
    only_corrects: ClassVar[bool] = False
    only_skips: ClassVar[bool] = False
    cause: ClassVar[str] = ""

    @abstractmethod
    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        """Changes the run through `step`.

        Returns:
            What was done, see `did`; None when there was nothing to do.
        """

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether what this remedy repairs is further off than in any published recipe.

        If so, an experiment that it wins clearly changes a run whose loss falls, too. False by default: then a run is
        changed only after a finding or without progress.
        """
        return False

    def did(self, summary: str) -> Action:
        """What this remedy has done, for `apply` to return.

        Args:
            summary: A clause in the past tense, e.g. `"clipped the gradient norm from 9.1e+05 to 24"`.
        """
        return Action(self.name, summary)

    @property
    def name(self) -> str:
        """Display name, as in incidents."""
        return type(self).__name__


class AbstractClip(ABC):
    """Clipping at every step, by a limit that may follow the run. Subclasses are final frozen dataclasses.

    Given to `GradGuard(clip=...)`. Configuration is frozen; what evolves is a plain state, saved with the detectors'.

    Attributes:
        unitwise: Whether it needs whole rows of the weights.
    """

    unitwise: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """What its state in a checkpoint belongs to."""
        return type(self).__name__

    @property
    def groups(self) -> tuple[str, ...]:
        """Regular expressions of the groups of parameters that are clipped apart; empty for all together."""
        return ()

    @abstractmethod
    def init(self) -> dict[str, Any]:
        """The state before the first step."""

    @abstractmethod
    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        """Clips the pending step if it is over the limit; the new state. A non-finite norm changes nothing."""


def as_rung(call: str, item: AbstractRemedy | Iterable[AbstractRemedy]) -> tuple[AbstractRemedy, ...]:
    """One remedy, or several to be applied together, as a tuple.

    Args:
        call: How it was given, for the error.
        item: A remedy, or an iterable of remedies.

    Raises:
        ValueError: If it is empty, text, a mapping, or holds anything but remedies that are identified by their value.

    Example:
        >>> as_rung("Policy(ladders=...)['exploding']", [])
        Traceback (most recent call last):
        ValueError: `Policy(ladders=...)['exploding']` must hold remedies, got []. Use None for a rung without a remedy.
    """
    if isinstance(item, AbstractRemedy):
        return (check_remedy(call, item),)
    if isinstance(item, Mapping):
        raise ValueError(
            f"`{call}` must hold remedies, got the mapping {item!r}. Hydra makes mappings of dataclasses unless "
            "`_convert_: object` (or `all`) is given for the policy."
        )
    rung = tuple(item) if isinstance(item, Iterable) and not isinstance(item, (str, bytes)) else (item,)
    if not rung:
        raise ValueError(f"`{call}` must hold remedies, got {item!r}. Use None for a rung without a remedy.")
    return tuple(check_remedy(call, remedy) for remedy in rung)


def check_remedy(call: str, remedy: Any) -> AbstractRemedy:
    """The remedy, if it is one that is identified by its value.

    Raises:
        ValueError: If it is no remedy, can be changed, has no hash, or equals nothing but itself.
    """
    if isinstance(remedy, Mapping):
        as_rung(call, remedy)
    require(isinstance(remedy, AbstractRemedy), call, "must hold remedies", remedy)
    settings = getattr(type(remedy), "__dataclass_params__", None)
    compares = any("__eq__" in vars(cls) for cls in type(remedy).__mro__ if cls is not object)
    try:
        hash(remedy)
        by_value = compares and (settings is None or settings.frozen)
    except TypeError:
        by_value = False
    require(by_value, call, "must hold remedies that are frozen dataclasses with hashable fields", remedy)
    return remedy  # type: ignore[no-any-return]
