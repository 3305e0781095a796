"""W&B and Comet with their own clients, offline. Skipped where a client is not installed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = """
import sys
LIBRARY, folder = sys.argv[1:]
__import__(LIBRARY)  # before torch, as Comet asks
import pytorch_lightning as pl
from pytorch_lightning.loggers import CometLogger, WandbLogger
from lightning_gradguard import GradGuard
from lightning_gradguard.alerts import WandbAlert
from runs import Faults, Net, loader

if LIBRARY == "wandb":
    logger, alert = WandbLogger(project="guarded", offline=True, save_dir=folder), WandbAlert()
else:
    logger, alert = CometLogger(project="guarded", offline_directory=folder), None
guard = GradGuard(on_incident=alert, histograms_every=10)
trainer = pl.Trainer(
    max_epochs=1, accelerator="cpu", logger=logger, callbacks=[Faults({20: float("nan")}), guard], log_every_n_steps=10,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
)
trainer.fit(Net(), loader())
logger.experiment.finish() if LIBRARY == "wandb" else logger.experiment.end()
"""


def told(library: str, folder: Path) -> str:
    """What a run in a process of its own prints: these clients stay in a process."""
    pytest.importorskip(library)
    settings = {"COMET_START_ONLINE": "0", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    ran = subprocess.run(
        [sys.executable, "-c", RUN, library, str(folder)],
        capture_output=True, text=True, timeout=250, cwd=folder, env={**os.environ, **settings, "PYTHONPATH": path},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "GradGuard could not write" not in ran.stderr
    assert "on_incident" not in ran.stderr
    return ran.stdout + ran.stderr


def test_wandb_has_the_curves_the_table_the_histograms_and_the_alert(tmp_path: Path) -> None:
    told("wandb", tmp_path)
    (table,) = tmp_path.rglob("media/table/gradguard/incidents*.table.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert content["columns"] == ["steps", "kind", "done", "outcome", "incident"]
    assert content["data"][0][:4] == ["20", "nonfinite", "SkipStep", "resolved"]
    (log,) = tmp_path.rglob("offline-run-*/*.wandb")
    written = log.read_bytes()
    for name in (b"gradguard/grad_norm_max", b"gradguard/gradients/net.0", b"GradGuard: nonfinite resolved"):
        assert name in written


def test_comet_has_the_curves_and_the_table(tmp_path: Path) -> None:
    told("comet_ml", tmp_path)
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as kept:
        messages = kept.read("messages.json").decode()
        uploads = [json.loads(line)["payload"] for line in messages.splitlines() if "gradguard_incidents.csv" in line]
        assert len(uploads) == 1
        row = next(csv.DictReader(kept.read(uploads[0]["file_path"]).decode().splitlines()))
    assert "gradguard/grad_norm_max" in messages
    assert [row[key] for key in ("steps", "kind", "done", "outcome")] == ["20", "nonfinite", "SkipStep", "resolved"]
