"""Cost of GradGuard per step of `Trainer.fit`, compared with clipping, logging and other callbacks.

    python benchmarks/overhead.py [steps]     all variants; absolute times depend on the machine
    python benchmarks/overhead.py growth      the guard's own time against parameters, tensors and layers
    python benchmarks/overhead.py memory      resident memory over a million steps
    python benchmarks/overhead.py cold        import of the package and tables at the start of `fit`

The C library is configured to keep freed memory. Otherwise new pages are allocated for random variants, and that time
hides the differences. All modes accept `--markdown FILE`, whose sections on overhead are then replaced.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, median, quantiles

import overhead_growth
import pytorch_lightning as pl
import torch
from overhead_models import MODELS, OPTIMIZERS, Logging, NormsAlone, OptimizerMonitor
from overhead_turns import Repeated, Times, Variant, take_turns
from peers import TOOLS
from results import publish
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lightning_gradguard import GradGuard
from lightning_gradguard.remedies import AutoClip

#: First steps, excluded from every statistic: allocators warm up, and the guard samples steps 0, 1, 2, 4, 8.
SKIPPED = 10
PEERS = {"SpikeDetection": "SpikeDetection", "ZClip": "ZClip", "ARC": "ARC"}
VARIANTS: dict[str, Variant] = {
    "nothing": Variant(),
    "gradient_clip_val=1": Variant(trainer={"gradient_clip_val": 1.0}),
    "one read: _foreach_norm": Variant(NormsAlone),
    "log_dict(grad_norm)": Variant(module=Logging),
    "norms as OptimizerMonitor": Variant(OptimizerMonitor),
    **{name: Variant(lambda tool=tool: TOOLS[tool]()[0][0]) for name, tool in PEERS.items() if tool in TOOLS},
    "GradGuard monitor": Variant(lambda: GradGuard("monitor")),
    "GradGuard protect": Variant(lambda: GradGuard("protect")),
    "GradGuard protect, AutoClip": Variant(lambda: GradGuard("protect", clip=AutoClip())),
    "GradGuard protect, sample_every=10": Variant(lambda: GradGuard("protect", sample_every=10)),
    "GradGuard repair": Variant(lambda: GradGuard("repair")),
}
#: Rows for models with long steps, and for further optimizers of a model.
FEW = (
    "nothing",
    "gradient_clip_val=1",
    "one read: _foreach_norm",
    *(name for name in VARIANTS if "GradGuard" in name and "sample_every" not in name),
)
#: (model, optimizer, rounds of five steps, rows). 65 steps include one snapshot at the default interval.
CASES = (
    ("gpt10m", "AdamW fused", 23, VARIANTS), ("gpt10m", "AdamW foreach", 13, FEW), ("gpt10m", "SGD", 13, FEW),
    ("gpt100m", "AdamW fused", 12, VARIANTS), ("gpt100m", "AdamW foreach", 12, FEW), ("gpt100m", "SGD", 12, FEW),
    ("gpt10m-8x256", "AdamW fused", 6, FEW), ("cnn", "SGD", 13, VARIANTS), ("lstm", "AdamW fused", 13, VARIANTS),
    ("tensors2000", "AdamW foreach", 13, VARIANTS),
)  # fmt: skip
BLOCK = 5
#: Environment variables that glibc reads when a process starts.
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_THRESHOLD_": str(2**33)}


def one_read(model: str) -> tuple[float, float]:
    """Milliseconds for one read of a contiguous vector as large as all gradients, and for `_foreach_norm`."""
    grads = [torch.randn_like(p) for p in MODELS[model]()[0].parameters()]
    flat = torch.cat([g.flatten() for g in grads])
    pure, norms = [], []
    for _ in range(15):
        start = time.perf_counter()
        flat.sum()
        middle = time.perf_counter()
        torch._foreach_norm(grads)
        pure.append(1e3 * (middle - start))
        norms.append(1e3 * (time.perf_counter() - middle))
    return median(pure), median(norms)


def footprint(model: str, optimizer: str, name: str) -> float:
    """Peak memory in MiB of a process that trains for a few steps, in which the guard takes both snapshots."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_of, (model, optimizer, name, torch.get_num_threads()))


def peak_of(model: str, optimizer: str, name: str, threads: int) -> float:
    """Runs in a separate process."""
    be_quiet(threads)
    variant, (net, batch) = VARIANTS[name], MODELS[model]()
    callbacks = [variant.callback()] if variant.callback is not None else []
    for callback in callbacks:
        if isinstance(callback, GradGuard):
            callback.snapshot_every = 2
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", devices=1, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **variant.trainer,
    )  # fmt: skip
    trainer.fit(variant.module(net, OPTIMIZERS[optimizer]), Repeated(batch, 6))
    status = Path("/proc/self/status").read_text()  # `getrusage` reports the parent's peak where that was higher
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**10


