"""Numbers that tell a sick run from a healthy one, from its recorded gradients or by looking inside its net."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lightning_gradguard.modules.tracing import eval_mode, trace

if TYPE_CHECKING:
    from lightning_gradguard.zoo.learner import Loss
    from lightning_gradguard.zoo.running import Run


def first_last_ratio(run: Run) -> float:
    """Median over the steps of the first layer's RMS gradient over the last layer's; only layers with a matrix."""
    ends = [(row[0], row[-1]) for row in _rows(run)]
    return float(10 ** np.median([first - last for first, last in ends])) if ends else math.nan


def start_ratio(run: Run) -> float:
    """The same ratio at the first step that has finite gradients."""
    rows = _rows(run)
    return float(10 ** (rows[0][0] - rows[0][-1])) if rows else math.nan


def depth_slope(run: Run) -> float:
    """Median over the steps of the decades of RMS gradient gained per layer towards the output."""
    slopes = [stats.depth_slope for stats in run.stats if stats.finite and not math.isnan(stats.depth_slope)]
    return float(np.median(slopes)) if slopes else math.nan


def _rows(run: Run) -> list[np.ndarray]:
    rows = [stats.log_rms[stats.layers.matrix] for stats in run.stats if stats.finite]
    return [row for row in rows if len(row) >= 2 and np.isfinite(row[[0, -1]]).all()]


def peak_norm(run: Run) -> float:
    """Largest gradient norm of the run over its median; infinite when one overflowed."""
    norms = np.array([stats.global_norm for stats in run.stats])
    return float(norms.max() / np.median(norms)) if len(norms) and np.isfinite(norms).all() else math.inf


def nonfinite_share(run: Run) -> float:
    """Share of steps whose loss or gradient is NaN or Inf."""
    return float(np.mean([not (stats.finite and stats.loss_finite) for stats in run.stats]))


def loss_left(run: Run) -> float:
    """Median loss of the last tenth of the steps over the median of the first ten; infinite when it became NaN."""
    losses = [math.nan if stats.loss is None else stats.loss for stats in run.stats]
    late = float(np.median(losses[-max(1, len(losses) // 10) :]))
    return late / float(np.median(losses[:10])) if math.isfinite(late) else math.inf


def worst_loss(run: Run) -> float:
    """Largest loss after the first step over the first loss; infinite when it became NaN."""
    losses = np.array([math.nan if stats.loss is None else stats.loss for stats in run.stats])
    return float(losses.max() / losses[0]) if np.isfinite(losses).all() else math.inf


def loss_scatter(run: Run) -> float:
    """Scatter of the last third of the losses around their moving trend, over their median."""
    losses = np.array([math.nan if stats.loss is None else stats.loss for stats in run.stats])
    late = losses[-len(losses) // 3 :]
    return float(np.std(np.diff(late)) / np.median(late)) if np.isfinite(late).all() else math.inf


def zero_gradient_share(run: Run) -> float:
    """Share of layers with a matrix whose gradient is exactly zero, median over the steps."""
    shares = [np.mean(stats.grad_norm[stats.layers.matrix] == 0) for stats in run.stats if stats.finite]
    return float(np.median(shares)) if shares else math.nan


def weight_growth(run: Run) -> float:
    """L2 norm of all weight matrices after training over before."""
    after, before = (math.sqrt(sum(float(p.square().sum()) for p in _matrices(net))) for net in (run.net, run.initial))
    return after / before


def weight_norm(run: Run) -> float:
    """L2 norm of all weight matrices after training."""
    return math.sqrt(sum(float(p.square().sum()) for p in _matrices(run.net)))


def _matrices(net: nn.Module) -> list[Tensor]:
    return [p.detach().double() for p in net.parameters() if p.ndim >= 2]


def dead_share(run: Run) -> float:
    """Share of hidden units after training that are zero for every validation sample."""
    outputs = hidden_outputs(run.net, run.inputs)
    silent = [(out.movedim(1, -1).flatten(0, -2) == 0).all(0) for out in outputs]
    return float(torch.cat(silent).double().mean())


def saturated_share(run: Run) -> float:
    """Share of hidden sigmoid or tanh outputs before training within 1 % of an end of their range."""
    share = []
    for out in hidden_outputs(run.initial, run.inputs):
        low = -1.0 if float(out.min()) < 0 else 0.0
        unit = (out - low) / (1.0 - low)
        share.append(((unit < 0.01) | (unit > 0.99)).double().mean())
    return float(torch.stack(share).mean())


def signal_growth(run: Run) -> float:
    """Decades of RMS output gained per hidden layer before training, least squares over depth."""
    heights = [
        float(out.double().square().mean().sqrt().clamp(min=1e-300).log10())
        for out in hidden_outputs(run.initial, run.inputs)
    ]
    return float(np.polyfit(np.arange(len(heights)), heights, 1)[0])


def activation_slope(run: Run) -> float:
    """Decades of RMS gradient gained per layer towards the output, of the hidden activations before training.

    Positive when gradients vanish on their way back, negative when they explode. The gradient of the weights can hide
    this: it is the product of an activation and the gradient behind it, and both fade in opposite directions.
    """
    heights = [float(g.double().square().mean().sqrt().clamp(min=1e-300).log10()) for g in hidden_gradients(run)]
    return float(np.polyfit(np.arange(len(heights)), heights, 1)[0]) if np.isfinite(heights).all() else math.nan


def activation_fall(run: Run) -> float:
    """Decades of RMS gradient that the hidden activations lose from the last one back to the first, before training."""
    return activation_slope(run) * (len(hidden_gradients(run)) - 1)


def hidden_gradients(run: Run) -> list[Tensor]:
    """The loss's gradient with respect to every hidden activation before training, first layer first."""
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
    """What every hidden activation module puts out, in order."""
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


def time_fade(run: Run) -> float:
    """Decades that the loss's gradient loses from the last time step's input to the first one's, before training.

    Negative when it grows on its way back through time.
    """
    norms = gradient_through_time(run.initial, run.inputs[:256], run.targets[:256], run.loss)
    return float((norms[-2:].mean() / norms[0].clamp(min=1e-300)).log10())


def trained_time_fade(run: Run) -> float:
    """`time_fade` after training."""
    norms = gradient_through_time(run.net, run.inputs[:256], run.targets[:256], run.loss)
    return float((norms[-2:].mean() / norms[0].clamp(min=1e-300)).log10())


def gradient_through_time(net: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Norm of the loss's gradient with respect to each time step's input, `[time]`, float64."""
    probe = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(net(probe), targets), probe)
    return gradient.double().square().sum((0, 2)).sqrt()
