"""How the guard's own time grows with the model, its memory over a long run, and its cost before the first step."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from overhead_models import Many
from results import publish
from rich.table import Table
from torch import nn

from lightning_gradguard.detectors import DETECTORS
from lightning_gradguard.policy.presets import MONITOR, PROTECT
from lightning_gradguard.run_engine import RunContext, RunEngine


class Vectors(nn.Module):
    """`tensors` parameters of `size` elements each, in `layers` layers."""

    def __init__(self, tensors: int, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ParameterList() for _ in range(layers))
        for i in range(tensors):
            self.layers[i % layers].append(nn.Parameter(torch.randn(size)))


#: Quantity that grows -> its values, and the function that creates the module for a value.
GROWTH: dict[str, tuple[tuple[int, ...], Callable[[int], nn.Module]]] = {
    "parameters, in 100 tensors of 50 layers": (
        (10**5, 10**6, 10**7, 10**8),
        lambda n: Vectors(100, n // 100, 50),
    ),
    "tensors of 10 parameters, in 10 layers": ((10, 100, 1000, 10_000), lambda n: Vectors(n, 10, 10)),
    "layers of 1 tensor of 10 parameters": ((10, 100, 1000, 10_000), lambda n: Vectors(n, 10, n)),
}


def milliseconds(net: nn.Module, timer: Callable[[], float], repeats: int = 25) -> tuple[float, float, float]:
    """Median times of the norms alone, of one step of an engine under `monitor`, and of `clip_grad_norm_`."""
    params = list(net.parameters())
    for p in params:
        p.grad = torch.randn_like(p)
    engine = RunEngine(
        RunContext(module=net, optimizer=torch.optim.SGD(params, lr=1e-3), detectors=DETECTORS, policy=MONITOR)
    )
    loss, grads = torch.tensor(1.0), [p.grad for p in params]
    ways: list[Callable[[], object]] = [
        lambda: torch._foreach_norm(grads),
        lambda: (engine.begin_batch(), engine.before_step([loss])),
        lambda: torch.nn.utils.clip_grad_norm_(params, 1.0),
    ]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, took in zip(ways, times, strict=True):
            start = timer()
            way()
            took.append(1e3 * (timer() - start))
    engine.close()
    return median(times[0]), median(times[1]), median(times[2])


def growth(options: argparse.Namespace) -> None:
    """Time per step against size, and the exponent between neighboring sizes: 1 is proportional."""
    table = Table("what grows", "size", "norms alone ms", "guard ms", "exponent", "clip_grad_norm_ ms")
    timer, kind = (time.thread_time, "processor") if options.processor else (time.perf_counter, "wall")
    table.title = f"The guard's own time as the model grows, medians of 25, {options.threads} thread(s), {kind} time"
    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for what, (sizes, make) in GROWTH.items():
        points = curves[what] = [(size, *milliseconds(make(size), timer)) for size in sizes]
        for before, (size, norms, guard, clip) in zip([None, *points], points, strict=False):
            slope = "" if before is None else f"{math.log(guard / before[2]) / math.log(size / before[0]):.2f}"
            table.add_row(what, f"{size:,}", f"{norms:.2f}", f"{guard:.2f}", slope, f"{clip:.2f}")
    publish(table, options.markdown, "overhead: growth", options.threads)
    if options.figure:
        draw(curves, Path(options.figure))


def draw(curves: dict[str, list[tuple[int, float, float, float]]], path: Path) -> None:
    """Log-log plot: solid lines for the guard, dotted ones for clipping."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, (what, points) in enumerate(curves.items()):
        sizes, _, guard, clip = zip(*points, strict=True)
        color = ("#1f77b4", "#2ca02c", "#d62728")[i]
        figure.add_scatter(x=sizes, y=guard, name=f"guard: {what}", line={"color": color})
        figure.add_scatter(x=sizes, y=clip, name=f"clip_grad_norm_: {what}", line={"color": color, "dash": "dot"})
    figure.update_xaxes(type="log", title="size")
    figure.update_yaxes(type="log", title="ms a step")
    figure.write_html(path, include_plotlyjs=True)


def resident() -> float:
    """Memory of this process now, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(options: argparse.Namespace) -> None:
    """Trains a tiny model for very many steps in plain torch; every thousandth batch is NaN."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    engine = RunEngine(RunContext(module=net, optimizer=optimizer, detectors=DETECTORS, policy=PROTECT))
    x, bad = torch.randn(8, 4), torch.full((8, 4), math.nan)
    table = Table("steps", "resident MiB", title="Resident memory with a tiny model")
    marks = {max(1, round(options.steps * share)): share for share in (0.01, 0.1, 0.5, 1.0)}
    start = time.perf_counter()
    for step in range(1, options.steps + 1):
        engine.begin_batch()
        loss = net(bad if step % 1000 == 0 else x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        engine.before_step([loss])
        optimizer.step()
        if step in marks:
            table.add_row(f"{step:,}", f"{resident():.1f}")
    table.title = f"{table.title}, {1e6 * (time.perf_counter() - start) / options.steps:.0f} µs a step"
    publish(table, options.markdown, "overhead: memory", options.threads)


WITHOUT = "import time, torch, pytorch_lightning, lightning.pytorch; "
IMPORTS = {
    "import lightning_gradguard": "import lightning_gradguard",
    "from lightning_gradguard import GradGuard": "from lightning_gradguard import GradGuard",
}


def cold(options: argparse.Namespace) -> None:
    """Import time after torch and Lightning, in new processes, and the time to build tables of 2,000 parameters."""
    clock = "time.process_time()" if options.processor else "time.perf_counter()"
    kind = "processor" if options.processor else "wall"
    table = Table("what", "ms, median", "least", title=f"Before the first step, {kind} time")
    with tempfile.TemporaryDirectory() as compiled:  # like an installed package, whatever the environment sets
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for name, code in IMPORTS.items():
            code = f"{WITHOUT}start = {clock}; {code}; print(1e3 * ({clock} - start))"
            call = [sys.executable, "-c", code]
            runs = [subprocess.run(call, capture_output=True, text=True, env=env, check=True) for _ in range(6)]
            took = [float(run.stdout.split()[-1]) for run in runs[1:]]
            table.add_row(f"{name}, after torch and Lightning", f"{median(took):.0f}", f"{min(took):.0f}")
    took = []
    for _ in range(10):
        net = Many()
        optimizer = torch.optim.AdamW(net.parameters())
        timer = time.process_time if options.processor else time.perf_counter
        start = timer()
        engine = RunEngine(RunContext(module=net, optimizer=optimizer, detectors=DETECTORS, policy=PROTECT))
        took.append(1e3 * (timer() - start))
        engine.close()
    table.add_row("tables of 2,000 parameters in 1,000 layers", f"{median(took):.1f}", f"{min(took):.1f}")
    publish(table, options.markdown, "overhead: cold", options.threads)
