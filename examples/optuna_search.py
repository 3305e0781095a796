"""A search with Optuna: a learning rate with which the run has to be given up prunes its trial.

Run it with `python examples/optuna_search.py` (needs `pip install optuna`).
"""

from __future__ import annotations

import optuna
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard import GradGuard


class Classifier(pl.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.net, self.lr = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), lr

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def objective(trial: optuna.Trial) -> float:
    pl.seed_everything(0, verbose=False)
    x = torch.randn(640, 8)
    guard = GradGuard("monitor")
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[guard], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = Classifier(trial.suggest_float("lr", 1e-3, 1e3, log=True))
    trainer.fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 16))
    trial.set_user_attr("incidents", [str(incident) for incident in guard.incidents])
    if guard.report().outcome not in ("healthy", "recovered"):
        raise optuna.TrialPruned
    return float(trainer.callback_metrics["loss"])


if __name__ == "__main__":
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=6)
    print(f"{len(study.get_trials(states=[optuna.trial.TrialState.PRUNED]))} trials pruned, best {study.best_params}")
