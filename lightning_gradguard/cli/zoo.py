"""The commands `zoo list`, `zoo show`, `zoo run` and `zoo compare`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lightning_gradguard.zoo.registry import get_case, list_cases
from lightning_gradguard.zoo.running import PolicyName, compare_case, run_case
from lightning_gradguard.zoo.tables import card, cases_text, results_table


def list_() -> int:
    """Lists all cases."""
    print(cases_text(list_cases(), Console().width))
    return 0


def show(case: str) -> int:
    """Describes a case: symptom, cause, cures, references.

    Args:
        case: Name of the case, see `gradguard zoo list`.
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
        case: Name of the case, see `gradguard zoo list`.
        cure: Name of one of its cures, see `gradguard zoo show`; by default the broken program is trained.
        policy: GradGuard's policy; `none` trains without GradGuard.
        accelerator: As in Lightning's Trainer: `auto`, `cpu`, `gpu`, `mps`, ...
        devices: Number of devices.
        logdir: Directory for TensorBoard's files; by default none are written.
        seed: Seed of the weights, the data and its order.
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
    """Trains a case broken and with every cure, and prints the results.

    Args:
        case: Name of the case, see `gradguard zoo list`.
        policy: GradGuard's policy in each run; `none` trains without GradGuard.
        accelerator: As in Lightning's Trainer: `auto`, `cpu`, `gpu`, `mps`, ...
        devices: Number of devices.
        logdir: Directory for TensorBoard's files, one run for each variant; by default none are written.
        seed: Seed of the weights, the data and its order.
    """
    console = Console()
    results = compare_case(case, policy, accelerator, devices, logdir, seed)
    console.print(results_table(get_case(case), list(results)))
    if logdir is not None:
        console.print(f"\nTo compare the runs: tensorboard --logdir {logdir}", highlight=False, soft_wrap=True)
    return 0
