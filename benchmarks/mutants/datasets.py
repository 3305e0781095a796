"""Data of the recipes: bundled with scikit-learn or Python, or generated; the same in every run."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mutants.setups import Data


def split(x: Tensor, y: Tensor, tested: int) -> Data:
    """Shuffles rows, always in the same way, and keeps some to measure with."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return Data(x[tested:], y[tested:], x[:tested], y[:tested])


@cache
def book(length: int) -> Data:
    """Pieces of Python's own documentation as bytes; the targets are their successors. The end is to measure with."""
    from pydoc_data.topics import topics

    pages = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")[:300_000]
    text = torch.frombuffer(bytearray(pages), dtype=torch.uint8).long().clamp(max=127)
    lines = text[: len(text) // (length + 1) * (length + 1)].reshape(-1, length + 1)
    cut = len(lines) * 9 // 10
    x, y = lines[:, :-1].contiguous(), lines[:, 1:].contiguous()
    return Data(x[:cut], y[:cut], x[cut : cut + 300], y[cut : cut + 300])
