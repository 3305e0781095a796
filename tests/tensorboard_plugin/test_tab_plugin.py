"""The backend: HTTP requests to a real TensorBoard, on runs of real Trainers."""

from __future__ import annotations

import functools
import json
import operator
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from tab_runs import stats
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.plugins.base_plugin import TBContext
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from lightning_gradguard.findings import Finding, Incident, StepReport
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import read_steps
from lightning_gradguard.show import metadata
from lightning_gradguard.show.panels import PANELS
from lightning_gradguard.tensorboard_plugin.plugin import STATIC, GradGuardLoader, GradGuardPlugin, parse_query
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

ROOT, ROOT_FOLDER = "/data/plugin/gradguard", Path(__file__).parents[2]


def figures(client: Client, **query: object) -> list[dict]:
    answer = client.get(f"{ROOT}/figures", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json["figures"]


def test_the_list_of_runs_has_states(trained, client_of):
    runs = {run["run"]: run for run in client_of(trained).get(f"{ROOT}/runs").json["runs"]}
    assert set(runs) == {"guarded", "unguarded"}
    assert "grad_norm" in runs["guarded"]["optimizers"][""]
    assert runs["guarded"]["state"] == "degraded"  # 38 of 160 steps were skipped or rolled back
    assert runs["guarded"]["ended"]
    assert runs["guarded"]["problems"] == []


def test_the_heatmap_has_a_row_for_each_layer_and_a_column_for_each_step(trained, client_of):
    (answer,) = figures(client_of(trained), run="guarded")
    assert [row["name"] for row in answer["rows"]] == ["encoder.0", "encoder.2", "head"]
    heatmap = answer["figure"]["data"][0]
    assert heatmap["type"] == "heatmap"
    assert answer["columns"] == 160
    assert heatmap["z"]["shape"] == f"3, {answer['columns']}"


def test_folding_and_opening_a_module(trained, client_of):
    client = client_of(trained)
    (folded,) = figures(client, run="guarded", depth=1)
    assert folded["rows"] == [{"name": "encoder", "layers": 2}, {"name": "head", "layers": 1}]
    (opened,) = figures(client, run="guarded", within="encoder")
    assert [row["name"] for row in opened["rows"]] == ["encoder.0", "encoder.2"]


def test_all_layers_and_modules_are_suggested(trained, client_of):
    answer = client_of(trained).get(f"{ROOT}/layers?run=guarded&run=unguarded")
    assert answer.json == {"layers": ["encoder", "encoder.0", "encoder.2", "head"]}


def test_a_step_has_the_value_of_every_curve_of_every_run(trained, client_of):
    query = {"run": ["guarded", "unguarded"], "step": 81, "layer": "encoder"}
    answer = client_of(trained).get(f"{ROOT}/step", query_string=query).json
    values = {curve["title"]: curve["values"] for curve in answer["curves"]}
    assert (answer["step"], answer["runs"]) == (81, ["guarded", "unguarded"])
    steps = [read_steps(trained / run / FOLDER)[81].stats for run in ("guarded", "unguarded")]
    assert values["loss"] == pytest.approx([step.loss for step in steps])
    assert values["gradient norm"] == pytest.approx([step.global_norm for step in steps])
    norms = [np.hypot(*step.grad_norm[:2]) for step in steps]
    assert values["gradient norm of encoder"] == pytest.approx(norms, rel=1e-4)


def test_everything_that_is_drawn_is_explained_and_the_pages_exist(client_of, trained):
    explained = client_of(trained).get(f"{ROOT}/help").json["help"]
    assert {line.title for panel in PANELS for line in panel.lines} < {entry["title"] for entry in explained}
    assert all(entry["text"].endswith(".") and (ROOT_FOLDER / entry["page"]).exists() for entry in explained)


def test_a_chosen_layer_adds_its_panel(trained, client_of):
    client = client_of(trained)
    before, after = (figures(client, run="guarded", layer=layer)[0]["figure"] for layer in ("", "encoder.2"))
    titles = [note["text"] for note in after["layout"]["annotations"]]
    assert len(titles) == len(before["layout"]["annotations"]) + 1
    assert any("encoder.2" in title for title in titles)


def test_two_runs_share_scale_and_axes(trained, client_of):
    guarded, unguarded = figures(client_of(trained), run=["guarded", "unguarded"])
    for key in ("zmin", "zmax"):
        assert guarded["figure"]["data"][0][key] == unguarded["figure"]["data"][0][key]
    for axis in ("xaxis", "yaxis2", "yaxis3"):
        assert guarded["figure"]["layout"][axis]["range"] == unguarded["figure"]["layout"][axis]["range"]


def test_zooming_shows_only_those_steps(trained, client_of):
    (answer,) = figures(client_of(trained), run="guarded", **{"from": 70, "to": 90})
    assert answer["figure"]["layout"]["xaxis"]["range"] == [70, 90]
    assert 10 <= answer["columns"] <= 24


def test_incidents_have_their_text(trained, client_of, open_run):
    (answer,) = figures(client_of(trained), run="guarded")
    stored = open_run(trained, "guarded").incidents()
    assert [incident["text"] for incident in answer["incidents"]] == [incident["text"] for incident in stored]
    assert answer["incidents"][0]["x"] in range(80, 86)
    assert "SkipStep" in answer["headline"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("run=nobody", "There is no GradGuard data in run 'nobody'."),
        ("run=guarded&from=soon", "`from` must be a number, got 'soon'."),
        ("run=guarded&depth=deep", "`depth` must be a number, got 'deep'."),
        ("", "Choose at least one run."),
    ],
)
def test_an_invalid_request_gets_an_error_message(trained, client_of, query, message):
    answer = client_of(trained).get(f"{ROOT}/figures?{query}")
    assert answer.status_code == 400
    assert answer.json == {"error": message}


