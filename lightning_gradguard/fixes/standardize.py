"""Input normalization with statistics that are collected during training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningStandardize(nn.Module):
    """`(x - mean) / std` with the mean and standard deviation of all training inputs so far.

    Unlike BatchNorm it uses the same statistics in training and evaluation, so it works for any batch size. They are
    buffers, so every checkpoint has them.

    Args:
        features: Number of features, or of channels.
        spatial: Number of dimensions after the channels; 0 when the features are the last dimension.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> norm, x = RunningStandardize(2), torch.randn(100, 2) * 300 + 1000
        >>> y = norm(x)
        >>> [round(float(v), 3) for v in (*y.mean(0), *y.std(0, unbiased=False))]
        [0.0, 0.0, 1.0, 1.0]
        >>> bool((norm.eval()(x) == y).all())
        True

    References:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp", section 4.3.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, features: int, spatial: int = 0) -> None:
        super().__init__()
        self.spatial = spatial
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("var", torch.ones(features, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The standardized input, in its own dtype; a constant feature only gets mean 0."""
        if self.training and bool(torch.isfinite(x).all()):
            self._learn(x)
        shape = (-1, *(1 for _ in range(self.spatial)))
        std = torch.where(self.var > 0, self.var, torch.ones_like(self.var)).sqrt()
        return ((x - self.mean.reshape(shape)) / std.reshape(shape)).to(x.dtype)

    @torch.no_grad()
    def _learn(self, x: Tensor) -> None:
        rows = x.detach().double().movedim(-1 - self.spatial, -1).reshape(-1, len(self.mean))
        more, both = len(rows), self.count + len(rows)
        delta = rows.mean(0) - self.mean
        within = self.var * self.count + rows.var(0, unbiased=False) * more
        self.var.copy_((within + delta.square() * self.count * more / both) / both)
        self.mean.add_(delta * more / both)
        self.count.copy_(both)
