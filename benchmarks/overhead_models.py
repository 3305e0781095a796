"""Models with one batch each, optimizers, and the LightningModule that trains them, for `overhead.py`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import grad_norm
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


class GPT(nn.Module):
    """A decoder-only transformer with 12 layers."""

    def __init__(self, width: int, heads: int = 4, vocabulary: int = 512, length: int = 256) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        return self.head(self.blocks(self.embed(tokens) + self.place[:length], mask=mask, is_causal=True)).flatten(0, 1)


class CNN(nn.Module):
    """Residual blocks as in ResNet-18, on 32x32 images."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
        self.blocks = nn.ModuleList(self.block(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.head = nn.Linear(8 * width, 10)

    @staticmethod
    def block(a: int, b: int) -> nn.Module:
        stride = 1 if a == b else 2
        inner = [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        inner += [nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)]
        side = nn.Identity() if a == b else nn.Conv2d(a, b, 1, stride, bias=False)
        return nn.ModuleList([nn.Sequential(*inner), side])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, side in self.blocks:
            x = torch.relu(inner(x) + side(x))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """Two LSTM layers and a classifier on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(32, 256, 2, batch_first=True), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Many(nn.Module):
    """A chain of small residual layers with two tiny tensors each."""

    def __init__(self, layers: int = 1000, width: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x) / len(self.layers)
        return x


def tokens(batch: int, length: int) -> Batch:
    """Random tokens and their successors."""
    x = torch.randint(0, 512, (batch, length))
    return x, x.roll(-1, 1)


def classes(*shape: int) -> Batch:
    """Noise with random labels of ten classes."""
    return torch.randn(*shape), torch.randint(0, 10, shape[:1])


#: Name -> model and one batch. Small batches make the optimizer's share of a step, and what is added to it, visible.
#: `gpt10m-8x256` has a usual batch size for this model.
MODELS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {
    "gpt10m": lambda: (GPT(256), tokens(1, 32)),
    "gpt10m-8x256": lambda: (GPT(256), tokens(8, 256)),
    "gpt100m": lambda: (GPT(832, heads=8), tokens(1, 8)),
    "cnn": lambda: (CNN(), classes(8, 3, 32, 32)),
    "lstm": lambda: (Recurrent(), classes(8, 20, 32)),
    "tensors2000": lambda: (Many(), classes(8, 10)),
}
#: A small learning rate, so that no run diverges while it is measured.
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-4, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9),
}


class Training(pl.LightningModule):
    """The network, its loss and its optimizer."""

    def __init__(self, net: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        super().__init__()
        self.net, self.make_optimizer = net, optimizer
        self.timer, self.entered = time.perf_counter, 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.entered = self.timer()
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1].flatten())

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Logging(Training):
    """Logs gradient norms as Lightning's documentation recommends."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log_dict(grad_norm(self, norm_type=2))


class NormsAlone(pl.Callback):
    """Reads the gradients once where a guard would, and does nothing else: the lower bound of any monitor."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        torch._foreach_norm([p.grad for p in pl_module.parameters()])


class OptimizerMonitor(pl.Callback):
    """What such callbacks compute: norms of weights, gradients and moments, one tensor at a time."""

    def __init__(self, every: int = 10) -> None:
        self.every = every

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step % self.every:
            return
        for p in pl_module.parameters():
            state = optimizer.state.get(p, {})
            [float(t.norm()) for t in (p, p.grad, *(v for v in state.values() if isinstance(v, Tensor) and v.ndim))]
