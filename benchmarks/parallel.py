"""Many independent runs on all cores, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import track

Job = tuple[Any, ...]
T = TypeVar("T")


def every(work: Callable[..., T], jobs: Sequence[Job]) -> dict[Job, T]:
    """`work(*job)` for every job, each in one thread of its own process; the results by job."""
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(work, *job): job for job in jobs}
        done = track(as_completed(futures), "running", len(futures), console=Console(stderr=True), transient=True)
        results = {futures[future]: future.result() for future in done}
    return {job: results[job] for job in jobs}
