from __future__ import annotations

import json
import math

from lightning_gradguard.findings import Finding, Incident


def test_incident_survives_json_with_nan_and_inf() -> None:
    incident = Incident.start(Finding("nonfinite", 3, ('a"b', "c\n"), math.inf, math.nan, "loss"), ("SkipStep",), "1")
    again = Incident.from_dict(json.loads(json.dumps(incident.to_dict(), allow_nan=False)))
    assert repr(again) == repr(incident)


def test_actions_are_folded_however_long_the_episode() -> None:
    incident = Incident.start(Finding("exploding", 0), ("AdaptiveClip",))
    for step in range(1, 1000):
        incident = incident.extended(Finding("exploding", step), ("AdaptiveClip",))
    incident = incident.extended(Finding("exploding", 1000), ("Rollback", "ReduceLR"))
    incident = incident.extended(Finding("exploding", 1001), ("Rollback", "ReduceLR"))
    assert incident.actions == ("AdaptiveClip", "Rollback", "ReduceLR")
    assert (incident.count, incident.last_step) == (1002, 1001)


def test_incident_keeps_the_worst_value_with_its_limit() -> None:
    incident = Incident.start(Finding("exploding", 0, ("a",), 10.0, 2.0))
    for step, layer, value, limit in ((1, "b", 99.0, 3.0), (2, "a", 5.0, 4.0)):
        incident = incident.extended(Finding("exploding", step, (layer,), value, limit))
    assert (incident.value, incident.limit, incident.layers) == (99.0, 3.0, ("a", "b"))
