"""darts: forecasts; its models deep-copy the callbacks in `pl_trainer_kwargs`."""

from __future__ import annotations

from typing import Any

import numpy as np
from comparison import program
from darts.models import NBEATSModel, TCNModel
from darts.utils.timeseries_generation import gaussian_timeseries, sine_timeseries
from torch import nn


def train(model: Any, callbacks: list[Any], **options: Any) -> nn.Module:
    """A noisy sine."""
    series = (sine_timeseries(length=400, value_frequency=0.04) + gaussian_timeseries(length=400, std=0.2)).astype(
        np.float32
    )
    trainer = {"accelerator": "cpu", "callbacks": callbacks, "enable_progress_bar": False}
    forecaster = model(24, 12, n_epochs=8, random_state=0, pl_trainer_kwargs=trainer, **options)
    forecaster.fit(series)
    return forecaster.model


@program("NBEATSModel")
def train_nbeats(callbacks: list[Any]) -> nn.Module:
    return train(NBEATSModel, callbacks, num_stacks=4, layer_widths=64)


@program("TCNModel")
def train_tcn(callbacks: list[Any]) -> nn.Module:
    return train(TCNModel, callbacks)
