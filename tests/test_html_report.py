"""The reports without TensorBoard, of runs written by `RunWriter`."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import KEPT, UNDONE, Finding, Incident, StepReport, Trial, TrialEvent
from lightning_gradguard.record.incident_log import INCIDENT_LOG, append_incident
from lightning_gradguard.record.location import Location
from lightning_gradguard.record.report import Report
from lightning_gradguard.show.html_report import find_runs, report_data, unique_names, write_html
from lightning_gradguard.show.terminal_summary import summary
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

LAYER = "net.<img src=x onerror=alert(1)>"


def write_run(folder: Path, failing: bool) -> Path:
    """Forty steps; a failing run explodes at step 20, in a layer with a hostile name."""
    incident = Incident.start(Finding("exploding", 20, (LAYER,), 1e6, 10.0), actions=("SkipStep",)).closed("resolved")
    with SummaryWriter(folder) as board:
        writer = RunWriter(board)
        for x in range(40):
            norm = 1e6 if failing and x == 20 else 1.0
            stats = GradStats.of({LAYER: norm, "net.1": 1.0, "net.2": 1.0}, step=x, loss=2.0 - x / 40, lr=0.1)
            writer.step(StepReport(stats=stats, findings=incident_findings(incident) if failing and x == 20 else ()), x)
        if failing:
            writer.incident(incident, 20)
        writer.close(Report(40, (incident,) if failing else ()), 40)
    return folder


def incident_findings(incident: Incident) -> tuple[Finding, ...]:
    return (Finding(incident.kind, incident.first_step, incident.layers, incident.value, incident.limit),)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / "failing", failing=True), write_run(root / "healthy", failing=False)]


def printed(runs: list[Path]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(summary(runs))
    return console.file.getvalue()


def test_the_data_can_be_written_as_json(runs):
    failing, healthy = json.loads(json.dumps(report_data(runs), allow_nan=False))
    assert (failing["run"], failing["state"], healthy["state"]) == ("failing", "recovered", "healthy")
    assert failing["incidents"][0]["x"] == 20
    assert failing["layers"] == {"": [LAYER, "net.1", "net.2"]}
    assert failing["curves"][""]["grad_norm"]["max"] == pytest.approx(1e6)
    assert failing["curves"][""]["loss"] == {"first": 2.0, "last": 1.025, "min": 1.025, "max": 2.0, "not_finite": 0}


def test_what_an_experiment_has_tried_is_a_table_the_best_first_and_escaped(tmp_path):
    trials = (Trial("worse", UNDONE, 2.0), Trial("<b>best</b>", KEPT, 0.123456), Trial("failed", UNDONE, math.inf))
    event = TrialEvent(KEPT, "stalled", "best", trials=trials)
    incident = Incident.start(Finding("stalled", 20)).tried(event).closed("resolved")
    append_incident(Location(tmp_path / "run" / INCIDENT_LOG), incident)
    write_html([tmp_path / "run"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (table,) = re.findall(r"<details><summary>Tried beside the run</summary>(.*?)</details>", page)
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", table) == [
        ("&lt;b&gt;best&lt;/b&gt;", "0.1235", "kept"), ("worse", "2", "undone"), ("failed", "inf", "undone"),
    ]  # fmt: skip


def test_the_summary_names_runs_states_and_incidents(runs):
    text = printed(runs)
    for expected in ("failing", "resolved", "healthy", "2 \u2192 1.02", "1e+06", LAYER, "SkipStep"):
        assert expected in text


def test_the_file_is_self_contained_and_escaped(runs, tmp_path):
    out = tmp_path / "report.html"
    write_html(runs, out)
    page = out.read_text(encoding="utf-8")
    packed = re.search(r'<script id="plotly" type="text/plain">(.*?)</script>', page)[1]
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed))[:200]
    assert len(page) < 3e6
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="?http', page)
    assert "<img src=x" not in page
    figures = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])
    assert [figure["data"][0]["z"]["shape"] for figure in figures] == ["3, 40", "3, 40"]
    assert figures[0]["layout"]["xaxis"]["range"] == figures[1]["layout"]["xaxis"]["range"]
    assert page.count("<button data-from=") == 1


def test_runs_are_found_below_a_log_directory(runs):
    assert [str(run) for run in find_runs(runs[0].parent)] == [str(run) for run in runs]
    assert [run["run"] for run in report_data([runs[0].parent])] == ["failing", "healthy"]


def test_a_run_without_event_files_has_its_incidents(tmp_path):
    append_incident(tmp_path / "csv" / INCIDENT_LOG, Incident.start(Finding("nonfinite", 7, ("a",))))
    (run,) = report_data([tmp_path / "csv"])
    assert (run["state"], run["incidents"][0]["x"], run["curves"]) == ("open", 7, {"": {}})
    (problem,) = run["problems"]
    assert problem.endswith(
        "csv has neither recorded steps nor an event file with GradGuard's data, only incidents.jsonl."
    )
    write_html([tmp_path / "csv"], tmp_path / "out.html")
    assert "nonfinite" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_an_event_file_without_gradguard_data_is_reported(tmp_path):
    with SummaryWriter(tmp_path / "other") as board:
        board.add_scalar("loss", 1.0, 0)
    assert "no GradGuard data." in printed([tmp_path / "other"])


def test_a_loss_that_was_never_finite_is_left_blank(tmp_path):
    with SummaryWriter(tmp_path / "nan") as board:
        writer = RunWriter(board)
        for x in range(3):
            writer.step(StepReport(stats=GradStats.of({"net.0": 1.0}, step=x, loss=float("nan"))), x)
    assert report_data([tmp_path / "nan"])[0]["curves"][""]["loss"] == {"not_finite": 3}
    assert "healthy" not in printed([tmp_path / "nan"]).splitlines()[0]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=f"There is no run in {re.escape(str(tmp_path))}: it contains neither TensorBoard event files",
    ):
        report_data([tmp_path])
    with pytest.raises(FileNotFoundError, match="Give the directory that the logger wrote"):
        report_data([tmp_path / "missing"])


def test_names_are_as_short_as_possible():
    paths = [Location("/logs/a/version_0"), Location("/logs/b/version_0")]
    assert unique_names(paths) == ["a/version_0", "b/version_0"]
    assert unique_names(paths[:1]) == ["version_0"]


def test_each_of_two_optimizers_has_a_section(tmp_path):
    with SummaryWriter(tmp_path / "gan") as board:
        writer = RunWriter(board)
        for x in range(3):
            for optimizer in ("0", "1"):
                stats = GradStats.of({f"net{optimizer}.0": 1.0}, step=x, lr=np.nan)
                writer.step(StepReport(stats=stats, optimizer=optimizer), x)
    write_html([tmp_path / "gan"], tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<h2>Optimizer 0</h2>" in page
    assert "<h2>Optimizer 1</h2>" in page
    assert set(report_data([tmp_path / "gan"])[0]["curves"]) == {"0", "1"}
