"""neuralforecast: forecasts of many series; a model makes its Trainer from keyword arguments of its own."""

from __future__ import annotations

from typing import Any

from comparison import program
from neuralforecast import NeuralForecast
from neuralforecast.models import NHITS, DLinear
from neuralforecast.utils import AirPassengersDF
from torch import nn


def train(model: Any, callbacks: list[Any]) -> nn.Module:
    """Monthly numbers of passengers, which come with the library."""
    options = {"accelerator": "cpu", "callbacks": callbacks, "enable_progress_bar": False}
    forecast = NeuralForecast(models=[model(h=12, input_size=24, max_steps=100, **options)], freq="ME")
    forecast.fit(df=AirPassengersDF)
    return forecast.models[0]


@program("DLinear")
def train_dlinear(callbacks: list[Any]) -> nn.Module:
    return train(DLinear, callbacks)


@program("NHITS")
def train_nhits(callbacks: list[Any]) -> nn.Module:
    return train(NHITS, callbacks)
