"""Without a TensorBoard logger: scalars are in the logger, incidents in its directory."""

from __future__ import annotations

import csv

from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.show.html_report import report_data


def test_csv_logger_gets_scalars_and_incidents(trained_csv):
    with (trained_csv / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("gradguard/grad_norm")]
    assert len(rows) >= 80
    assert float(rows[0]["gradguard/layer_norm/p0"]) <= float(rows[0]["gradguard/layer_norm/p100"])
    incidents = read_incidents(trained_csv / INCIDENT_LOG)
    assert incidents[0].kind == "loss_spike"
    assert incidents[0].first_step == 80


def test_the_report_shows_the_incidents_of_a_run_without_event_files(trained_csv):
    (run,) = report_data([trained_csv])
    assert (run["state"], run["incidents"][0]["x"]) == ("resolved", 80)
