"""A byte-level GPT on the text of Python's documentation, trained by a standard recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pydoc_data.topics import topics
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

#: Bytes of a sample, samples of a batch, layers, width and heads.
CONTEXT, BATCH, LAYERS, WIDTH, HEADS = 64, 12, 3, 96, 4
#: Optimizer steps of a run, and those of its warmup.
STEPS, WARMUP = 400, 40
#: Batches of held-out text.
HELD_OUT = 40


@cache
def text() -> tuple[Tensor, Tensor]:
    """Bytes for training and held-out bytes, the last tenth."""
    everything = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore")
    numbers = torch.frombuffer(bytearray(everything), dtype=torch.uint8).long()
    split = int(0.9 * len(numbers))
    return numbers[:split], numbers[split:]


class Windows(Dataset[Tensor]):
    """Windows of the text at places that follow from the seed."""

    def __init__(self, numbers: Tensor, count: int, seed: int) -> None:
        self.numbers = numbers
        generator = torch.Generator().manual_seed(seed)
        self.at = torch.randint(0, len(numbers) - CONTEXT - 1, (count,), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> Tensor:
        return self.numbers[self.at[index] : self.at[index] + CONTEXT + 1].clone()


def loader(seed: int) -> DataLoader[Tensor]:
    """All batches of a run."""
    return DataLoader(Windows(text()[0], STEPS * BATCH, seed), BATCH)


@dataclass(frozen=True)
class Recipe:
    """What a run is trained with; the defaults are the healthy recipe.

    Args:
        lr: Highest learning rate.
        warmup: Steps of the linear warmup before the cosine.
        std: Factor on the standard deviation of the initial weights (0.02).
        pre_norm: Whether the norms are before attention and MLP, as in GPT-2.
        attention: Factor on the initial weights of queries and keys.
        layers: Blocks.
        optimizer: `"adamw"` or `"sgd"`.
        jump: Step -> factor on the learning rate from then on.
    """

    lr: float = 3e-3
    warmup: int = WARMUP
    std: float = 1.0
    pre_norm: bool = True
    attention: float = 1.0
    layers: int = LAYERS
    optimizer: str = "adamw"
    jump: tuple[int, float] = (STEPS, 1.0)


class Block(nn.Module):
    """Attention and MLP with residual connections."""

    def __init__(self, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def attend(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm, branch in zip(self.norms, (self.attend, self.mlp), strict=True):
            x = x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))
        return x


class GPT(pl.LightningModule):
    """Predicts the next byte; `bits_per_byte` measures it on held-out text."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.bytes, self.places = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block(recipe.pre_norm) for _ in range(recipe.layers)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                scale = recipe.attention if "qkv" in name else 1.0
                nn.init.normal_(p, std=0.02 * recipe.std * scale)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bytes(x) + self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(x)))

    def loss(self, batch: Tensor) -> Tensor:
        return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def factor(self, step: int) -> float:
        """Warmup, then a cosine down to a tenth."""
        at, factor = self.recipe.jump
        warm = min(1.0, (step + 1) / max(self.recipe.warmup, 1))
        cosine = 0.55 + 0.45 * math.cos(math.pi * min(step / STEPS, 1.0))
        return warm * cosine * (factor if step >= at else 1.0)

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.recipe.lr, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @torch.no_grad()
    def bits_per_byte(self) -> float:
        """On held-out text, always the same; infinite when the weights are not finite."""
        self.eval()
        batches = DataLoader(Windows(text()[1], HELD_OUT * BATCH, seed=12345), BATCH)
        loss = sum(float(self.loss(batch)) for batch in batches) / HELD_OUT
        return loss / math.log(2) if math.isfinite(loss) else math.inf
