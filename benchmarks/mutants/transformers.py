"""A small transformer whose parts are modules, so that operators can change them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention with four heads."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.mixed, self.out, self.causal = nn.Linear(width, 3 * width), nn.Linear(width, width), causal

    def forward(self, x: Tensor) -> Tensor:
        heads = self.mixed(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*heads, is_causal=self.causal).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two layers, normalized before each."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), Attention(width, causal)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.feed(self.between(x))


class Transformer(nn.Module):
    """Blocks over tokens with learned positions."""

    def __init__(self, symbols: int, length: int, width: int, layers: int, causal: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, width), nn.Parameter(torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, causal) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.place)))
