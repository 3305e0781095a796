"""What the GradGuard tab costs: to write beside the usual ways, and to answer at 1,000 layers and 10,000 steps.

python benchmarks/tab.py write      # cost and bytes of a logging step, 10, 100 and 1,000 layers
python benchmarks/tab.py answer     # CPU time and size of each answer, 1,000 layers x 10,000 recorded steps
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.application import TensorBoardWSGI
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

from lightning_gradguard.collect.layers import Layers
from lightning_gradguard.collect.stats import GradStats
from lightning_gradguard.findings import Finding, Incident, StepReport
from lightning_gradguard.record.report import Report
from lightning_gradguard.record.step_format import FOLDER
from lightning_gradguard.record.step_log import Recorder
from lightning_gradguard.tensorboard_plugin.plugin import GradGuardPlugin
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


def answer(count: int = 1000, steps: int = 10_000) -> None:
    """Writes and records every one of the steps, then asks the backend in this process."""
    layers, rng = layers_of(count), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(f"{folder}/run/{FOLDER}")
        with SummaryWriter(f"{folder}/run") as board:
            writer, began = RunWriter(board), time.perf_counter()
            for x in range(steps):
                values = np.full(count, np.nan) if x == steps // 2 else rng.lognormal(sigma=0.3, size=count)
                report = StepReport(stats=GradStats(x, layers, values, loss=0.5, lr=1e-3))
                recorder.add(report)
                writer.step(report, x)
                if x % 100 == 50:
                    recorder.flush()
                    writer.incident(Incident.start(Finding("exploding", x, layers.names[:3], 9.0, 3.0)), x)
            recorder.close()
            writer.close(Report(steps), steps)
            took = time.perf_counter() - began
        print(f"writing: {1e3 * took / steps:.2f} ms a step on average, {size(folder) / 1e6:.1f} MB in all")
        ask(folder, steps)


def ask(folder: str, steps: int) -> None:
    """CPU time of each answer, the first one (which reads the files) apart; its size, and that of what browsers get."""
    store = EventMultiplexer(tensor_size_guidance={"gradguard": 0}).AddRunsFromDirectory(folder).Reload()
    provider = MultiplexerDataProvider(store, folder)
    plugin = GradGuardPlugin(TBContext(data_provider=provider, logdir=folder))
    client = Client(TensorBoardWSGI([plugin], data_provider=provider))
    client.get("/data/plugin/gradguard/figures?run=run")  # imports plotly
    plugin._cache.clear()
    middle = steps // 2
    for what, query in {
        "list of runs": "runs",
        "automatic rows, all steps": "figures?run=run",
        "every layer, all steps": "figures?run=run&depth=0",
        "every layer, zoomed to 1,000 steps": f"figures?run=run&depth=0&from={middle - 500}&to={middle + 500}",
        "automatic rows, all steps, curve of a layer": "figures?run=run&layer=encoder.layer.3.q",
        "names of all layers": "layers?run=run",
        "values at a step": f"step?run=run&step={middle}&layer=encoder",
    }.items():
        times, whole = [], 0
        for headers in ({}, {}, {}, {"Accept-Encoding": "gzip"}):
            began = time.process_time()
            body = client.get(f"/data/plugin/gradguard/{query}", headers=headers).data
            times.append(1e3 * (time.process_time() - began))
            whole = max(whole, len(body))
        first, *again, compressed = times
        then = statistics.median(again)
        print(f"{what:44} first {first:4.0f} ms, then {then:4.0f} ms, {whole / 1e6:5.2f} MB; ", end="")
        print(f"compressed {compressed:4.0f} ms, {len(body) / 1e6:5.2f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"write": write, "answer": answer}[sys.argv[1] if len(sys.argv) > 1 else "write"]()
