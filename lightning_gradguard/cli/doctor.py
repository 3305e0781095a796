"""The command `doctor`."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from lightning_gradguard.examine import BROKEN, STUCK, Diagnosis
from lightning_gradguard.examine import doctor as examine

#: Settings that the table has. Chosen.
MOST_ROWS = 8


def doctor(
    source: str, steps: int = 60, max_epochs: int | None = None, max_steps: int = -1, html: Path | None = None
) -> int:
    """Examines a program before it is trained: whether it learns, and which other setting does far better.

    Args:
        source: `package.module:function`, a function without arguments that returns a LightningModule and a loader or
            LightningDataModule; or the YAML file of a LightningCLI with `class_path` for `model` and `data`.
        steps: First steps that are taken, 24 to 150.
        max_epochs: Epochs of the planned run, on which its schedule depends.
        max_steps: Optimizer steps of the planned run.
        html: Also write the verdict, a picture and the table to this file.

    Returns:
        The exit code: 1 if the run is broken or gets nowhere, else 0.

    Raises:
        ImportError: If there is no such module.
        ValueError: If it cannot be examined.
    """
    module, data, options = from_yaml(source) if source.endswith((".yaml", ".yml")) else from_function(source)
    given = {"max_epochs": max_epochs, "max_steps": max_steps}
    options |= {name: value for name, value in given.items() if value not in (None, -1)}
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    diagnosis = examine(module, data, steps=steps, followed=progress_bar, **options)
    Console().print(str(diagnosis), highlight=False, markup=False, soft_wrap=True)
    Console().print(table_of(diagnosis))
    if html is not None:
        diagnosis.write_html(html)
        Console(stderr=True).print(f"Wrote {html}", highlight=False, soft_wrap=True)
    return int(diagnosis.state in (BROKEN, STUCK))


def from_function(source: str) -> tuple[Any, Any, dict[str, Any]]:
    """Module and data that a function returns, and no options of a Trainer."""
    path, _, name = source.partition(":")
    if not name:
        raise ValueError(
            "`gradguard doctor SOURCE` must be package.module:function or a YAML file of a LightningCLI, got "
            f"{source!r}."
        )
    sys.path.insert(0, "")
    made = getattr(importlib.import_module(path), name)()
    if not (isinstance(made, tuple) and len(made) == 2):
        raise ValueError(f"`{source}` must return a LightningModule and its data, got {type(made).__name__}.")
    return *made, {}


def from_yaml(path: str) -> tuple[Any, Any, dict[str, Any]]:
    """Module, data and options of the Trainer from the configuration of a LightningCLI."""
    from pytorch_lightning import LightningDataModule, LightningModule
    from pytorch_lightning.cli import LightningCLI

    with mock.patch.object(sys, "argv", sys.argv[:1]):  # LightningCLI warns of arguments that it does not use
        cli = LightningCLI(
            LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, run=False,
            save_config_callback=None, seed_everything_default=False, args=["--config", path],
        )  # fmt: skip
    chosen = ("accelerator", "precision", "max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val")
    options = {name: cli.config.trainer.get(name) for name in chosen}
    return cli.model, cli.datamodule, {name: value for name, value in options.items() if value is not None}


def progress_bar(most: int) -> Callable[[], Any]:
    """A bar over the steps of the experiment; what is called after each."""
    from tqdm import tqdm

    bar = tqdm(total=most, desc="experiment", unit="step", leave=False)
    return lambda: bar.update()


def table_of(diagnosis: Diagnosis) -> Table:
    """The best settings beside the run."""
    table = Table("setting", "loss", title="the run and the best settings, over the same steps")
    table.add_row("the run as it is", f"{diagnosis.control.loss:.4g}")
    for arm in sorted(diagnosis.arms, key=lambda arm: arm.loss)[:MOST_ROWS]:
        table.add_row(arm.candidate.name if arm.candidate is not None else "", f"{arm.loss:.4g}")
    return table
