"""What `gradguard zoo ...` does: thin, over the public functions of `lightning_gradguard.zoo`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lightning_gradguard.zoo.registry import get_case, list_cases
from lightning_gradguard.zoo.running import PolicyName, compare_case, run_case
from lightning_gradguard.zoo.showing import card, cases_table, results_table


def list_() -> int:
    """Every case, one line each."""
    Console().print(cases_table(list_cases()))
    return 0


def show(case: str) -> int:
    """A case's card: symptom, cause, cures, who recommends which numbers, references.

    Args:
        case: The case's name, see `gradguard zoo list`.
    """
    Console().print(card(get_case(case)))
    return 0


def run(
    case: str,
    cure: str | None = None,
    policy: PolicyName = "monitor",
    accelerator: str = "auto",
    devices: int = 1,
    logdir: Path | None = None,
    seed: int = 0,
) -> int:
    """Trains one case, broken or with one of its cures.

    Args:
        case: The case's name.
        cure: One of its cures; without it the broken form is trained.
        policy: What the guard may do; `none` trains without it.
        accelerator: As for Lightning's Trainer.
        devices: Number of devices.
        logdir: Where TensorBoard's files go; without it nothing is written.
        seed: Of weights, data and order.
    """
    result = run_case(case, cure, policy, accelerator, devices, logdir, seed, progress=True)
    console = Console()
    console.print(results_table(get_case(case), [result]))
    for incident in result.incidents:
        console.print(f"  {incident}", highlight=False, markup=False)
    return 0


def compare(
    case: str,
    policy: PolicyName = "monitor",
    accelerator: str = "auto",
    devices: int = 1,
    logdir: Path | None = None,
    seed: int = 0,
) -> int:
    """Trains a case broken and with every cure, and prints them side by side.

    Args:
        case: The case's name.
        policy: What the guard may do in each run; `none` trains without it.
        accelerator: As for Lightning's Trainer.
        devices: Number of devices.
        logdir: Where TensorBoard finds all the runs; without it nothing is written.
        seed: Of weights, data and order.
    """
    console = Console()
    results = compare_case(case, policy, accelerator, devices, logdir, seed)
    console.print(results_table(get_case(case), list(results)))
    if logdir is not None:
        console.print(f"\nSee it: tensorboard --logdir {logdir}", highlight=False, soft_wrap=True)
    return 0
