"""Data of the cases: scikit-learn's bundled datasets and generated sequences. Nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_gradguard.extras import needed_for


@lru_cache
def _bundled(name: str) -> tuple[Tensor, Tensor]:
    """Features and targets of `sklearn.datasets.load_NAME`, in one fixed random order."""
    with needed_for("The zoo"):
        from sklearn import datasets
    features, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(7))
    x = torch.tensor(features, dtype=torch.float32)[order]
    y = torch.tensor(targets)[order]
    return x, y if y.dtype == torch.long else y.float()


def digits(images: bool = False) -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits with pixels in [0, 1], `[1797, 64]` or as images `[1797, 1, 8, 8]`, and labels.

    Example:
        >>> digits(images=True)[0].shape
        torch.Size([1797, 1, 8, 8])
    """
    x, y = _bundled("digits")
    return (x.view(-1, 1, 8, 8) if images else x) / 16, y


def wine() -> tuple[Tensor, Tensor]:
    """178 wines with 13 raw features up to 1,680, in 3 classes."""
    return _bundled("wine")


def breast_cancer() -> tuple[Tensor, Tensor]:
    """569 tumors with 30 raw features up to 4,254, in 2 classes."""
    return _bundled("breast_cancer")


def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients with 10 standardized features, and a standardized target `[442, 1]`."""
    x, y = _bundled("diabetes")
    return (x - x.mean(0)) / x.std(0), ((y - y.mean()) / y.std()).unsqueeze(1)


def loaders(
    data: tuple[Tensor, Tensor], seed: int, batch_size: int = 64, share: float = 0.7
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """A shuffled training loader over the first `share` of the samples, and a validation loader over the rest."""
    x, y = data
    cut = int(share * len(x))
    order = torch.Generator().manual_seed(seed)
    train = DataLoader(TensorDataset(x[:cut], y[:cut]), batch_size, shuffle=True, drop_last=True, generator=order)
    return train, DataLoader(TensorDataset(x[cut:], y[cut:]), batch_size=1024)


def temporal_order(seed: int, length: int, samples: int = 2000) -> tuple[Tensor, Tensor]:
    """One of four symbols followed by noise, `[samples, length, 5]`, and the symbol as the label, 0 to 3.

    The last channel marks the end of the sequence. The network must remember two bits for `length - 1` steps.
    """
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (samples,), generator=generator)
    x = 0.1 * torch.randn(samples, length, 5, generator=generator)
    x[torch.arange(samples), 0, label] = 1.0
    x[:, -1, 4] = 1.0
    return x, label
