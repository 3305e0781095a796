from __future__ import annotations

import json
import math

from lightning_gradguard.findings import Finding, Incident


def test_incident_survives_json_with_nan_and_inf() -> None:
    incident = Incident.start(Finding("nonfinite", 3, ('a"b', "c\n"), math.inf, math.nan, "loss"), ("SkipStep",), "1")
    again = Incident.from_dict(json.loads(json.dumps(incident.to_dict(), allow_nan=False)))
    assert repr(again) == repr(incident)


def test_repeated_actions_are_listed_once_however_long_the_incident() -> None:
    incident = Incident.start(Finding("exploding", 0), ("AdaptiveClip",))
    for step in range(1, 1000):
        incident = incident.extended(Finding("exploding", step), ("AdaptiveClip",))
    incident = incident.extended(Finding("exploding", 1000), ("Rollback", "ReduceLR"))
    incident = incident.extended(Finding("exploding", 1001), ("Rollback", "ReduceLR"))
    assert incident.actions == ("AdaptiveClip", "Rollback", "ReduceLR")
    assert (incident.count, incident.last_step) == (1002, 1001)


def test_an_incident_keeps_value_limit_and_detail_of_its_worst_finding() -> None:
    incident = Incident.start(Finding("exploding", 0, ("a",), 10.0, 2.0, "norm is 10 (limit 2)"))
    for step, layer, value, limit in ((1, "b", 99.0, 3.0), (2, "a", 5.0, 4.0), (3, "a", math.nan, 5.0)):
        detail = f"norm is {value:.3g} (limit {limit:.3g})"
        incident = incident.extended(Finding("exploding", step, (layer,), value, limit, detail))
    assert (incident.value, incident.limit, incident.layers) == (99.0, 3.0, ("a", "b"))
    assert str(incident) == "steps 0-3: exploding in a, b: norm is 99 (limit 3), 4 findings; no action; open"


def test_an_incident_without_numbers_keeps_its_first_detail_until_one_has_a_number() -> None:
    incident = Incident.start(Finding("nonfinite", 0, detail="gradient is not finite"))
    incident = incident.extended(Finding("nonfinite", 1, detail="buffer is not finite"))
    assert incident.detail == "gradient is not finite"
    assert incident.extended(Finding("nonfinite", 2, (), math.inf, detail="loss is inf")).detail == "loss is inf"
