"""ACT: adaptive clipping for every step, by three published rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_gradguard.arguments import require_number
from lightning_gradguard.remedies.base import AbstractClip
from lightning_gradguard.step.pending_step import PendingStep


@dataclass(frozen=True)
class AutoClip(AbstractClip):
    """Clips the global norm to a percentile of the run's own recent norms.

    Args:
        percentile: In (0, 100). 10 is the authors' recommendation.
        window: Norms that are kept. Default chosen: the paper keeps all of them, which grows without bound.

    Raises:
        ValueError: If a number is out of range.

    References:
        Seetharaman et al. 2020, arXiv 2007.14469.
    """

    percentile: float = 10.0
    window: int = 1000

    def __post_init__(self) -> None:
        require_number("AutoClip(percentile=...)", self.percentile, above=0, below=100)
        require_number("AutoClip(window=...)", self.window, at_least=1, whole=True)

    def init(self) -> dict[str, Any]:
        return {"norms": []}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        norm = step.stats.global_norm
        if not math.isfinite(norm):
            return state
        norms = [*state["norms"], norm][-self.window :]
        step.clip_to(float(np.percentile(norms, self.percentile)))
        return {"norms": norms}


@dataclass(frozen=True)
class ZClip(AbstractClip):
    """Clips the global norm when its z-score against an exponential moving average is too high.

    Args:
        z: Largest z-score, 2.5 as in the paper.
        decay: Of the moving mean and variance, 0.97 as in the paper.
        warmup: Steps in which mean and variance are measured and nothing is clipped, 25 as in the paper.

    Raises:
        ValueError: If a number is out of range.

    References:
        Kumar et al. 2025, arXiv 2504.02507.
    """

    z: float = 2.5
    decay: float = 0.97
    warmup: int = 25

    def __post_init__(self) -> None:
        require_number("ZClip(z=...)", self.z, above=0)
        require_number("ZClip(decay=...)", self.decay, above=0, below=1)
        require_number("ZClip(warmup=...)", self.warmup, at_least=1, whole=True)

    def init(self) -> dict[str, Any]:
        return {"early": [], "mean": math.nan, "var": math.nan}

    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        norm = step.stats.global_norm
        if not math.isfinite(norm):
            return state
        if math.isnan(state["mean"]):
            early = [*state["early"], norm]
            if len(early) < self.warmup:
                return {**state, "early": early}
            return {"early": [], "mean": float(np.mean(early)), "var": float(np.var(early))}
        mean, std = state["mean"], math.sqrt(state["var"])
        score = (norm - mean) / std if std > 0 else 0.0
        kept = mean + self.z**2 * std / score if score > self.z else norm
        step.clip_to(kept)
        mean = self.decay * mean + (1 - self.decay) * kept
        return {"early": [], "mean": mean, "var": self.decay * state["var"] + (1 - self.decay) * (kept - mean) ** 2}


@dataclass(frozen=True)
class AGC(AbstractClip):
    """Clips each unit's gradient to a share of its weight's norm.

    A unit is a row of the weight (an output neuron, a filter), a whole bias or a whole vector.

    Args:
        clipping: Largest ratio of gradient to weight norm, 0.01 as in the paper for batches of 1024 to 4096.
        eps: Smallest norm that a weight counts with, 1e-3 as in the paper.

    Raises:
        ValueError: If a number is out of range.

    References:
        Brock et al. 2021, arXiv 2102.06171.
    """

    unitwise: ClassVar[bool] = True
    clipping: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        require_number("AGC(clipping=...)", self.clipping, above=0)
        require_number("AGC(eps=...)", self.eps, above=0)

    def init(self) -> dict[str, Any]:
        return {}

    @torch.no_grad()
    def apply(self, state: dict[str, Any], step: PendingStep) -> dict[str, Any]:
        for p in step.params:
            if p.grad is None or p.grad.is_sparse:
                continue
            limit = self.clipping * unitwise_norm(p).clamp(min=self.eps) * step.grad_scale
            norm = unitwise_norm(p.grad)
            p.grad.mul_((limit / norm.clamp(min=torch.finfo(norm.dtype).tiny)).clamp(max=1.0))
        return state


def unitwise_norm(tensor: Tensor) -> Tensor:
    """L2 norm over all dimensions but the first, which stay with length 1; over everything for vectors."""
    dims = tuple(range(1, tensor.ndim)) if tensor.ndim > 1 else None
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dims, keepdim=True)
    return norm
