"""A run with faults and checkpoints, for test_resume.py: may kill itself, may resume."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from runs import Faults, Net, files, loader

from lightning_gradguard import GradGuard


class Night(pl.Callback):
    """A learning rate slips at step 100, weights are corrupted at 140, and the process may be killed."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 100:
            trainer.optimizers[0].param_groups[0]["lr"] *= 1000
        if step == 140:
            with torch.no_grad():
                pl_module.net[-1].weight.mul_(1e3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--own", action="store_true", help="no logger: the guard writes into the folder itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    faults = Faults({30: torch.nan, 31: torch.nan, 128: torch.inf, 165: torch.nan, 166: torch.nan, 170: torch.nan})
    # Lightning restarts a plain loader from its first batch, so checkpoints lie at the ends of epochs.
    checkpoints = ModelCheckpoint(options.folder, every_n_train_steps=40, save_top_k=-1, filename="{step}")
    guard = GradGuard(log_dir=options.folder if options.own else None)
    trainer = pl.Trainer(
        max_steps=200, accelerator="cpu", devices=1, logger=not options.own and files(options.folder),
        callbacks=[Night(options.kill_at), faults, guard, checkpoints],
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = Net()
    found = sorted(options.folder.glob("*.ckpt"), key=os.path.getmtime)
    trainer.fit(module, loader(), ckpt_path=found[-1] if options.resume else None)
    weights = b"".join(v.numpy().tobytes() for v in module.state_dict().values())
    print(hashlib.sha256(weights).hexdigest())


if __name__ == "__main__":
    main()
