"""Trains the zoo's cases, and a run with injected faults, and draws the pictures of the symptoms in `docs/img/runs`.

python docs/pictures.py [name ...]    # needs chromium, chromedriver, selenium, Pillow, [cli] and [zoo]

Pictures of runs have two side by side, with common axes: a zoo case as it is and with a cure; a run with injected
faults under "monitor" and under "protect"; a zoo case under "monitor" and under "repair". The last one is an
experiment.
"""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from selenium import webdriver
from selenium.webdriver.common.by import By

from lightning_gradguard import GradGuard, doctor, zoo
from lightning_gradguard.cli.demo import DigitsCNN, InjectFaults, digits_loaders
from lightning_gradguard.show.figures import draw_figures
from lightning_gradguard.show.html_report import read_runs
from lightning_gradguard.show.run_view import RunView

OUT = Path(__file__).parent / "img" / "runs"
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
WIDTH, HEIGHT, SCALE = 400, 400, 1.5
#: What is drawn below the heatmap.
CURVES = ("grad_norm", "grad_norm_clipped", "grad_norm_limit", "loss")
#: The zoo case that is repaired and examined.
SICK = "deep_sigmoid"
#: Optimizer steps of the run with injected faults, as in `gradguard demo`.
STEPS = 400


def train_case(case: zoo.Case, logdir: Path) -> dict[str, Path]:
    """A case as it is, and with its first cure that works. Title of each run -> its directory."""
    cure = next(name for name, cure in case.cures.items() if cure.holds)
    for variant in (None, cure):
        zoo.run_case(case, variant, accelerator="cpu", logdir=logdir)
    folder = logdir / case.name
    return {"as it is": folder / "broken", f"with the cure {cure}": folder / cure}


def train_with_faults(logdir: Path) -> dict[str, Path]:
    """The run of `gradguard demo` with its faults, only watched and protected."""
    titles = {"monitor": 'policy="monitor": nothing is done', "protect": 'policy="protect"'}
    for policy in titles:
        pl.seed_everything(0, verbose=False)
        trainer = pl.Trainer(
            max_steps=STEPS, max_epochs=-1, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
            logger=TensorBoardLogger(logdir, name="", version=policy), enable_checkpointing=False,
            enable_model_summary=False, callbacks=[InjectFaults(STEPS), GradGuard(policy)],
        )  # fmt: skip
        trainer.fit(DigitsCNN(), digits_loaders(0)[0])
    return {title: logdir / policy for policy, title in titles.items()}


def train_repaired(logdir: Path) -> dict[str, Path]:
    """The same program, only watched and repaired."""
    for policy in ("monitor", "repair"):
        zoo.run_case(SICK, policy=policy, accelerator="cpu", logdir=logdir / policy)  # type: ignore[arg-type]
    titles = {"monitor": 'policy="monitor": nothing is done', "repair": 'policy="repair"'}
    return {title: logdir / policy / SICK / "broken" for policy, title in titles.items()}


def read(run: Path) -> RunView:
    """What is drawn of a run."""
    view = read_runs([run])[0][2][0]
    return replace(view, curves={name: curve for name, curve in view.curves.items() if name in CURVES})


def figures_of(runs: dict[str, Path]) -> dict[str, go.Figure]:
    figures = draw_figures([read(run) for run in runs.values()], width=WIDTH, height=HEIGHT)
    return dict(zip(runs, figures, strict=True))


def experiment() -> dict[str, go.Figure]:
    """What `doctor` has tried before a run."""
    torch.manual_seed(0)
    program = zoo.get_case(SICK).build(0)
    diagnosis = doctor(program.module, program.train, max_steps=program.max_steps, accelerator="cpu")
    return {"Every setting that was tried beside the run": diagnosis.figure().update_layout(width=2 * WIDTH)}


def page(figures: dict[str, go.Figure]) -> str:
    """The figures side by side, each below its title."""
    parts = [
        f"<div><b>{html.escape(title)}</b>"
        + figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displayModeBar": False})
        + "</div>"
        for i, (title, figure) in enumerate(figures.items())
    ]
    style = "display:flex;gap:8px;width:max-content;background:#fff;padding:4px;font:13px Roboto,system-ui,sans-serif"
    return f'<!doctype html><meta charset="utf-8"><main style="{style}">{"".join(parts)}</main>'


def browser() -> Any:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--force-device-scale-factor={SCALE}", "--window-size=1000,700"]:
        options.add_argument(flag)
    return webdriver.Chrome(options=options)


def photograph(driver: Any, source: Path, out: Path) -> None:
    driver.get(source.as_uri())
    driver.find_element(By.TAG_NAME, "main").screenshot(str(out))
    Image.open(out).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT).save(out, optimize=True)


DRAWN: dict[str, Callable[[Path], dict[str, go.Figure]]] = {
    **{case.name: lambda folder, case=case: figures_of(train_case(case, folder)) for case in zoo.list_cases()},
    "injected_faults": lambda folder: figures_of(train_with_faults(folder)),
    "repaired": lambda folder: figures_of(train_repaired(folder)),
    "experiment": lambda folder: experiment(),
}


def main(names: Sequence[str]) -> None:
    driver = browser()
    for name in names or DRAWN:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "page.html"
            source.write_text(page(DRAWN[name](Path(folder))), encoding="utf-8")
            photograph(driver, source, OUT / f"{name}.png")
    driver.quit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    main(sys.argv[1:])
