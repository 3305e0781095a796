"""By how much the weights before an activation must be larger."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def gain_of(activation: Callable[[Tensor], Tensor] | None) -> float:
    """What weights must be multiplied by so that gradients keep their scale through this activation.

    `1/√E[φ'(z)²]` with z ~ N(0, 1): √2 for ReLU, √(2/(1 + a²)) for a leaky one, as torch has them. For a φ
    that levels off on both sides `1/φ'(0)`, its linear part: 1 for tanh, 4 for sigmoid.
    (`torch.nn.init.calculate_gain` has 5/3 and 1 for these two. Through sigmoids the gradient loses 0.63 decades a
    layer at gain 1 and 0.2 at gain 4, as mean-field theory has it: `tests/test_physics.py`.)

    Args:
        activation: Any elementwise function; None, no activation, has gain 1.

    Example:
        >>> from torch import nn
        >>> [round(gain_of(f), 3) for f in (torch.relu, torch.tanh, torch.sigmoid, nn.functional.gelu, None)]
        [1.414, 1.0, 4.0, 1.481, 1.0]
    """
    if activation is None:
        return 1.0
    with torch.enable_grad():
        z = (torch.arange(16000, dtype=torch.float64) - 7999.5).mul_(1e-3).requires_grad_()  # no node on a kink
        y = activation(z * 1.0)
        (slope,) = torch.autograd.grad(y.sum(), z)
    low, left, centre, right, high = (float(y[i]) for i in (0, 4000, 8000, 12000, 15999))
    flat = abs(high - right) < 0.25 * abs(right - centre) and abs(left - low) < 0.25 * abs(centre - left)
    if flat:
        return 1e-3 / float(y[8000] - y[7999])
    density = torch.exp(-0.5 * z.detach() ** 2) / math.sqrt(2 * math.pi)
    return 1 / math.sqrt(float((slope**2 * density).sum()) * 1e-3)
