"""What an incident advises to change by hand: under every policy, with numbers, and with a page that exists."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Faults, Net, files, fit

from lightning_gradguard import GradGuard, fixes
from lightning_gradguard.collect.batch_stats import BatchStats
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.detectors import (
    DETECTORS,
    AbstractDetector,
    Exploding,
    NonFinite,
    NoProgress,
    Stalled,
    WeightGrowth,
)
from lightning_gradguard.findings import Finding
from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.replay import replay

PAGES = Path(__file__).parent.parent / "docs" / "symptoms"
STATS = GradStats.of({"a": 1.0}, step=7, lr=0.5, loss=1.0, total_steps=1000)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.kind)
@pytest.mark.parametrize("value", [200.0, math.nan])
def test_every_detector_advises_what_exists(detector: AbstractDetector, value: float) -> None:
    stats = STATS if math.isfinite(value) else GradStats.of({"a": 1.0}, step=7)
    advice = detector.advise(Finding(detector.kind, 7, ("a",), value, value / 100), stats)
    assert advice
    assert "nan" not in advice
    assert all(hasattr(fixes, name) for name in re.findall(r"fixes\.(\w+)", advice))
    assert f'"{type(detector).__name__}"' in (PAGES / f"{detector.page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("detector", "finding", "stats", "advice"),
    [
        (Exploding(), Finding("exploding", 7, (), 1e4, 2.5), {}, r"gradient_clip_val=2\.5\b"),
        (Exploding(), Finding("exploding", 7, (), 1e19), {}, "lower the learning rate from 0.5 to about 0.05"),
        (NoProgress(), Finding("no_progress", 7, (), 0.07, 0.3), {}, "raise the learning rate from 0.5 to about 5"),
        (NoProgress(), Finding("no_progress", 7, (), 0.5, 0.26), {}, "try another learning rate"),
        (WeightGrowth(), Finding("weight_growth", 7, (), 2.0, 1.5), {}, r"weight decay of about 0\.01 "),
        (Stalled(), Finding("stalled", 7), dict(scaler_overflow=True), "bf16-mixed"),
        (Stalled(), Finding("stalled", 7), dict(lr=0.0), "last as long as the run"),
        (Stalled(), Finding("stalled", 7), dict(grad_norm=np.zeros(1)), "detach"),
        (NonFinite(), Finding("nonfinite", 7), dict(loss=math.nan), r"log\(0\)"),
        (NonFinite(), Finding("nonfinite", 7), dict(first_nonfinite=("sqrt", "x")), r"at x: sqrt\(x \+ 1e-8\) stays"),
        (NonFinite(), Finding("nonfinite", 7), dict(first_nonfinite=("", "x")), "^look at x$"),
        (NonFinite(), Finding("nonfinite", 7), dict(batch_stats=BatchStats(np.array([1.0, math.inf]))), "samples"),
    ],
)
def test_advice_holds_the_number_that_is_known(
    detector: AbstractDetector, finding: Finding, stats: dict[str, Any], advice: str
) -> None:
    norms = {"a": float(stats.pop("grad_norm", np.ones(1))[0])}
    whole = GradStats.of(norms, **{"step": 7, "lr": 0.5, "loss": 1.0, "total_steps": 1000, **stats})
    assert re.search(advice, detector.advise(finding, whole))


@pytest.mark.parametrize(
    ("policy", "advice"),
    [
        ("monitor", r'look for log\(0\), .* on the way to the loss; GradGuard\("protect"\) answers with SkipStep'),
        ("protect", r"look at the input of linear of net\.0 \(.*\)"),
    ],
)
def test_an_incident_advises_in_log_console_report_and_replay(
    policy: Any, advice: str, tmp_path: Path, caplog: Any
) -> None:
    guard = GradGuard(policy, [NonFinite()])
    with caplog.at_level(logging.WARNING, logger="lightning_gradguard"):
        fit(Net(), Faults({20: math.nan}), guard, logger=files(tmp_path))
    (incident,) = guard.incidents
    assert re.fullmatch(advice + r" \(docs/symptoms/nonfinite.md\)", incident.advice)
    assert incident.message == f"{incident}; advice: {incident.advice}"
    opening = next(record.getMessage() for record in caplog.records)
    assert opening.endswith(f"; advice: {incident.advice}")
    assert f"\n  advice (nonfinite): {incident.advice}" in str(guard.report())
    assert {told.advice for told in read_incidents(tmp_path / INCIDENT_LOG)} == {incident.advice}
    assert repr(replay(tmp_path, [NonFinite()], policy).incidents) == repr(guard.report().incidents)


def test_a_detector_that_cannot_advise_is_switched_off() -> None:
    class Broken(NonFinite):
        def advise(self, finding: Finding, stats: GradStats) -> str:
            raise KeyError("broken")

    guard = GradGuard("monitor", [Broken()])
    with pytest.warns(UserWarning, match="broken"):
        fit(Net(), Faults({20: math.nan}), guard)
    assert [incident.advice for incident in guard.incidents] == [""]
