"""Numbers that distinguish a failing run from a cured one, from its gradient statistics or from inside its network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_gradguard.modules.tracing import eval_mode, trace

if TYPE_CHECKING:
    from lightning_gradguard.zoo.learner import Loss
    from lightning_gradguard.zoo.running import Run


def first_last_ratio(run: Run) -> float:
    """RMS gradient of the first layer divided by that of the last, median over the steps.

    Only layers with a weight matrix count.
    """
    rows = [stats.log_rms[stats.layers.matrix] for stats in run.stats if stats.finite]
    ends = [row[0] - row[-1] for row in rows if len(row) >= 2 and np.isfinite(row[[0, -1]]).all()]
    return float(10 ** np.median(ends)) if ends else math.nan


def depth_slope(run: Run) -> float:
    """Decades by which the RMS gradient grows per layer towards the output, median over the steps."""
    slopes = [stats.depth_slope for stats in run.stats if stats.finite and not math.isnan(stats.depth_slope)]
    return float(np.median(slopes)) if slopes else math.nan


def nonfinite_fraction(run: Run) -> float:
    """Fraction of steps whose loss or gradient is NaN or Inf."""
    return float(np.mean([not (stats.finite and stats.loss_finite) for stats in run.stats]))


def final_loss_ratio(run: Run) -> float:
    """Median loss of the last tenth of the steps divided by that of the first ten; inf when the loss became NaN."""
    losses = _losses(run)
    final = float(np.median(losses[-max(1, len(losses) // 10) :]))
    return final / float(np.median(losses[:10])) if math.isfinite(final) else math.inf


def peak_loss_ratio(run: Run) -> float:
    """Largest loss divided by the first loss; inf when the loss became NaN."""
    losses = _losses(run)
    return float(losses.max() / losses[0]) if np.isfinite(losses).all() else math.inf


def _losses(run: Run) -> NDArray[np.float64]:
    return np.array([math.nan if stats.loss is None else stats.loss for stats in run.stats])


def zero_gradient_fraction(run: Run) -> float:
    """Fraction of layers with a weight matrix whose gradient is exactly zero, median over the steps."""
    fractions = [np.mean(stats.grad_norm[stats.layers.matrix] == 0) for stats in run.stats if stats.finite]
    return float(np.median(fractions)) if fractions else math.nan


def weight_growth(run: Run) -> float:
    """L2 norm of all weight matrices after training divided by that before."""
    after, before = (
        math.sqrt(sum(float(p.detach().double().square().sum()) for p in net.parameters() if p.ndim >= 2))
        for net in (run.net, run.initial)
    )
    return after / before


def dead_fraction(run: Run) -> float:
    """Fraction of hidden units that, after training, output zero for every validation sample."""
    outputs = hidden_outputs(run.net, run.inputs)
    dead = [(out.movedim(1, -1).flatten(0, -2) == 0).all(0) for out in outputs]
    return float(torch.cat(dead).double().mean())


def decades_lost_over_depth(run: Run) -> float:
    """Decades by which the RMS gradient of the hidden activations falls from the last to the first, before training.

    By least squares over depth. Negative when gradients explode. The gradients of the weights can hide this: each is
    the product of an activation and the gradient behind it, and the two may fade in opposite directions.
    """
    heights = [float(g.double().square().mean().sqrt().clamp(min=1e-300).log10()) for g in hidden_gradients(run)]
    if not np.isfinite(heights).all():
        return math.nan
    return float(np.polyfit(np.arange(len(heights)), heights, 1)[0]) * (len(heights) - 1)


def hidden_gradients(run: Run) -> list[Tensor]:
    """Gradient of the loss with respect to every hidden activation before training, first layer first."""
    net, outputs = run.initial, list[Tensor]()
    names = [a.owner for a in trace(net, run.inputs[:2]).activations if a.hidden and a.module]
    hooks = [net.get_submodule(n).register_forward_hook(lambda _, __, out: outputs.append(out)) for n in names]
    try:
        with torch.enable_grad():
            loss = run.loss(net(run.inputs), run.targets)
            return list(torch.autograd.grad(loss, outputs))
    finally:
        for hook in hooks:
            hook.remove()


def hidden_outputs(net: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Outputs of every hidden activation module, first layer first."""
    names = [a.owner for a in trace(net, inputs[:2]).activations if a.hidden and a.module]
    outputs: list[Tensor] = []
    hooks = [net.get_submodule(n).register_forward_hook(lambda _, __, out: outputs.append(out.detach())) for n in names]
    try:
        with torch.no_grad(), eval_mode(net):
            net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def decades_lost_over_time(run: Run) -> float:
    """Decades by which the gradient falls from the last time step's input to the first one's, before training.

    Negative when it grows towards the first time step.
    """
    norms = gradient_through_time(run.initial, run.inputs[:256], run.targets[:256], run.loss)
    return float((norms[-2:].mean() / norms[0].clamp(min=1e-300)).log10())


def gradient_through_time(net: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Norm of the gradient of the loss with respect to each time step's input, `[time]`, float64."""
    probe = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(net(probe), targets), probe)
    return gradient.double().square().sum((0, 2)).sqrt()
