"""The figures of tab and report: shapes of lines, gaps, axes, colors and what hovering tells."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from plotly.colors import sample_colorscale

from lightning_gradguard.show import metadata
from lightning_gradguard.show.figures import MAX_INCIDENT_LINES, draw_figures
from lightning_gradguard.show.heatmap_figure import cell_values, log_colors
from lightning_gradguard.show.layer_series import LayerSeries
from lightning_gradguard.show.panels import PANELS
from lightning_gradguard.show.run_view import FigureQuery, RunView
from lightning_gradguard.show.time_line import BARS, counts_by_kind

STEPS = np.arange(100)


def view_of(
    curves: dict[str, Any] | None = None, incidents: list[dict[str, Any]] | None = None, cells: Any = None
) -> RunView:
    log10 = np.zeros((100, 3), np.float32) if cells is None else np.asarray(cells, np.float32)
    series = LayerSeries(("net.0", "net.1", "head"), STEPS, log10, {"net.0": "Linear", "head": "Conv2d"})
    known = {name: (STEPS, np.asarray(y, float)) for name, y in (curves or {}).items()}
    return RunView("run", FigureQuery(), series, [1, 1, 1], known, incidents or [], (0, 99))


def incident(x: int, kind: str = "exploding") -> dict[str, Any]:
    return {"kind": kind, "x": x, "x_last": x, "outcome": "resolved", "text": "text", "layers": ["net.0"]}


def trace(figure: Any, name: str) -> Any:
    return next(found for found in figure.data if found.name == name)


def test_a_value_holds_until_the_next_step() -> None:
    (figure,) = draw_figures([view_of({panel.lines[0].name: 1.0 + STEPS for panel in PANELS})])
    lines = [found for found in figure.data if found.type == "scatter" and found.mode == "lines"]
    assert len(lines) >= len(PANELS)
    assert {line.line.shape for line in lines} == {"hv"}


@pytest.mark.parametrize("name", ["clip_coefficient", "grad_norm_clipped"])
def test_a_skipped_step_is_a_gap_and_the_value_before_it_holds_until_then(name: str) -> None:
    values = np.where(STEPS == 50, 0.0, 0.5)
    (figure,) = draw_figures([view_of({"grad_norm": np.ones(100), name: values})])
    label = "clipped norm" if name == "grad_norm_clipped" else "clip coefficient"
    line = trace(figure, label)
    assert np.isnan(np.asarray(line.y)[np.asarray(line.x) == 50]).all()
    held = np.asarray(line.x)[~np.isnan(line.y)]
    assert 49 < held[held < 50].max() < 49.5  # rounds to the step whose value it is


def test_the_loss_that_is_not_finite_is_a_gap() -> None:
    (figure,) = draw_figures([view_of({"loss": np.where(STEPS == 7, math.inf, 1.0)})])
    line = trace(figure, "loss")
    assert np.isnan(np.asarray(line.y)[np.asarray(line.x) == 7]).all()


@pytest.mark.parametrize(("full", "high"), [(False, 10.0), (True, 1e4)])
def test_a_spike_flattens_the_loss_only_on_request(full: bool, high: float) -> None:
    loss = np.where((STEPS >= 50) & (STEPS < 54), 1e4, 2.0 - STEPS / 100)
    (figure,) = draw_figures([view_of({"loss": loss})], full=full)
    low, top = figure.layout.yaxis2.range
    assert low < 1.01
    assert 2 < top <= 1.1 * high


def test_every_axis_has_a_title_with_its_unit() -> None:
    curves = {panel.lines[0].name: 1.0 + STEPS for panel in PANELS}
    (figure,) = draw_figures([view_of(curves, [incident(3)])])
    axes = [figure.layout[f"yaxis{i}"].title.text for i in range(2, 3 + len(PANELS))]
    assert axes == ["count", *(panel.unit for panel in PANELS)]
    assert figure.layout.xaxis.title.text == "training step"
    bar = trace(figure, "scale").marker.colorbar
    assert bar.title.text == "L2 norm"


def test_all_panels_share_one_step_axis_with_a_line_across_them() -> None:
    (figure,) = draw_figures([view_of({"loss": STEPS, "grad_norm": 1.0 + STEPS}, [incident(3)])])
    assert {found.xaxis or "x" for found in figure.data} == {"x"}
    assert (figure.layout.xaxis.showspikes, figure.layout.xaxis.spikemode) == (True, "across")
    ends = [figure.layout[name].domain for name in ("yaxis", "yaxis2", "yaxis3", "yaxis4")]
    assert all(upper[0] > lower[1] for upper, lower in itertools.pairwise(ends))


def test_a_cell_has_the_full_name_the_module_type_and_the_value() -> None:
    cells = np.full((100, 3), -2.0)
    cells[5, 0], cells[6, 1] = math.inf, -math.inf
    (figure,) = draw_figures([view_of(cells=cells)])
    heatmap, broken = trace(figure, "heatmap"), trace(figure, "NaN or inf")
    assert list(heatmap.y) == list(broken.y) == ["net.0 (Linear)", "net.1", "head (Conv2d)"]
    assert list(figure.layout.yaxis.ticktext) == ["net.0", "net.1", "head"]
    assert heatmap.z[2][0] == pytest.approx(0.01)
    assert heatmap.z[1][6] == 0
    assert np.isnan(heatmap.z[0][5])
    assert [(row, broken.x[at]) for row, at in np.argwhere(~np.isnan(broken.z))] == [(0, 5)]
    assert (heatmap.hoverongaps, broken.hoverongaps) == (False, False)
    assert "%{z:.4~g} (L2 norm)" in heatmap.hovertemplate


def test_values_beyond_float32_stay_positive_and_finite() -> None:
    found = cell_values(np.array([-60, 60, 0, -np.inf, np.inf, np.nan], np.float32))
    assert (found[:3] > 0).all()
    assert np.isfinite(found[:3]).all()
    assert found[3] == 0
    assert np.isnan(found[4:]).all()


@pytest.mark.parametrize("scale", [(-3.0, 1.0), (-30.0, 5.0)])
@pytest.mark.parametrize("share", [0.0, 0.21, 0.5, 0.83, 1.0])
def test_colors_are_logarithmic(scale: tuple[float, float], share: float) -> None:
    value = 10 ** (scale[0] + share * (scale[1] - scale[0]))
    (color,) = sample_colorscale(log_colors(scale), [value / 10 ** scale[1]], colortype="tuple")
    expected = metadata.viridis(np.array([share]))[0] / 255
    np.testing.assert_allclose(color, expected, atol=0.02)


def test_zero_is_gray_and_the_smallest_number_is_not() -> None:
    scale = log_colors((-3.0, 1.0))
    assert scale[0][1] == scale[1][1] == metadata.ZERO_COLOR
    assert scale[2][0] < 1e-45 / 10


def test_the_time_line_counts_the_incidents_of_each_kind() -> None:
    found = [incident(0), incident(1, "nonfinite"), incident(99), incident(500)]
    counts = counts_by_kind(view_of(incidents=found), [0, 99], ["exploding", "nonfinite"])
    assert counts.shape == (2, BARS)
    assert (counts[0, 0], counts[0, -1], counts[1, 0], counts.sum()) == (1, 1, 1, 3)
    (figure,) = draw_figures([view_of(incidents=found[:3])])
    assert {bar.name: int(sum(bar.y)) for bar in figure.data if bar.type == "bar"} == {"exploding": 2, "nonfinite": 1}


def test_many_incidents_draw_no_lines_until_zoomed() -> None:
    few, many = ([incident(i % 100) for i in range(n)] for n in (MAX_INCIDENT_LINES, MAX_INCIDENT_LINES + 1))
    assert [len(draw_figures([view_of(incidents=found)])[0].layout.shapes) for found in (few, many)] == [60, 0]
