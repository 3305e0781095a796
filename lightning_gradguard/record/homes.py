"""RECORD: where the guards of a run write their files.

A guard without a name writes into the run's directory: `incidents.jsonl`, and the folder `gradguard` with the steps. A
guard with a name has a directory of its own in that folder, so that several guards never share a file.
"""

from __future__ import annotations

import os
import warnings
from urllib.parse import quote, unquote

from lightning_gradguard.record.location import Location
from lightning_gradguard.record.step_format import FOLDER, recorded_optimizers


def home_of(run: str | os.PathLike[str], guard: str = "") -> Location:
    """The directory of a guard.

    Args:
        run: The run's directory.
        guard: The guard's name; empty for one without.

    Example:
        >>> print(home_of("runs/1"), home_of("runs/1", "strict"), home_of("runs/1", "../b"))
        runs/1 runs/1/gradguard/strict runs/1/gradguard/%2E%2E%2Fb
    """
    if not guard:
        return Location(run)
    return Location(run) / FOLDER / quote(guard, safe=" ", errors="surrogatepass").replace(".", "%2E")


def recorded_guards(run: str | os.PathLike[str]) -> dict[str, Location]:
    """The directory of every guard of a run that recorded its steps, by the guard's name."""
    folder = Location(run) / FOLDER
    named = {unquote(name, errors="surrogatepass"): folder / name for name in folder.names() if "." not in name}
    guards = {"": Location(run), **named}
    return {guard: home for guard, home in guards.items() if recorded_optimizers(home / FOLDER)}


def warn_about_another_run(home: Location) -> None:
    """Warns where the steps of an earlier run are in the directory of a guard whose run begins at its first step."""
    try:
        known = recorded_optimizers(home / FOLDER)
    except Exception:  # who cannot read there is told so when writing fails
        return
    if known:
        warnings.warn(
            f"`GradGuard(log_dir=...)` must be another directory for each run, got {str(home)!r}, which has the steps "
            "of an earlier run: both will be shown as one. Remove it, choose another one, or resume that run.",
            stacklevel=2,
        )
