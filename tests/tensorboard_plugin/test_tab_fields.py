"""Folding, binning and thinning against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_gradguard.show import downsample as fields
from lightning_gradguard.show.figures import value_range
from lightning_gradguard.show.heatmap_figure import MIN_DECADES, color_range
from lightning_gradguard.show.heatmap_image import HEIGHT, Window, draw
from lightning_gradguard.show.history import Field
from lightning_gradguard.show.run_view import FigureQuery, RunView

NAMES = ("emb", "enc.0.q", "enc.1.q", "enc.0.k", "enc.1.k", "head")


def field_of(norms: np.ndarray, names: tuple[str, ...] = NAMES) -> Field:
    with np.errstate(divide="ignore"):
        return Field(names, np.arange(len(norms)), np.log10(norms).astype(np.float32))


def test_a_module_is_the_norm_of_its_layers_even_when_they_are_not_neighbours():
    norms = np.random.default_rng(0).lognormal(size=(5, 6))
    folded, counts = fields.fold(field_of(norms), "grad_norm", depth=2)
    assert folded.names == ("emb", "enc.0", "enc.1", "head")
    assert counts == [1, 2, 2, 1]
    np.testing.assert_allclose(10.0 ** folded.log[:, 1], np.hypot(norms[:, 1], norms[:, 3]), rtol=1e-5)


def test_a_ratio_is_the_largest_of_its_layers():
    norms = np.random.default_rng(0).lognormal(size=(5, 6))
    folded, _ = fields.fold(field_of(norms), "update_ratio", depth=1)
    np.testing.assert_allclose(10.0 ** folded.log[:, 1], norms[:, 1:5].max(axis=1), rtol=1e-5)


@pytest.mark.parametrize(("other", "expected"), [(0.0, 0.0), (np.inf, np.inf), (1.0, 0.0)])
def test_what_has_no_logarithm_folds_too(other, expected):
    folded, _ = fields.fold(field_of(np.array([[other, 1.0]]), ("a.0", "a.1")), "update_ratio", depth=1)
    assert folded.log[0, 0] == expected


def test_a_module_of_zeros_is_zero():
    folded, _ = fields.fold(field_of(np.zeros((1, 2)), ("a.0", "a.1")), "grad_norm", depth=1)
    assert folded.log[0, 0] == -np.inf


def test_nothing_inside_a_module_that_is_not_there():
    folded, counts = fields.fold(field_of(np.ones((3, 6))), "grad_norm", depth=1, within="decoder")
    assert (folded.names, counts, folded.log.shape) == ((), [], (3, 0))


def test_binning_never_hides_a_spike_or_a_nan():
    log = np.zeros((10_000, 2), np.float32)
    log[1234, 0], log[5678, 1] = 9.0, np.inf
    few = fields.binned(Field(("a", "b"), np.arange(10_000), log), columns=100)
    assert few.log.shape == (100, 2)
    assert (few.log[:, 0].max(), np.isinf(few.log[:, 1]).sum()) == (9.0, 1)


def test_thinning_keeps_extremes_gaps_and_order():
    y = np.sin(np.arange(50_000) / 700)
    y[20_001], y[30_002], y[40_003] = 7.0, -7.0, np.nan
    x, _ = fields.thin(np.arange(50_000), y, points=300)
    assert len(x) <= 303
    assert (np.diff(x) > 0).all()
    assert {20_001, 30_002, 40_003} <= set(x.tolist())


def test_a_thousand_layers_fold_to_what_fits():
    names = tuple(f"encoder.layer.{i}.{part}.{kind}" for i in range(48) for part in ("attn", "mlp") for kind in "abcd")
    assert fields.auto_depth(names) == 4
    assert fields.auto_depth(names, within="encoder.layer.3") == 0
    assert fields.auto_depth(tuple(f"l{i}" for i in range(1000))) == 1


def view_of(log: np.ndarray) -> RunView:
    heat = Field(tuple(f"l{i}" for i in range(log.shape[1])), np.arange(len(log)), log.astype(np.float32))
    return RunView("r", FigureQuery(), heat, [1] * log.shape[1], {}, [], (0, len(log) - 1))


def test_the_noise_of_a_healthy_run_does_not_fill_the_colour_scale():
    low, high = color_range([view_of(np.random.default_rng(0).normal(scale=0.05, size=(100, 5)))])
    assert high - low >= MIN_DECADES


def test_one_step_at_1e30_does_not_flatten_the_scale():
    log = np.random.default_rng(0).normal(size=(500, 5))
    log[100] = 30.0
    _, high = color_range([view_of(log)])
    assert high < 12


def test_an_empty_panel_has_no_range():
    from lightning_gradguard.show.figures import PANELS

    view = RunView("r", FigureQuery(), None, [], {"loss": (np.arange(3), np.full(3, np.nan))}, [], (0, 2))
    assert value_range(PANELS[1], [view]) is None


def test_the_picture_paints_what_is_not_finite():
    window = Window()
    for x in range(8):
        window.add(x, np.array([0.0, np.nan if x == 5 else 1.0, -np.inf]))
    picture = draw(window, ["\u5c42", "b", "c" * 400], marks=[5], title="run")
    orange = (picture == (213, 94, 0)).all(axis=-1)
    grey = (picture == (154, 154, 154)).all(axis=-1)
    assert orange.any()
    assert grey.any()
    assert orange.sum() < grey.sum()


def test_a_picture_of_more_layers_than_pixels():
    window = Window(most=16)
    for x in range(100):
        window.add(x, np.random.default_rng(x).normal(size=3 * HEIGHT))
    assert len(window.steps) <= 16
    assert draw(window, [f"l{i}" for i in range(3 * HEIGHT)], [], "t").shape[2] == 3
