"""What watching costs: milliseconds a step of a whole `Trainer.fit`, the guard beside what people already pay.

Every variant trains the same model on the same batches; variants take turns within each repeat, and medians over all
timed steps are compared. Absolute times are this machine's; the ratios are what to quote.

    python benchmarks/overhead.py --models gpt10m tensors2000 --threads 1
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any

import pytorch_lightning as pl
import torch
from peers import TOOLS
from pytorch_lightning.utilities import grad_norm
from results import publish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class GPT(nn.Module):
    """A decoder-only transformer of 12 layers."""

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
    """Two LSTM layers and a classifier of the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(32, 256, 2, batch_first=True), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def tokens(batch: int, length: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 512, (batch, length))
    return x, x.roll(-1, 1)


#: name -> (model, one batch of inputs and targets)
MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, Tensor]]]] = {
    "gpt10m": lambda: (GPT(256), tokens(8, 256)),
    "gpt100m": lambda: (GPT(832, heads=8), tokens(1, 64)),
    "cnn": lambda: (CNN(), (torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,)))),
    "lstm": lambda: (Recurrent(), (torch.randn(32, 50, 32), torch.randint(0, 10, (32,)))),
    "tensors2000": lambda: (
        nn.Sequential(*(nn.Linear(10, 10) for _ in range(1000))),
        (torch.randn(8, 10), torch.randint(0, 10, (8,))),
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-5, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9),
}


class Training(pl.LightningModule):
    """The model, its loss and its optimizer; `log_norms` is the recipe of Lightning's documentation."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Any], log_norms: bool = False) -> None:
        super().__init__()
        self.net, self.make_optimizer, self.log_norms = net, optimizer, log_norms

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1].flatten())

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.log_norms:
            self.log_dict(grad_norm(self, norm_type=2))

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Clock(pl.Callback):
    """Seconds from the start of one batch to the start of the next."""

    def __init__(self, skip: int) -> None:
        self.skip, self.seconds, self._last = skip, [], 0.0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        now = time.perf_counter()
        if trainer.global_step > self.skip:
            self.seconds.append(now - self._last)
        self._last = now


class OptimizerMonitor(pl.Callback):
    """Norms of gradients, weights and moments every ten steps, tensor by tensor, each read on its own."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step % 10:
            return
        for p in pl_module.parameters():
            state = optimizer.state.get(p, {})
            [float(t.norm()) for t in (p, p.grad, *(v for v in state.values() if isinstance(v, Tensor) and v.ndim))]


def variants() -> dict[str, dict[str, Any]]:
    """Name -> callbacks, Trainer arguments, and whether the module logs its norms."""
    plain = {
        "nothing": {},
        "gradient_clip_val=1": {"trainer": {"gradient_clip_val": 1.0}},
        "log_dict(grad_norm)": {"log_norms": True},
        "optimizer monitor": {"callback": OptimizerMonitor},
        "GradGuard monitor": {"callback": lambda: GradGuard("monitor")},
        "GradGuard protect": {"callback": lambda: GradGuard("protect")},
        "GradGuard repair": {"callback": lambda: GradGuard("repair")},
    }
    others = {name: make for name, make in TOOLS.items() if name in ("SpikeDetection", "ZClip", "ARC")}
    return plain | {name: {"callback": lambda make=make: make()[0][0]} for name, make in others.items()}


def seconds_of(variant: dict[str, Any], model: str, optimizer: str, steps: int) -> list[float]:
    """Times of the steps of one run."""
    torch.manual_seed(0)
    net, (x, y) = MODELS[model]()
    data = DataLoader(TensorDataset(x.repeat(steps, *[1] * (x.ndim - 1)), y.repeat(steps, *[1] * (y.ndim - 1))), len(x))
    clock = Clock(skip=3)
    callbacks = [clock, *([variant["callback"]()] if "callback" in variant else [])]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps, accelerator="cpu", devices=1, callbacks=callbacks, default_root_dir=folder,
            logger=pl.loggers.TensorBoardLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, **variant.get("trainer", {}),
        )  # fmt: skip
        trainer.fit(Training(net, OPTIMIZERS[optimizer], variant.get("log_norms", False)), data)
    return clock.seconds


def one_read(model: str) -> float:
    """Milliseconds of reading every gradient once: the floor."""
    net, _ = MODELS[model]()
    grads = [torch.randn_like(p) for p in net.parameters()]
    times = []
    for _ in range(15):
        start = time.perf_counter()
        torch._foreach_norm(grads)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def compare(model: str, optimizer: str, steps: int, repeats: int) -> Table:
    """All variants of one model and optimizer."""
    rows = variants()
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in track(range(repeats), f"{model}, {optimizer}", transient=True):
        for name, variant in rows.items():  # taking turns: a slow minute of the machine hits them all
            times[name] += seconds_of(variant, model, optimizer, steps)
    middle = {name: 1e3 * median(seconds) for name, seconds in times.items()}
    clipping = middle["gradient_clip_val=1"] - middle["nothing"]
    size = sum(p.numel() for p in MODELS[model]()[0].parameters())
    title = f"{model} ({size / 1e6:.1f} M), {optimizer}, one read of the gradients {one_read(model):.2f} ms"
    table = Table("variant", "ms/step", "quartiles", "÷ nothing", "added ms", "added ÷ clipping's", title=title)
    for name, seconds in times.items():
        low, _, high = quantiles([1e3 * s for s in seconds], n=4)
        added = middle[name] - middle["nothing"]
        share = f"{added / clipping:.2f}" if clipping > 0 else "-"
        ratio = middle[name] / middle["nothing"]
        table.add_row(name, f"{middle[name]:.2f}", f"{low:.2f}-{high:.2f}", f"{ratio:.3f}", f"{added:.2f}", share)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["gpt10m", "lstm", "tensors2000"])
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=["AdamW foreach", "AdamW fused"])
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", help="a file whose sections on overhead are replaced by these tables")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    tables = [compare(m, o, options.steps, options.repeats) for m in options.models for o in options.optimizers]
    for table in tables:
        publish(table, options.markdown, f"overhead: {table.title}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    Console().print(f"{options.threads} thread(s); peak memory of the process {peak:.0f} MiB")


if __name__ == "__main__":
    main()
