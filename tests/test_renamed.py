"""Names of the last release work for one more, with a warning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from lightning_gradguard import GradStats, Policy, detectors, remedies, zoo
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.remedies import AbstractRemedy

OLD_REMEDIES = {
    "AdaptUpdates": "SwitchToAdam", "CalmMomentum": "ReduceMomentum", "DecayWeights": "IncreaseWeightDecay",
    "EaseDecay": "RemoveWeightDecay", "FitLR": "ScaleLRToUpdateRatio", "HoldLR": "CapLR", "Try": "TryEach",
}  # fmt: skip


@pytest.mark.parametrize("old", OLD_REMEDIES)
def test_remedies(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"`{OLD_REMEDIES[old]}` now"):
        assert getattr(remedies, old) is getattr(remedies, OLD_REMEDIES[old])


def test_detectors_and_kinds() -> None:
    with pytest.warns(DeprecationWarning, match="LossIncrease"):
        assert detectors.Relapse is detectors.LossIncrease
    with pytest.warns(DeprecationWarning, match="loss_increase"):
        assert set(Policy({"relapse": [remedies.SkipStep()]}).ladders) == {"loss_increase"}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = detectors.Nothing
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = remedies.Nothing


@pytest.mark.parametrize(
    ("cls", "old", "new", "value"),
    [
        (detectors.BadBatch, "far", "factor", 20.0),
        (detectors.DeadUnits, "looks", "patience", 5),
        (detectors.Overshooting, "playing", "multi_optimizer_limit", 2.0),
        (detectors.WeightGrowth, "effort", "grad_growth", 3.0),
        (zoo.Cure, "rows", "advice", ("F1",)),
    ],
)
def test_fields(cls: Any, old: str, new: str, value: Any) -> None:
    given = {"apply": None} if cls is zoo.Cure else {}
    with pytest.warns(DeprecationWarning, match=f"`{cls.__name__}.{old}` is called `{new}` now"):
        made = cls(**given, **{old: value})
    assert getattr(made, new) == value
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(made, old) == value


def test_statistics() -> None:
    stats = GradStats.of({"a": 1.0}, total_steps=7)
    with pytest.warns(DeprecationWarning, match="`GradStats.budget` is called `total_steps` now"):
        assert stats.budget == 7  # type: ignore[attr-defined]


def test_what_subclasses_define() -> None:
    with pytest.warns(DeprecationWarning, match="only_on_extra_stats"):

        @dataclass(frozen=True)
        class Mine(AbstractDetector):
            waits: ClassVar[bool] = True
            kind: ClassVar[str] = "mine"
            name: str = "mine"

            def init(self) -> dict[str, Any]:
                return {}

            def update(self, state: dict[str, Any], stats: GradStats) -> Any:
                return state, ()

    assert Mine().only_on_extra_stats
    with pytest.warns(DeprecationWarning, match="uses_search"):

        @dataclass(frozen=True)
        class Search(AbstractRemedy):
            uses_course: ClassVar[bool] = True

            def apply(self, finding: Any, step: Any) -> None:
                """Does nothing."""

    assert Search().uses_search
