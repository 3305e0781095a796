"""DECIDE: which remedy answers a finding, by a ladder for each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.findings import Finding
from lightning_gradguard.remedies import AbstractRemedy
from lightning_gradguard.remedies.base import as_rung
from lightning_gradguard.renamed import warn_renamed

#: Healthy steps after which a rollback has proved itself: those between two snapshots, by default. Chosen.
PROOF = 50

#: Old names of kinds of findings.
RENAMED = {"relapse": "loss_increase"}

#: One rung: what is done at once; nothing when it is empty.
Rung = tuple[AbstractRemedy, ...]


class LadderState(NamedTuple):
    """Where a kind of finding stands on its ladder.

    Args:
        rung: Which rung the next finding gets, from 0.
        healthy_steps: Steps without a finding of this kind since the last one.
        excused: Whether the weights were known to be good at the last finding, so that the data were at fault.
    """

    rung: int = 0
    healthy_steps: int = 0
    excused: bool = False


#: By kind; a kind that is not in it stands before its first rung.
LadderStates = dict[str, LadderState]


@dataclass(frozen=True)
class Policy:
    """Which remedies answer which findings: a ladder of rungs for each kind, escalated with every further finding.

    Args:
        ladders: Kind of finding -> its ladder, a sequence whose items are a remedy, several to be applied together, or
            None for a rung without a remedy. The last rung repeats. Kinds without a ladder are only recorded.
        patience: Healthy steps after which a kind goes back one rung, `PROOF` after a rollback. Three times as many end
            its incident. Default chosen.
        name: Display name.
        allows_actions: Whether the guard may touch the run at all; False for a policy that only records.

    Raises:
        ValueError: If a ladder holds anything but remedies that are identified by their value, an empty rung, text or a
            mapping; if `patience` is not a positive whole number; or if there are ladders but no actions allowed.

    Example:
        >>> from lightning_gradguard.remedies import ReduceLR, Rollback, SkipStep
        >>> policy = Policy({"nonfinite": [SkipStep(), SkipStep(), (Rollback(), ReduceLR())]})
        >>> policy.rung("nonfinite", 2)
        (Rollback(only_if_learned=False), ReduceLR(factor=0.1, floor=1e-05))
    """

    ladders: Mapping[str, Sequence[AbstractRemedy | Iterable[AbstractRemedy] | None]] = field(default_factory=dict)
    patience: int = 3
    name: str = "custom"
    allows_actions: bool = True

    def __post_init__(self) -> None:
        require_number("Policy(patience=...)", self.patience, at_least=1, whole=True)
        require(isinstance(self.ladders, Mapping), "Policy(ladders=...)", "must map kinds to ladders", self.ladders)
        ladders = {current_kind(kind): as_ladder(kind, ladder) for kind, ladder in self.ladders.items()}
        object.__setattr__(self, "ladders", ladders)
        require(
            self.allows_actions or not self.remedies,
            "Policy(allows_actions=False)",
            "must not have ladders with remedies",
            self.ladders,
        )

    def __hash__(self) -> int:
        return hash((frozenset(self.rungs.items()), self.patience, self.name, self.allows_actions))

    def __repr__(self) -> str:
        return f"Policy(name={self.name!r}, ladders for {sorted(self.ladders)}, patience={self.patience})"

    @property
    def rungs(self) -> dict[str, tuple[Rung | None, ...]]:
        """The ladders as checked: kind -> its rungs, None for one without a remedy."""
        return self.ladders  # type: ignore[return-value]

    def rung(self, kind: str, position: int) -> Rung:
        """The remedies at a position of a kind's ladder; the last rung repeats."""
        ladder = self.rungs.get(kind, ())
        return (ladder[min(position, len(ladder) - 1)] or ()) if ladder else ()

    def length(self, kind: str) -> int:
        """Number of rungs, at least 1: a kind without remedies still has an incident."""
        return max(1, len(self.rungs.get(kind, ())))

    def last_rung(self, kind: str, position: int) -> Rung:
        """The remedies of the latest finding of a kind, whose next finding gets the rung at `position`."""
        return self.rung(kind, position - 1) if position else ()

    def steps_back(self, kind: str, position: int) -> int:
        """Healthy steps for one rung back: many after a rollback, which may only have put off what comes again."""
        last = self.last_rung(kind, position)
        return PROOF if any(remedy.uses_snapshots for remedy in last) else self.patience

    def only_skipped(self, kind: str, position: int) -> bool:
        """Whether the last rung did nothing but skip the step."""
        last = self.last_rung(kind, position)
        return bool(last) and all(remedy.only_skips for remedy in last)

    @property
    def steps_to_resolve(self) -> int:
        """Healthy steps after which an incident counts as resolved: three rungs back."""
        return 3 * self.patience

    @cached_property
    def remedies(self) -> frozenset[AbstractRemedy]:
        """Every remedy on any ladder."""
        return frozenset(remedy for ladder in self.rungs.values() for rung in ladder for remedy in rung or ())

    @property
    def uses_search(self) -> bool:
        """Whether any remedy asks for others to be tried."""
        return any(remedy.uses_search for remedy in self.remedies)

    @cached_property
    def trials(self) -> tuple[Any, ...]:
        """Every set of remedies that any remedy asks for, in the order of the ladders."""
        remedies = (remedy for ladder in self.rungs.values() for rung in ladder for remedy in rung or ())
        return tuple(dict.fromkeys(trial for remedy in remedies for trial in getattr(remedy, "trials", ())))

    @cached_property
    def without_search(self) -> Policy:
        """The same without the remedies that ask for others to be tried, for runs in which that cannot be done."""
        ladders = {
            kind: [quiet for rung in ladder if (quiet := without_search(rung)) != ()]
            for kind, ladder in self.rungs.items()
        }
        return replace(self, ladders={kind: ladder for kind, ladder in ladders.items() if any(ladder)})

    @cached_property
    def uses_snapshots(self) -> bool:
        """Whether any remedy needs snapshots."""
        return any(remedy.uses_snapshots for remedy in self.remedies)