def test_an_unknown_statistic_is_reported_in_the_figure(trained, client_of):
    (answer,) = figures(client_of(trained), run="guarded", statistic="<i>x</i>")
    assert answer["rows"] == []
    assert (
        answer["figure"]["layout"]["annotations"][0]["text"] == "<b>&lt;i&gt;x&lt;/i&gt;</b>: not recorded in this run"
    )


def test_an_exception_gets_an_error_message(trained, client_of, monkeypatch):
    def broken(*args: object) -> None:
        raise RuntimeError("disk on fire")

    client = client_of(trained)
    monkeypatch.setattr("lightning_gradguard.tensorboard_plugin.plugin.list_runs", broken)
    answer = client.get(f"{ROOT}/figures?run=guarded")
    assert answer.status_code == 500
    assert answer.json == {"error": "RuntimeError: disk on fire"}


def test_only_static_files_are_served(trained, client_of):
    client = client_of(trained)
    assert client.get(f"{ROOT}/index.js").content_type.startswith("text/javascript")
    assert client.get(f"{ROOT}/style.css").content_type.startswith("text/css")
    assert b"plotly.js" in client.get(f"{ROOT}/plotly.min.js").data[:200]
    secret = STATIC.parent / "plugin.py"
    for path in (
        "../plugin.py",
        "..%2fplugin.py",
        "%2e%2e/plugin.py",
        "static/../../plugin.py",
        str(secret),
        "report.html",
        "",
    ):
        answer = client.get(f"{ROOT}/{path}")
        assert answer.status_code in (301, 308, 404), path
        assert b"class GradGuardPlugin" not in answer.data


def test_a_log_directory_without_gradguard(tmp_path, client_of):
    with SummaryWriter(tmp_path / "other") as board:
        board.add_scalar("loss", 1.0, 0)
    client = client_of(tmp_path)
    assert client.get(f"{ROOT}/runs").json == {"runs": []}
    assert client.get("/data/plugins_listing").json["gradguard"]["enabled"] is False


def test_tensorboard_shows_the_tab_when_there_is_data(trained, client_of):
    listed = client_of(trained).get("/data/plugins_listing").json["gradguard"]
    assert (listed["enabled"], listed["tab_name"]) == (True, "GradGuard")


def test_a_log_directory_that_only_tensorboard_can_read_has_its_event_files(trained, open_provider):
    provider = open_provider(trained)
    plugin = GradGuardPlugin(TBContext(data_provider=provider, logdir="nowhere://logs"))
    assert plugin.is_active() is False
    client = Client(TensorBoardWSGI([plugin], data_provider=provider))
    assert [run["run"] for run in client.get(f"{ROOT}/runs").json["runs"]] == ["guarded", "unguarded"]


