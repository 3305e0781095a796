"""Independent runs on all cores, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch
from joblib import Memory, cpu_count
from rich.console import Console
from rich.progress import track

Job = tuple[Any, ...]
T = TypeVar("T")


def every(
    work: Callable[..., T], jobs: Sequence[Job], cache: str | None = None, processes: int | None = None
) -> dict[Job, T]:
    """Calls `work(*job)` for every job, with one thread per process; returns the results by job.

    `cache` is a folder for finished results, so that an interrupted benchmark continues. It does not notice changes of
    the code: use another folder after any change. `processes` is by default the number of cores.
    """
    work = Memory(cache, verbose=0).cache(work) if cache else work
    with ProcessPoolExecutor(processes or cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(work, *job): job for job in jobs}
        done = track(as_completed(futures), "running", len(futures), console=Console(stderr=True), transient=True)
        results = {futures[future]: future.result() for future in done}
    return {job: results[job] for job in jobs}
