"""TensorBoard's own readers return what `RunWriter` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tab_runs import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard import SummaryWriter

from lightning_gradguard.findings import Finding, Incident, StepOutcome, StepReport
from lightning_gradguard.record.report import Report
from lightning_gradguard.tensorboard_plugin import summary
from lightning_gradguard.tensorboard_plugin.summary import RunWriter


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_layers_are_exact_to_half_a_percent(tmp_path, open_run):
    norms = np.array([1e-30, 0.37, 1.0, 12.5, 1e30])
    with SummaryWriter(tmp_path) as board:
        RunWriter(board).step(StepReport(stats=stats(7, norms)), x=7)
    layers = open_run(tmp_path).layers("grad_norm")
    assert layers.steps.tolist() == [7]
    np.testing.assert_allclose(10.0 ** layers.log10[0, 1:4], norms[1:4], rtol=0.005)
    np.testing.assert_allclose(layers.log10[0, [0, 4]], [-30, 30], atol=0.01)


def test_zero_and_nonfinite_values_are_distinguished(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        RunWriter(board).step(StepReport(stats=stats(0, np.array([0.0, np.nan, np.inf, 1.0]))), x=0)
    assert open_run(tmp_path).layers("grad_norm").log10[0].tolist() == [-np.inf, np.inf, np.inf, 0.0]


def test_curves_equal_the_scalars(tmp_path, open_run):
    report = StepReport(
        stats=stats(3, np.array([3.0, 4.0])), outcome=StepOutcome(clip_coefficient=0.5, lr_factor=0.25), limit=2.5
    )
    with SummaryWriter(tmp_path) as board:
        RunWriter(board).step(report, x=30)
    curves = open_run(tmp_path).curves()
    stock = EventAccumulator(str(tmp_path)).Reload()
    assert [x.tolist() for x, _ in curves.values()] == [[30]] * len(curves)
    assert curves["grad_norm"][1] == [5.0]
    assert curves["grad_norm_clipped"][1] == [2.5]
    for name, (_, values) in curves.items():
        if np.isfinite(values[0]):
            assert stock.Scalars(f"gradguard/{name}")[0].value == pytest.approx(values[0])


def test_the_update_ratio_has_only_the_sampled_steps(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        for x in range(6):
            sampled = np.array([0.1, 0.2]) if x % 3 == 0 else None
            writer.step(StepReport(stats=stats(x, np.ones(2), update_ratio=sampled)), x)
    assert open_run(tmp_path).layers("update_ratio").steps.tolist() == [0, 3]


def test_two_optimizers_have_separate_layers(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        writer.step(StepReport(stats=stats(0, np.ones(2), ("gen.0", "gen.1")), optimizer="0"), 0)
        writer.step(StepReport(stats=stats(0, np.ones(3), ("dis.0", "dis.1", "dis.2")), optimizer="1"), 0)
    reader = open_run(tmp_path)
    assert reader.layers("grad_norm", "0").names == ("gen.0", "gen.1")
    assert reader.layers("grad_norm", "1").names == ("dis.0", "dis.1", "dis.2")
    known = EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"]
    assert {"gradguard/0/grad_norm", "gradguard/1/grad_norm"} <= set(known)


def test_unfrozen_layers_are_added_to_the_heatmap(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        writer.step(StepReport(stats=stats(0, np.ones(1), ("head",))), 0)
        writer.step(StepReport(stats=stats(1, np.array([10.0, 100.0]), ("body", "head"))), 1)
    layers = open_run(tmp_path).layers("grad_norm")
    assert layers.names == ("body", "head")
    np.testing.assert_allclose(layers.log10, [[np.nan, 0], [1, 2]])


def test_the_latest_state_of_an_incident_is_read(tmp_path, open_run):
    first = Incident.start(Finding("exploding", 5, ("block.1.linear",), 9.0, 3.0, "gradient norm"))
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        writer.incident(first, x=105)
        later = first.extended(Finding("exploding", 8, ("block.0.linear",), 20.0, 3.0), actions=("AdaptiveClip",))
        writer.incident(later, x=108)
        writer.incident(later.closed("resolved"), x=117)
    (incident,) = open_run(tmp_path).incidents()
    assert (incident["x"], incident["x_last"], incident["outcome"]) == (105, 108, "resolved")
    assert incident["actions"] == ["AdaptiveClip"]
    assert incident["text"] == str(later.closed("resolved"))


def test_two_incidents_that_change_at_one_step_are_both_kept(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        for kind in ("exploding", "loss_spike"):
            writer.incident(Incident.start(Finding(kind, 5)).closed("resolved"), x=5)
    tags = open_run(tmp_path).index.incidents
    assert len(set(tags)) == 2  # TensorBoard's fast loader keeps one event for each tag and step


def test_the_stock_tabs_have_text_layout_and_pictures(tmp_path):
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        for x in range(4):
            writer.step(StepReport(stats=stats(x, np.ones(3))), x)
        incident = Incident.start(Finding("exploding", 3, ("<b>*x*</b>",), 9.0, 3.0))
        writer.incident(incident, 3)
        writer.close(Report(4, (incident,)), 4)
    stock = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert [image.step for image in stock.Images("gradguard/heatmap")] == [3, 4]
    text = stock.Tensors("gradguard/incidents/exploding/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == f"    {incident}"  # four spaces: a code block, so that names are not interpreted as Markdown
    layout = layout_pb2.Layout.FromString(stock.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    series = layout.category[0].chart[0].margin.series[0]
    known = stock.Tags()["scalars"]
    assert {series.value, series.lower, series.upper} <= set(known)


def test_the_event_file_grows_with_the_logarithm_of_the_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(summary.Thinning.__init__, "__defaults__", (16,))
    sizes = {}
    for steps in (64, 512, 4096):
        folder = tmp_path / str(steps)
        with SummaryWriter(folder) as board:
            writer = RunWriter(board)
            for x in range(steps):
                writer.layers("grad_norm", [f"layer.{i}" for i in range(200)], np.ones(200), x)
        sizes[steps] = size(folder)
    growth = [sizes[512] - sizes[64], sizes[4096] - sizes[512]]
    assert growth[1] < 1.3 * growth[0]  # both have eight times the steps: three doublings each
    assert sizes[4096] < 20_000 + 16 * 9 * (2 * 200 + 100)


def test_a_step_with_findings_is_written_regardless_of_the_stride(tmp_path, open_run, monkeypatch):
    monkeypatch.setattr(summary.Thinning.__init__, "__defaults__", (4,))
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        for x in range(100):
            findings = (Finding("exploding", x),) if x == 77 else ()
            writer.step(StepReport(stats=stats(x, np.ones(2)), findings=findings), x)
    reader = open_run(tmp_path)
    assert 77 in reader.layers("grad_norm").steps
    assert 77 in reader.curves()["loss"][0]
    assert len(reader.layers("grad_norm").steps) < 30


def test_the_number_of_incident_events_is_bounded(tmp_path, open_run, monkeypatch):
    monkeypatch.setattr(summary, "MAX_INCIDENT_EVENTS", 10)
    with SummaryWriter(tmp_path) as board:
        writer = RunWriter(board)
        for x in range(50):
            writer.incident(Incident.start(Finding("exploding", x)), x)
        writer.close(Report(50, tuple(Incident.start(Finding("exploding", x)) for x in range(50))), 50)
    reader = open_run(tmp_path)
    assert len(reader.incidents()) == 10
    assert reader.end()["incidents"] == 50


def test_an_incident_with_many_layers_stores_some_names_and_the_count(tmp_path, open_run):
    names = tuple(f"layer.{i}" for i in range(1000))
    with SummaryWriter(tmp_path) as board:
        RunWriter(board).incident(Incident.start(Finding("vanishing", 1, names)), 1)
    (incident,) = open_run(tmp_path).incidents()
    assert len(incident["layers"]) == summary.MAX_LAYERS
    assert incident["layer_count"] == 1000


def test_a_resumed_run_continues_the_same_rows(tmp_path, open_run):
    for start in (0, 3):
        with SummaryWriter(tmp_path, filename_suffix=f".{start}") as board:
            writer = RunWriter(board)
            for x in range(start, start + 4):
                writer.step(StepReport(stats=stats(x, np.full(2, 1.0 + start))), x)
    layers = open_run(tmp_path).layers("grad_norm")
    assert layers.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(10.0 ** layers.log10[3], [4.0, 4.0], rtol=0.005)  # the value written last


def test_the_end_is_plain_json(tmp_path, open_run):
    with SummaryWriter(tmp_path) as board:
        RunWriter(board).close(Report(9, verdict="stopped: NaN"), 9)
    assert json.dumps(open_run(tmp_path).end())
    assert open_run(tmp_path).end() == {"steps": 9, "incidents": 0, "outcome": "healthy", "verdict": "stopped: NaN"}
