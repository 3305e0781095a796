"""What the GradGuard tab costs: to write beside the usual ways, and to answer at 1,000 layers and 100,000 steps.

python benchmarks/tab.py write      # cost and bytes of a logging step, 10, 100 and 1,000 layers
python benchmarks/tab.py answer     # size of the event file and time to answer, 1,000 layers x 100,000 logged steps
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import torch
from tensorboard import default
from tensorboard.program import TensorBoard
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Finding, Incident, StepReport
from lightning_gradguard.record.report import Report
from lightning_gradguard.tensorboard_plugin.summary import RunWriter

WIDTH, ROUNDS = 64, 20


def layers_of(count: int) -> Layers:
    names = tuple(f"encoder.layer.{i // 4}.{'qkvo'[i % 4]}" for i in range(count))
    return Layers(names, np.full(count, WIDTH * WIDTH), np.ones(count, bool))


def write() -> None:
    """Each row is the median of 20 logging steps in one process; the gradients themselves are given."""
    print(f"{'layers':>6}  {'what is written':47} {'ms a logging step':>18} {'bytes a logging step':>21}")
    for count in (10, 100, 1000):
        model = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count))
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        layers, norms = layers_of(count), np.random.default_rng(0).lognormal(size=count)
        for what, step in {
            "RunWriter (this package)": run_writer(layers, norms),
            "a scalar a layer (`log_dict(grad_norm(...))`)": scalar_writer(model),
            "64-bin histograms (`wandb.watch`'s way)": bins_writer(model),
            "`SummaryWriter.add_histogram` of every gradient": histogram_writer(model),
        }.items():
            print(f"{count:6}  {what:47} {'{:18.2f} {:21,.0f}'.format(*measure(step))}")


def run_writer(layers: Layers, norms: np.ndarray) -> Callable[[SummaryWriter], Callable[[int], None]]:
    def start(board: SummaryWriter) -> Callable[[int], None]:
        writer = RunWriter(board)
        return lambda x: writer.step(StepReport(stats=GradStats(x, layers, norms, loss=0.5, lr=1e-3)), x)

    return start


def scalar_writer(model: nn.Module) -> Callable[[SummaryWriter], Callable[[int], None]]:
    """What `self.log_dict(grad_norm(self, 2))` hands to TensorBoard, without Lightning's own share of the cost."""
    from pytorch_lightning.utilities import grad_norm

    def start(board: SummaryWriter) -> Callable[[int], None]:
        return lambda x: [board.add_scalar(k, v, x) for k, v in grad_norm(model, 2).items()]

    return start


def bins_writer(model: nn.Module) -> Callable[[SummaryWriter], Callable[[int], None]]:
    """`torch.histc` with 64 bins over each gradient's range, as `wandb.watch(log="gradients")` counts them."""

    def write_one(board: SummaryWriter, name: str, grad: torch.Tensor, x: int) -> None:
        low, high = grad.min().item(), grad.max().item()
        counts, limits = torch.histc(grad, 64, low, high).numpy(), np.linspace(low, high, 65)[1:]
        moments = {"num": grad.numel(), "sum": grad.sum().item(), "sum_squares": grad.square().sum().item()}
        board.add_histogram_raw(name, low, high, **moments, bucket_limits=limits, bucket_counts=counts, global_step=x)

    def start(board: SummaryWriter) -> Callable[[int], None]:
        return lambda x: [write_one(board, n, p.grad, x) for n, p in model.named_parameters()]

    return start


def histogram_writer(model: nn.Module) -> Callable[[SummaryWriter], Callable[[int], None]]:
    def start(board: SummaryWriter) -> Callable[[int], None]:
        return lambda x: [board.add_histogram(n, p.grad, x) for n, p in model.named_parameters()]

    return start


def measure(start: Callable[[SummaryWriter], Callable[[int], None]]) -> tuple[float, float]:
    """Median milliseconds and mean bytes of a step, after the first (which introduces the names)."""
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as board:
        step = start(board)
        step(0)
        board.flush()
        before, times = size(folder), []
        for x in range(1, ROUNDS + 1):
            began = time.perf_counter()
            step(x)
            times.append(time.perf_counter() - began)
        board.flush()
        return 1e3 * statistics.median(times), (size(folder) - before) / ROUNDS


def size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def answer(count: int = 1000, steps: int = 100_000) -> None:
    """Writes every one of the steps, then asks the backend through both of TensorBoard's loaders."""
    layers, rng = layers_of(count), np.random.default_rng(0)
    noise = rng.lognormal(sigma=0.3, size=(64, count))
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(f"{folder}/run") as board:
            writer, began = RunWriter(board), time.perf_counter()
            for x in range(steps):
                writer.step(StepReport(stats=GradStats(x, layers, noise[x % 64], loss=0.5, lr=1e-3)), x)
                if x % 1000 == 500:
                    writer.incident(Incident.start(Finding("exploding", x, layers.names[:3], 9.0, 3.0)), x)
            writer.close(Report(steps), steps)
            took = time.perf_counter() - began
        print(f"writing: {1e3 * took / steps:.2f} ms a step on average, {size(folder) / 1e6:.1f} MB in all")
        for loader in ("true", "false"):
            ask(folder, loader)


def ask(folder: str, load_fast: str) -> None:
    """Seconds from request to the last byte, over HTTP; the first answer after loading is shown apart."""
    board = TensorBoard(plugins=default.get_plugins())
    board.configure(argv=["", "--logdir", folder, "--port", "0", "--load_fast", load_fast, "--reload_interval", "3600"])
    data = f"{board.launch()}data/plugin/gradguard"
    while not json.loads(urlopen(f"{data}/runs").read())["runs"]:
        time.sleep(0.2)
    time.sleep(15)  # the loader is still reading; nothing tells when it is done
    for what, query in QUERIES.items():
        times, length = [], 0
        for _ in range(4):
            began = time.perf_counter()
            length = len(urlopen(f"{data}/{query}").read())
            times.append(time.perf_counter() - began)
        rest = statistics.median(times[1:])
        print(f"load_fast={load_fast:5}  {what:42} first {times[0]:.2f} s, then {rest:.2f} s, {length / 1e6:.1f} MB")


QUERIES = {
    "list of runs": "runs",
    "modules, all steps": "figures?run=run",
    "every layer, all steps": "figures?run=run&depth=0",
    "every layer, zoomed to 1,000 steps": "figures?run=run&depth=0&from=50000&to=51000",
    "modules, all steps, curve of a layer": "figures?run=run&layer=encoder.layer.3.q",
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"write": write, "answer": answer}[sys.argv[1] if len(sys.argv) > 1 else "write"]()
