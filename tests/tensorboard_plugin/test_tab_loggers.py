"""Without a TensorBoard logger: scalars are in the logger, steps and incidents in its directory."""

from __future__ import annotations

import csv
import shutil

import numpy as np

from lightning_gradguard.record.incident_log import INCIDENT_LOG, read_incidents
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.show.html_report import read_runs, report_data, write_html
from lightning_gradguard.show.recording import Recording
from lightning_gradguard.show.run_reader import RunReader

STEPS = 160


def test_csv_logger_gets_scalars_and_incidents(trained_csv):
    with (trained_csv / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("gradguard/grad_norm")]
    assert len(rows) >= 80
    assert float(rows[0]["gradguard/layer_norm/p0"]) <= float(rows[0]["gradguard/layer_norm/p100"])
    incidents = read_incidents(trained_csv / INCIDENT_LOG)
    assert incidents[0].kind == "loss_spike"
    assert incidents[0].first_step == 80


def test_the_report_has_every_step_of_a_run_without_event_files(trained_csv):
    (run,) = report_data([trained_csv])
    assert (run["state"], run["incidents"][0]["x"], run["problems"]) == ("degraded", 80, [])
    assert run["headline"].startswith("160 steps, ")
    (((_, _, (view,))),) = read_runs([trained_csv])
    assert view.heatmap.steps.tolist() == list(range(STEPS))
    types = {"encoder": "Sequential", "encoder.0": "Linear", "encoder.2": "Linear", "head": "Linear"}
    assert view.heatmap.types == types
    assert [view.curves[name][0].tolist() for name in ("loss", "lr", "grad_norm")] == [list(range(STEPS))] * 3


def test_the_report_finds_a_healthy_run_by_its_recording(trained_csv, tmp_path):
    shutil.copytree(trained_csv / FOLDER, tmp_path / "run" / FOLDER)
    (run,) = report_data([tmp_path])
    assert (run["run"], run["incidents"], run["headline"]) == ("run", [], "160 steps, no incidents.")
    write_html([tmp_path], tmp_path / "report.html")


def test_a_resumed_run_is_not_finished(trained_csv, tmp_path):
    shutil.copytree(trained_csv, tmp_path / "run")
    (recording,) = (tmp_path / "run" / FOLDER).glob("*.f64")
    recording.write_bytes(recording.read_bytes() + b"\0" * 64)
    assert "not finished" in report_data([tmp_path])[0]["headline"]


def test_a_recording_equals_the_event_file_where_both_have_a_step(trained, open_run):
    written, recorded = open_run(trained, "guarded"), Recording(Location(trained / "guarded"))
    assert written.curves()["loss"][0].tolist() != list(range(STEPS))  # only the logging steps
    both = RunReader(written.provider, written.context, "", "guarded", folder=Location(trained / "guarded"))
    assert both.layers("grad_norm").steps.tolist() == both.curves()["loss"][0].tolist() == list(range(STEPS))
    steps, loss = written.curves()["loss"]
    np.testing.assert_allclose(recorded.curves()["loss"][1][steps], loss)
    np.testing.assert_allclose(
        recorded.layers("grad_norm").log10[written.layers("grad_norm").steps], written.layers("grad_norm").log10,
        atol=2e-3,
    )  # fmt: skip


def test_the_curves_of_the_event_files_are_decoded_once(trained, open_run, monkeypatch):
    written, decoded = open_run(trained, "guarded"), []
    read = written.provider.read_tensors
    monkeypatch.setattr(
        written.provider, "read_tensors",
        lambda *args, **options: decoded.extend(options["run_tag_filter"].tags) or read(*args, **options),
    )  # fmt: skip
    both = RunReader(written.provider, written.context, "", "guarded", folder=Location(trained / "guarded"))
    assert both.layers("grad_norm") is not None
    assert both.curves()
    assert both.layers("update_ratio") is not None
    (tag, _) = both.index.curves[""]
    assert decoded.count(tag) == 1


def test_steps_that_are_counted_in_another_way_are_not_mixed_up(trained, tmp_path, open_run):
    shutil.copytree(trained / "guarded", tmp_path / "run")
    (recording,) = (tmp_path / "run" / FOLDER).glob("*.f64")
    head, _, body = recording.read_bytes().partition(b"\n")
    rows = np.frombuffer(body).reshape(-1, 8).copy()
    rows[:, 0] += 3
    recording.write_bytes(head + b"\n" + rows.tobytes())
    written = open_run(tmp_path, "run")
    both = RunReader(written.provider, written.context, "", "run", folder=Location(tmp_path / "run"))
    assert both.layers("grad_norm").steps.tolist() == written.layers("grad_norm").steps.tolist()


def test_the_tab_has_runs_of_every_logger(trained, trained_csv, tmp_path, client_of):
    shutil.copytree(trained / "guarded", tmp_path / "version_10")
    shutil.copytree(trained_csv, tmp_path / "version_2")
    client = client_of(tmp_path)
    listed = client.get("/data/plugin/gradguard/runs").json["runs"]
    assert [(run["run"], run["state"]) for run in listed] == [("version_2", "degraded"), ("version_10", "degraded")]
    figures = client.get("/data/plugin/gradguard/figures?run=version_2&run=version_10").json["figures"]
    assert [figure["columns"] for figure in figures] == [STEPS, STEPS]


def test_the_tab_is_active_where_only_another_logger_was_used(trained_csv, tmp_path, client_of):
    shutil.copytree(trained_csv, tmp_path / "run")
    assert client_of(tmp_path).get("/data/plugins_listing").json["gradguard"]["enabled"] is True