def test_a_truncated_event_file_is_read_up_to_the_end(trained, tmp_path, client_of):
    (source,) = (trained / "guarded").glob("*tfevents*")
    whole = source.read_bytes()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / source.name).write_bytes(whole[: len(whole) // 2])
    (answer,) = figures(client_of(tmp_path), run="torn")
    assert 10 < answer["columns"] < 80
    assert "not finished" in answer["headline"]


def test_foreign_data_under_the_plugin_name_is_reported(tmp_path, client_of):
    from tensorboard.compat.proto.summary_pb2 import Summary

    with SummaryWriter(tmp_path / "run") as board:
        writer = RunWriter(board)
        writer.step(StepReport(stats=stats(0, np.ones(2))), 0)
        layers = next(tag for tag in writer._introduced if "/layers/" in tag)
        strange = [
            metadata.tensor_value("mine", np.zeros(3), content=b"\xff not json"),
            metadata.tensor_value("newer", np.zeros(3), content=b'{"version": 99, "what": "layers"}'),
            metadata.tensor_value("partial", np.zeros(3), content=b'{"version": 1, "what": "layers"}'),
            metadata.tensor_value("list", np.zeros(3), content=b"[]"),
            metadata.text_value("words", "{", content=metadata.encode_content(metadata.INCIDENTS)),
            metadata.tensor_value(layers, np.zeros(7)),
        ]
        board._get_file_writer().add_summary(Summary(value=strange), 1)
    client = client_of(tmp_path)
    (run,) = client.get(f"{ROOT}/runs").json["runs"]
    assert len(run["problems"]) == 5
    assert any("its format is 99; this version of GradGuard reads format 1" in problem for problem in run["problems"])
    (answer,) = figures(client, run="run")
    assert answer["columns"] == 1
    assert any("Expected vectors of 2 numbers" in problem for problem in answer["problems"])


HOSTILE = (
    "<img src=x onerror=alert(1)>", "a'b\"c", "two\nlines", "</script><script>", "\u5c42.\U0001f525", "x" * 5000,
    "<b>a</b>", "<b>a</b> ", "",
)  # fmt: skip


def test_hostile_names_are_escaped(tmp_path, client_of):
    incident = Incident.start(Finding("<u>k</u>", 0, HOSTILE, 2.0, 1.0, "<script>x</script>"))
    with SummaryWriter(tmp_path / "r") as board:
        writer = RunWriter(board)
        writer.step(StepReport(stats=stats(0, np.arange(1.0, 1 + len(HOSTILE)), HOSTILE)), 0)
        writer.incident(incident, 0)
    (answer,) = figures(client_of(tmp_path), run="r", depth=0, layer=HOSTILE[0])
    assert [row["name"] for row in answer["rows"]] == list(HOSTILE)
    for rows, longest in (("data", 0, "y"), 300), (("layout", "yaxis", "ticktext"), 60):
        labels = functools.reduce(operator.getitem, rows, answer["figure"])
        assert len(set(labels)) == len(HOSTILE)
        assert not any("<" in label or "\n" in label or len(label) > longest for label in labels)
    shown = json.dumps([note["text"] for note in answer["figure"]["layout"]["annotations"]])
    assert "<img" not in shown


def test_the_loader_keeps_all_samples_by_default():
    flags = Namespace(samples_per_plugin={})
    GradGuardLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"gradguard": 0}
    flags = Namespace(samples_per_plugin={"gradguard": 50})
    GradGuardLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"gradguard": 50}


def test_the_backend_imports_neither_torch_nor_lightning_nor_plotly():
    code = (
        "import sys, lightning_gradguard.tensorboard_plugin.plugin as p; from argparse import Namespace as N;"
        "p.GradGuardLoader().load(p.base_plugin.TBContext()).get_plugin_apps();"
        "print([m for m in ('torch', 'pytorch_lightning', 'lightning', 'plotly') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_query_has_defaults():
    query = parse_query({})
    assert (query.statistic, query.depth, query.low) == ("grad_norm", None, -np.inf)
    assert parse_query({"depth": "0"}).depth == 0
