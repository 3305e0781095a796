"""pytorch-forecasting: models of `TimeSeriesDataSet`, on the autoregressive series that it generates."""

from __future__ import annotations

from typing import Any

from comparison import program
from lightning.pytorch import Trainer
from pytorch_forecasting import NBeats, TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.data.examples import generate_ar_data
from torch import nn


def train(model: Any, callbacks: list[Any], covariates: bool, **options: Any) -> nn.Module:
    """Twenty series with a season and a trend."""
    table = generate_ar_data(seasonality=10.0, timesteps=100, n_series=20, seed=42)
    data = TimeSeriesDataSet(
        table, time_idx="time_idx", target="value", group_ids=["series"], max_encoder_length=24,
        max_prediction_length=6, time_varying_unknown_reals=["value"],
        **({"time_varying_known_reals": ["time_idx"]} if covariates else {}),
    )  # fmt: skip
    net = model.from_dataset(data, learning_rate=1e-3, **options)
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False)
    trainer.fit(net, data.to_dataloader(train=True, batch_size=32, num_workers=0))
    return net


@program("NBeats")
def train_nbeats(callbacks: list[Any]) -> nn.Module:
    return train(NBeats, callbacks, covariates=False, widths=[32, 64])


@program("TemporalFusionTransformer")
def train_tft(callbacks: list[Any]) -> nn.Module:
    return train(TemporalFusionTransformer, callbacks, covariates=True, hidden_size=8)