def turns(seconds: Iterable[float]) -> list[list[float]]:
    """Milliseconds per step, grouped by turn, without the first turns."""
    kept = [1e3 * s for s in seconds][SKIPPED:]
    return [kept[i : i + BLOCK] for i in range(0, len(kept), BLOCK)]


def outside(times: Times) -> list[float]:
    """Time of each step outside the forward and backward pass, where all but the sampling takes place."""
    return [whole - inside for whole, inside in zip(times.seconds, times.inside, strict=True)]


def mean_outside_and_sampling(times: Times) -> float:
    """Mean time outside forward and backward pass, plus the excess of these passes over the median of their turn."""
    sampling = [ms - median(turn) for turn in turns(times.inside) for ms in turn]
    return fmean(ms for turn in turns(outside(times)) for ms in turn) + fmean(sampling)


def table_of(model: str, optimizer: str, times: dict[str, Times], peaks: dict[str, float], how: str) -> Table:
    """Table of one case: each variant compared with no callback, turn by turn."""
    size = sum(p.numel() for p in MODELS[model]()[0].parameters())
    pure, norms = one_read(model)
    title = (
        f"{model} ({size / 1e6:.1f} M parameters), {optimizer}; one read of the gradients {pure:.2f} ms, their norms "
        f"{norms:.2f} ms; {len(times['nothing'].seconds) - SKIPPED} steps, {how}"
    )
    columns = ("variant", "ms/step", "quartiles", "÷ nothing", "added ms", "÷ clip's", "mean added ms", "written kB")
    table = Table(*columns, *(["peak MiB"] if peaks else []), title=title)
    bare = times["nothing"]
    whole = median(ms for turn in turns(bare.seconds) for ms in turn)
    base = [median(turn) for turn in turns(outside(bare))]
    added = {n: median(median(t) - b for t, b in zip(turns(outside(v)), base, strict=True)) for n, v in times.items()}
    clip = added["gradient_clip_val=1"]
    for name, one in times.items():
        low, middle, high = quantiles([ms for turn in turns(one.seconds) for ms in turn], n=4)
        mean = mean_outside_and_sampling(one) - mean_outside_and_sampling(bare)
        row = [f"{middle:.2f}", f"{low:.2f}-{high:.2f}", f"{1 + added[name] / whole:.3f}", f"{added[name]:.2f}"]
        row += [f"{added[name] / clip:.2f}" if clip > 0 else "-", f"{mean:.2f}", f"{one.written / 1e3:.0f}"]
        table.add_row(name + ("*" if one.found else ""), *row, *([f"{peaks[name]:.0f}"] if peaks else []))
    return table


def compare(options: argparse.Namespace) -> None:
    """Prints the tables of the mode `steps`."""
    console = Console(stderr=True)
    timer = time.thread_time if options.processor else time.perf_counter
    how = f"{options.threads} thread(s), {'processor' if options.processor else 'wall'} time"
    for model, optimizer, rounds, rows in CASES:
        if model not in options.models or optimizer not in options.optimizers:
            continue
        variants = {name: VARIANTS[name] for name in rows if name in (options.variants or VARIANTS)}
        with Progress(console=console, transient=True) as progress:
            times = take_turns(model, optimizer, variants, options.rounds or rounds, BLOCK, progress, timer)
            peaks = {}
            if options.peaks and (model, optimizer) == ("gpt10m", "AdamW fused"):
                peaks = {n: footprint(model, optimizer, n) for n in progress.track(variants, description="memory")}
        table = table_of(model, optimizer, times, peaks, how)
        publish(
            table, options.markdown, f"overhead: {model}, {optimizer}, {options.threads} thread(s)", options.threads
        )
        for name, one in times.items():
            if one.found:
                console.print(f"* {name}: {one.found}")


def be_quiet(threads: int) -> None:
    """Turns off warnings and sets the number of threads."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=["steps", "growth", "memory", "cold"], default="steps")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="all by default; the first two are required")
    parser.add_argument("--rounds", type=int, help="turns of five steps for each variant")
    parser.add_argument("--peaks", action=argparse.BooleanOptionalAction, default=True, help="also measure peak memory")
    parser.add_argument("--processor", action="store_true", help="measure processor time (for a busy machine)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of the mode `memory`")
    parser.add_argument("--figure", help="HTML file for the log-log figure of the mode `growth`")
    parser.add_argument("--markdown", help="file whose sections on overhead are replaced by these tables")
    options = parser.parse_args()
    be_quiet(options.threads)
    if options.mode == "steps":
        compare(options)
    else:
        getattr(overhead_growth, options.mode)(options)


if __name__ == "__main__":
    if not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})
    main()
