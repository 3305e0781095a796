"""Statistics against references that share no code with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_gradguard.collect.layers import Layers, ParamTable, clean_name
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.tensors.norms import MANY, SMALL, read_norms


def backward(module: nn.Module, x: torch.Tensor) -> None:
    module(x).square().sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_equal_torch_in_double_precision(dtype: torch.dtype) -> None:
    tensors = [torch.randn(7, 5).to(dtype), None, torch.randn(3).to(dtype), torch.zeros(0, dtype=dtype)]
    norms, _ = read_norms(tensors)
    expected = [0.0 if t is None else float(t.double().norm()) for t in tensors]
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_norms_of_very_many_small_tensors_among_large_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors: list[torch.Tensor | None] = [torch.randn(1 + i % 20).to(dtype) for i in range(MANY)]
    tensors[3:3] = [torch.randn(SMALL + 1).to(dtype), None, torch.zeros(0, dtype=dtype), torch.randn(2, 3).to(dtype).T]
    tensors += [torch.tensor([math.nan, 1.0]).to(dtype), torch.tensor([-math.inf]).to(dtype), torch.full((4,), 1e30)]
    norms, (loss,) = read_norms(tensors, [torch.tensor(0.25)])
    expected = [0.0 if t is None else float(t.double().norm()) for t in tensors]
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    assert loss == 0.25


def test_norms_of_very_many_small_tensors_of_any_layout() -> None:
    sparse = torch.sparse_coo_tensor([[1, 1]], [1.0, 2.0], (4,), check_invariants=True)
    for odd in (sparse, torch.tensor([3 + 4j])):
        norms, _ = read_norms([*(torch.full((2,), float(i)) for i in range(MANY)), odd])
        np.testing.assert_allclose(norms, [*(i * 2**0.5 for i in range(MANY)), 3.0 if odd is sparse else 5.0])


def test_norms_of_mixed_layouts() -> None:
    embedding = nn.Embedding(10, 4, sparse=True)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    sparse, complex_ = embedding.weight.grad, torch.tensor([3 + 4j, 0])
    norms, _ = read_norms([sparse, complex_, torch.ones(4, dtype=torch.float64), torch.ones(9, dtype=torch.bfloat16)])
    np.testing.assert_allclose(norms, [float(sparse.to_dense().norm()), 5.0, 2.0, 3.0])


def test_a_norm_that_overflows_differs_from_a_gradient_that_is_not_finite() -> None:
    norms, _ = read_norms([torch.full((4,), 3e38), torch.tensor([1.0, math.inf]), torch.tensor([1.0, math.nan])])
    assert norms[0] == pytest.approx(6e38, rel=1e-6)
    assert math.isinf(norms[1])
    assert math.isnan(norms[2])
    assert GradStats.of({"a": norms[0], "b": norms[0]}).global_norm == pytest.approx(6e38 * 2**0.5, rel=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1.0, 1e30])  # the second overflows fp32 when squared
def test_gradients_of_a_double_backward_pass_are_read_like_any_other(size: float) -> None:
    weight = torch.ones(4, requires_grad=True)
    grads = torch.autograd.grad((weight**3).sum() * size, weight, create_graph=True)
    assert grads[0].requires_grad
    assert read_norms(grads)[0].tolist() == pytest.approx([6 * size])
    assert read_norms([*grads, *(torch.full((2,), float(i)) for i in range(MANY))])[0][0] == pytest.approx(6 * size)


def test_losses_are_read_with_the_norms_and_the_scale_is_divided_out() -> None:
    weight = torch.zeros(4)
    norms, values = read_norms([torch.full((4,), 512.0)], [torch.tensor(0.5), torch.tensor(1.5)])
    assert ParamTable([("a.weight", weight)], [weight]).per_layer(norms, scale=1024.0).tolist() == [1.0]
    assert values.tolist() == [0.5, 1.5]


def test_layers_and_global_norm_equal_clip_grad_norm() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    backward(net, torch.randn(6, 4))
    table = ParamTable(net.named_parameters(), list(net.parameters()))
    norms, _ = read_norms([p.grad for p in table.params])
    stats = GradStats(0, table.layers, table.per_layer(norms))
    assert table.layers.names == ("0", "2", "3")
    assert table.layers.numel.tolist() == [40, 16, 18]
    assert table.layers.matrix.tolist() == [True, False, True]
    assert stats.global_norm == pytest.approx(float(torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])))
    for i, module in enumerate([net[0], net[2], net[3]]):
        expected = math.sqrt(sum(float(p.grad.double().norm()) ** 2 for p in module.parameters()))
        assert stats.grad_norm[i] == pytest.approx(expected, rel=1e-6)


def test_only_the_optimizers_own_parameters_count() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    backward(net, torch.randn(6, 4))
    table = ParamTable(net.named_parameters(), list(net[1].parameters()))
    assert table.layers.names == ("1",)


def test_tied_weights_count_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    table = ParamTable(net.named_parameters(), list(net.parameters()))
    assert table.layers.names == ("0",)


@settings(max_examples=50, deadline=None)
@given(st.floats(-2.0, 2.0), st.integers(3, 20))
def test_depth_slope_recovers_a_known_slope(slope: float, depth: int) -> None:
    norms = {f"net.{i}": 10.0 ** (slope * i) for i in range(depth)}
    assert GradStats.of(norms).depth_slope == pytest.approx(slope, abs=1e-6)


def test_depth_slope_is_unknown_for_shallow_nets_and_ignores_vectors() -> None:
    assert math.isnan(GradStats.of({"a": 1.0, "b": 2.0}).depth_slope)


@pytest.mark.filterwarnings("error")
def test_layers_with_a_zero_gradient_are_left_out_of_the_depth_slope() -> None:
    assert math.isnan(GradStats.of({"a": 0.0, "b": 1.0, "c": 0.0}).depth_slope)
    norms = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 10.0, "e": 100.0, "f": 0.0}
    assert GradStats.of(norms).depth_slope == pytest.approx(1.0)


def sample_of(param_norm: float, update_ratio: float) -> dict[str, Any]:
    return {"param_norm": np.array([param_norm]), "update_ratio": np.array([update_ratio])}


@pytest.mark.filterwarnings("error")
def test_the_update_ratio_of_all_layers() -> None:
    sample = dict(param_norm=np.array([3.0, 4.0]), update_ratio=np.array([0.1, 0.1]))
    assert GradStats.of({"a": 1.0, "b": 1.0}, **sample).global_update_ratio == pytest.approx(0.1)
    zeros = dict(param_norm=np.array([0.0, 4.0]), update_ratio=np.array([math.inf, 0.1]))
    assert GradStats.of({"a": 1.0, "b": 1.0}, **zeros).global_update_ratio == pytest.approx(0.1)
    only = dict(param_norm=np.array([0.0]), update_ratio=np.array([math.inf]))
    assert math.isnan(GradStats.of({"a": 1.0}, **only).global_update_ratio)
    scalar = GradStats(0, Layers(("a",), np.ones(1, int), np.zeros(1, bool)), np.ones(1), **sample_of(1.0, 3.0))
    assert math.isnan(scalar.global_update_ratio)
    assert math.isnan(GradStats.of({"a": 1.0}).global_update_ratio)


def test_wrapper_prefixes_are_removed() -> None:
    name = "_forward_module.net._fsdp_wrapped_module._checkpoint_wrapped_module.0._orig_mod.weight"
    assert "_orig_mod" not in clean_name(name)
    assert clean_name("net._fsdp_wrapped_module.0.weight") == "net.0.weight"
