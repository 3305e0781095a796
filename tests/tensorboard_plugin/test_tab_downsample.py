"""Folding, binning and thinning, compared with direct computations; the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_gradguard.show.downsample import (
    MAX_CELLS,
    MAX_ROWS,
    MIN_ROWS,
    SPAN,
    auto_depth,
    bin_steps,
    fold_layers,
    inside,
    rows_of,
    thin_curve,
)
from lightning_gradguard.show.figures import value_range
from lightning_gradguard.show.heatmap_figure import MIN_DECADES, color_range
from lightning_gradguard.show.heatmap_image import HEIGHT, draw_heatmap
from lightning_gradguard.show.heatmap_window import HeatmapWindow
from lightning_gradguard.show.run_reader import LayerSeries
from lightning_gradguard.show.run_view import FigureQuery, RunView

BOTH = {"a.0": "a", "a.1": "a"}
NAMES = ("emb", "enc.0.q", "enc.1.q", "enc.0.k", "enc.1.k", "head")


def series_of(norms: np.ndarray, names: tuple[str, ...] = NAMES) -> LayerSeries:
    with np.errstate(divide="ignore"):
        return LayerSeries(names, np.arange(len(norms)), np.log10(norms).astype(np.float32))


def test_a_module_is_the_norm_of_its_layers_even_when_they_are_not_adjacent():
    norms = np.random.default_rng(0).lognormal(size=(5, 6))
    folded, counts = fold_layers(series_of(norms), "grad_norm", rows_of(NAMES, 2))
    assert folded.names == ("emb", "enc.0", "enc.1", "head")
    assert counts == [1, 2, 2, 1]
    np.testing.assert_allclose(10.0 ** folded.log10[:, 1], np.hypot(norms[:, 1], norms[:, 3]), rtol=1e-5)


def test_a_ratio_is_the_maximum_over_its_layers():
    norms = np.random.default_rng(0).lognormal(size=(5, 6))
    folded, _ = fold_layers(series_of(norms), "update_ratio", rows_of(NAMES, 1))
    np.testing.assert_allclose(10.0 ** folded.log10[:, 1], norms[:, 1:5].max(axis=1), rtol=1e-5)


@pytest.mark.parametrize(("other", "expected"), [(0.0, 0.0), (np.inf, np.inf), (1.0, 0.0)])
def test_zero_and_inf_can_be_folded(other, expected):
    folded, _ = fold_layers(series_of(np.array([[other, 1.0]]), ("a.0", "a.1")), "update_ratio", BOTH)
    assert folded.log10[0, 0] == expected


def test_a_module_of_zeros_is_zero():
    folded, _ = fold_layers(series_of(np.zeros((1, 2)), ("a.0", "a.1")), "grad_norm", BOTH)
    assert folded.log10[0, 0] == -np.inf


def test_a_module_that_does_not_exist_has_no_rows():
    folded, counts = fold_layers(series_of(np.ones((3, 6))), "grad_norm", rows_of(NAMES, 1, "decoder"))
    assert (folded.names, counts, folded.log10.shape) == ((), [], (3, 0))


def test_binning_never_hides_a_spike_or_a_nan():
    log = np.zeros((10_000, 2), np.float32)
    log[1234, 0], log[5678, 1] = 9.0, np.inf
    binned = bin_steps(LayerSeries(("a", "b"), np.arange(10_000), log), max_columns=100)
    assert binned.log10.shape == (100, 2)
    assert (binned.log10[:, 0].max(), np.isinf(binned.log10[:, 1]).sum()) == (9.0, 1)


def test_thinning_keeps_extremes_gaps_and_order():
    y = np.sin(np.arange(50_000) / 700)
    y[20_001], y[30_002], y[40_003] = 7.0, -7.0, np.nan
    x, _ = thin_curve(np.arange(50_000), y, max_points=300)
    assert len(x) <= 303
    assert (np.diff(x) > 0).all()
    assert {20_001, 30_002, 40_003} <= set(x.tolist())


def test_hundreds_of_layers_are_folded_to_at_most_120_rows():
    names = tuple(f"encoder.layer.{i}.{part}.{kind}" for i in range(48) for part in ("attn", "mlp") for kind in "abcd")
    assert auto_depth(names) == 4
    assert auto_depth(names, within="encoder.layer.3") == 0
    assert auto_depth(tuple(f"l{i}" for i in range(1000))) == 1


MODELS = {
    "flat": [f"net.{i}" for i in range(1000)],
    "flatter": [f"l{i}" for i in range(500)],
    "blocks": [f"encoder.layer.{i}.{part}" for i in range(250) for part in "qkvo"],
    "two stacks": [f"{stack}.{i}.{part}" for stack in ("encoder", "decoder") for i in range(200) for part in "ab"],
    "a stack and a head": [*(f"body.{i}.conv" for i in range(300)), "head.0", "head.1"],
    "huge": [f"experts.{i}.{j}" for i in range(3) for j in range(5000)],
}


@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
def test_at_least_a_dozen_rows_are_shown_and_every_row_opens_down_to_its_layers(names):
    within, trail = "", []
    while True:
        rows = rows_of(names, auto_depth(names, within), within, divide=True)
        counts = {row: list(rows.values()).count(row) for row in dict.fromkeys(rows.values())}
        assert min(MIN_ROWS, len(rows)) <= len(counts) <= MAX_ROWS
        assert sorted(rows) == sorted(names[i] for i in inside(names, within))
        folded = [row for row, count in counts.items() if count > 1]
        if not folded:
            break
        within = folded[-1]
        assert len(inside(names, within)) == counts[within]
        assert within not in trail
        trail.append(within)
    assert len(trail) >= 1


def test_neighbors_never_cross_from_one_module_to_another():
    names = MODELS["two stacks"]
    rows = rows_of(names, auto_depth(names), divide=True)
    spans = [row for row in rows.values() if SPAN in row]
    assert spans
    assert all(name.split(".")[0] == row.split(".")[0] for name, row in rows.items())


def test_a_depth_that_was_asked_for_is_kept():
    assert set(rows_of(MODELS["flat"], 1).values()) == {"net"}


def test_every_layer_of_a_large_model_has_few_columns():
    binned = bin_steps(LayerSeries(tuple(MODELS["flat"]), np.arange(2000), np.zeros((2000, 1000), np.float32)))
    assert binned.log10.size <= MAX_CELLS


def view_of(log: np.ndarray) -> RunView:
    heatmap = LayerSeries(tuple(f"l{i}" for i in range(log.shape[1])), np.arange(len(log)), log.astype(np.float32))
    return RunView("r", FigureQuery(), heatmap, [1] * log.shape[1], {}, [], (0, len(log) - 1))


def test_the_noise_of_a_healthy_run_does_not_fill_the_color_scale():
    low, high = color_range([view_of(np.random.default_rng(0).normal(scale=0.05, size=(100, 5)))])
    assert high - low >= MIN_DECADES


def test_one_step_at_1e30_does_not_flatten_the_scale():
    log = np.random.default_rng(0).normal(size=(500, 5))
    log[100] = 30.0
    _, high = color_range([view_of(log)])
    assert high < 12


def test_a_panel_without_finite_values_has_no_range():
    from lightning_gradguard.show.panels import PANELS

    view = RunView("r", FigureQuery(), None, [], {"loss": (np.arange(3), np.full(3, np.nan))}, [], (0, 2))
    assert value_range(PANELS[1], [view]) is None


def test_the_picture_shows_zero_and_nonfinite_values_in_their_own_colors():
    window = HeatmapWindow()
    for x in range(8):
        window.add(x, np.array([0.0, np.nan if x == 5 else 1.0, -np.inf]))
    picture = draw_heatmap(window, ["\u5c42", "b", "c" * 400], marks=[5], title="run")
    orange = (picture == (213, 94, 0)).all(axis=-1)
    gray = (picture == (154, 154, 154)).all(axis=-1)
    assert orange.any()
    assert gray.any()
    assert orange.sum() < gray.sum()


def test_a_picture_of_more_layers_than_pixels():
    window = HeatmapWindow(max_columns=16)
    for x in range(100):
        window.add(x, np.random.default_rng(x).normal(size=3 * HEIGHT))
    assert len(window.steps) <= 16
    assert draw_heatmap(window, [f"l{i}" for i in range(3 * HEIGHT)], [], "t").shape[2] == 3