def without_search(rung: Rung | None) -> Rung | None:
    """A rung without the remedies that ask for others to be tried."""
    return None if rung is None else tuple(remedy for remedy in rung if not remedy.uses_search)


def current_kind(kind: str) -> str:
    """The kind that findings have now; an old name warns."""
    if kind in RENAMED:
        warn_renamed("Policy(ladders=...)", kind, RENAMED[kind])
    return RENAMED.get(kind, kind)


def as_ladder(kind: str, ladder: Sequence[AbstractRemedy | Iterable[AbstractRemedy] | None]) -> tuple[Rung | None, ...]:
    """A ladder as a tuple of rungs, checked."""
    call = f"Policy(ladders=...)[{kind!r}]"
    listed = isinstance(ladder, Iterable) and not isinstance(ladder, (str, bytes, Mapping))
    require(listed, call, "must be a sequence of remedies", ladder)
    return tuple(None if item is None else as_rung(call, item) for item in ladder)


def decide(
    states: LadderStates, findings: Sequence[Finding], policy: Policy, weights_known_good: bool = False
) -> tuple[LadderStates, tuple[tuple[Finding, Rung], ...]]:
    """The new ladder states, and each finding with its remedies; a remedy chosen twice in a step is applied once.

    A healthy step after steps that were only skipped shows that the weights are sound, so the kind is back at its first
    rung: batches that spoil their own step, however many over a run, never count as a run that is lost. A
    finding while the weights are known to be good is the data's fault: the next healthy step leads back to the first
    rung as well.

    Example:
        >>> from lightning_gradguard.remedies import Rollback, SkipStep
        >>> policy = Policy({"nonfinite": [SkipStep(), Rollback()]}, patience=1)
        >>> nan = Finding("nonfinite", 5)
        >>> states, chosen = decide({}, [nan], policy)
        >>> states, chosen[0][1]
        ({'nonfinite': LadderState(rung=1, healthy_steps=0, excused=False)}, (SkipStep(),))
        >>> decide(states, [nan], policy)[1][0][1]
        (Rollback(only_if_learned=False),)
        >>> decide(states, [], policy)[0]
        {}
    """
    if not findings and not states:
        return {}, ()
    found = {finding.kind: finding for finding in reversed(findings)}
    sound = not any(policy.rungs.get(kind) for kind in found)
    after: LadderStates = {}
    for kind, (position, healthy, excused) in states.items():
        healthy = 0 if kind in found else healthy + 1
        if sound and healthy == 1 and (excused or policy.only_skipped(kind, position)):
            position = 0
        proved = healthy > 0 and healthy % policy.steps_back(kind, position) == 0
        if position > proved or healthy < policy.patience:
            after[kind] = LadderState(position - proved, healthy, excused)
    rungs = {kind: policy.rung(kind, after.get(kind, LadderState()).rung) for kind in reversed(found)}
    chosen: list[tuple[Finding, Rung]] = []
    taken: set[AbstractRemedy] = set()
    for kind, whole in rungs.items():
        rung = tuple(remedy for remedy in whole if remedy not in taken)
        taken.update(rung)
        chosen.append((found[kind], rung))
        position = after.get(kind, LadderState()).rung
        after[kind] = LadderState(min(position + 1, policy.length(kind)), 0, weights_known_good)
    return after, tuple(chosen)
