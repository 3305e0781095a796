"""Trains the zoo's cases, and a run with injected faults, and draws the pictures of the symptoms in `docs/img/runs`.

python docs/pictures.py [name ...]    # needs chromium, chromedriver, and the extras [test] and [cli]

Each picture has two runs side by side, with common axes: a zoo case as it is and with a cure, and a run with injected
faults under "monitor" and under "protect".
"""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from selenium import webdriver
from selenium.webdriver.common.by import By

from lightning_gradguard import GradGuard, zoo
from lightning_gradguard.cli.demo import DigitsCNN, InjectFaults, digits_loaders
from lightning_gradguard.show.figures import draw_figures
from lightning_gradguard.show.html_report import read_runs
from lightning_gradguard.show.run_view import RunView

OUT = Path(__file__).parent / "img" / "runs"
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars"
WIDTH, HEIGHT, SCALE = 400, 400, 1.5
#: What is drawn below the heatmap.
CURVES = ("grad_norm", "grad_norm_clipped", "grad_norm_limit", "loss")
FAULTS = "injected_faults"
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


def read(run: Path) -> RunView:
    """What is drawn of a run."""
    view = read_runs([run])[0][2][0]
    return replace(view, curves={name: curve for name, curve in view.curves.items() if name in CURVES})


def page(titles: Sequence[str], views: Sequence[RunView]) -> str:
    """Both figures side by side."""
    figures = draw_figures(views, width=WIDTH, height=HEIGHT)
    parts = [
        f'<div style="width:{WIDTH}px"><b>{html.escape(title)}</b>'
        + figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displayModeBar": False})
        + "</div>"
        for i, (title, figure) in enumerate(zip(titles, figures, strict=True))
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


def main(names: Sequence[str]) -> None:
    driver = browser()
    for name in names or [case.name for case in zoo.list_cases()] + [FAULTS]:
        with tempfile.TemporaryDirectory() as folder:
            runs = train_with_faults(Path(folder)) if name == FAULTS else train_case(zoo.get_case(name), Path(folder))
            source = Path(folder) / "page.html"
            source.write_text(page(list(runs), [read(run) for run in runs.values()]), encoding="utf-8")
            photograph(driver, source, OUT / f"{name}.png")
    driver.quit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    main(sys.argv[1:])
