"""DECIDE: which remedy answers a finding, by a ladder for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies import AbstractRemedy, SkipStep

#: Healthy steps after which a rollback has proved itself: those between two snapshots, by default. Chosen.
PROOF = 50

#: One rung: what is done at once. An empty rung does nothing.
Rung = tuple[AbstractRemedy, ...]
#: Where each kind stands on its ladder: kind -> [rungs climbed, healthy steps since the last finding].
LadderStates = dict[str, list[int]]


@dataclass(frozen=True)
class Policy:
    """Ladders of remedies: the first finding of a kind gets the first rung, and every further one climbs.

    Args:
        ladders: Kind of finding -> its ladder, a sequence whose items are a remedy, or several to be applied
            together, or `()` for none. The last rung repeats. Kinds without a ladder are only recorded.
        patience: Healthy steps after which a kind goes one rung down, `PROOF` after a rollback. Three times as many end
            its incident. Chosen.
        name: How the policy is called in messages.

    Raises:
        ValueError: If a ladder holds something that is no remedy, or `patience` is not positive.

    Example:
        >>> from lightning_gradguard.remedies import ReduceLR, Rollback
        >>> policy = Policy({"nonfinite": [SkipStep(), SkipStep(), (Rollback(), ReduceLR())]})
        >>> policy.rung("nonfinite", 2)
        (Rollback(), ReduceLR(factor=0.1, floor=1e-05))
    """

    ladders: Mapping[str, Iterable[AbstractRemedy | Iterable[AbstractRemedy]]] = field(default_factory=dict)
    patience: int = 3
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"`Policy(patience=...)` must be at least 1, got {self.patience!r}.")
        ladders = {kind: tuple(as_rung(kind, item) for item in ladder) for kind, ladder in self.ladders.items()}
        object.__setattr__(self, "ladders", ladders)

    def rung(self, kind: str, climbed: int) -> Rung:
        """What a kind gets that has climbed so many rungs."""
        ladder: tuple[Rung, ...] = self.ladders.get(kind, ())  # type: ignore[assignment]
        return ladder[min(climbed, len(ladder) - 1)] if ladder else ()

    def height(self, kind: str) -> int:
        """Number of rungs, at least 1: a kind without remedies still has an episode."""
        return max(1, len(self.ladders.get(kind, ())))  # type: ignore[arg-type]

    def was_tried(self, kind: str, climbed: int) -> bool:
        """Whether the rung just below tried cures: these are not tried again, so the kind stays where it is."""
        return climbed > 0 and any(remedy.uses_search for remedy in self.rung(kind, climbed - 1))

    def span(self, kind: str, climbed: int) -> int:
        """Healthy steps for one rung down: many after a rollback, which may only have put off what comes again."""
        rung = self.rung(kind, climbed - 1) if climbed else ()
        return PROOF if any(remedy.uses_snapshots for remedy in rung) else self.patience

    def only_skipped(self, kind: str, climbed: int) -> bool:
        """Whether the rung just below did nothing but leave the step out."""
        rung = self.rung(kind, climbed - 1) if climbed else ()
        return bool(rung) and all(isinstance(remedy, SkipStep) for remedy in rung)

    @property
    def calm(self) -> int:
        """Healthy steps after which an incident counts as resolved: three rungs down."""
        return 3 * self.patience

    @cached_property
    def remedies(self) -> set[AbstractRemedy]:
        """Every remedy on any ladder."""
        return {remedy for ladder in self.ladders.values() for rung in ladder for remedy in rung}  # type: ignore[union-attr]

    @property
    def uses_search(self) -> bool:
        """Whether any remedy tries others over several steps."""
        return any(remedy.uses_search for remedy in self.remedies)

    @cached_property
    def without_trials(self) -> Policy:
        """The same without the rungs that try cures, for runs in which no trial can be judged or made."""
        ladders = {
            kind: [rung for rung in ladder if not any(remedy.uses_search for remedy in rung)]  # type: ignore[union-attr]
            for kind, ladder in self.ladders.items()
        }
        return replace(self, ladders={kind: ladder for kind, ladder in ladders.items() if any(ladder)})

    @cached_property
    def uses_snapshots(self) -> bool:
        """Whether any remedy needs snapshots."""
        return any(remedy.uses_snapshots for remedy in self.remedies)


def as_rung(kind: str, item: AbstractRemedy | Iterable[AbstractRemedy]) -> Rung:
    """One rung as a tuple, checked."""
    rung = (item,) if isinstance(item, AbstractRemedy) else tuple(item)
    for remedy in rung:
        if not isinstance(remedy, AbstractRemedy):
            raise ValueError(f"`Policy(ladders=...)`: the ladder of {kind!r} must hold remedies, got {remedy!r}.")
    return rung


def decide(
    standing: LadderStates, findings: Sequence[Finding], policy: Policy
) -> tuple[LadderStates, tuple[tuple[Finding, Rung], ...]]:
    """The new standing, and each finding with its remedies; a remedy chosen twice in a step is applied once.

    A healthy step after steps that were only skipped shows that the weights are sound, so the kind is back at the foot
    of its ladder: batches that spoil their own step, however many over a run, never count as a run that is lost. Where
    one finding leads back to a snapshot, the cures that another would try wait for what comes of it.

    Example:
        >>> from lightning_gradguard.remedies import Rollback
        >>> policy = Policy({"nonfinite": [SkipStep(), Rollback()]}, patience=1)
        >>> nan = Finding("nonfinite", 5)
        >>> standing, chosen = decide({}, [nan], policy)
        >>> standing, chosen[0][1]
        ({'nonfinite': [1, 0]}, (SkipStep(),))
        >>> decide(standing, [nan], policy)[1][0][1]
        (Rollback(),)
        >>> decide(standing, [], policy)[0]
        {}
    """
    if not findings and not standing:
        return {}, ()
    found = {finding.kind: finding for finding in reversed(findings)}
    sound = not any(policy.ladders.get(kind) for kind in found)
    after: LadderStates = {}
    for kind, (climbed, calm) in standing.items():
        calm = 0 if kind in found else calm + 1
        if sound and calm == 1 and policy.only_skipped(kind, climbed):
            climbed = 0
        proved = climbed > 0 and calm > 0 and calm % policy.span(kind, climbed) == 0
        down = proved and not policy.was_tried(kind, climbed)
        if climbed > down or calm < policy.patience:
            after[kind] = [climbed - down, calm]
    rungs = {kind: policy.rung(kind, after.get(kind, [0, 0])[0]) for kind in reversed(found)}
    returns = any(remedy.uses_snapshots for rung in rungs.values() for remedy in rung)
    chosen: list[tuple[Finding, Rung]] = []
    taken: set[AbstractRemedy] = set()
    for kind, whole in rungs.items():
        waits = returns and any(remedy.uses_search for remedy in whole)
        rung = () if waits else tuple(remedy for remedy in whole if remedy not in taken)
        taken.update(rung)
        chosen.append((found[kind], rung))
        climbed = after.get(kind, [0, 0])[0]
        after[kind] = [climbed if waits else min(climbed + 1, policy.height(kind)), 0]
    return after, tuple(chosen)
