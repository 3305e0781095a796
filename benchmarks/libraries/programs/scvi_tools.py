"""scvi-tools: models of single cells, on its synthetic data."""

from __future__ import annotations

from typing import Any

import scvi
from comparison import program
from torch import nn


def make_cells() -> Any:
    """Without a seed of its own scvi-tools shuffles its batches at random, whatever seed the process has."""
    scvi.settings.seed = 0
    return scvi.data.synthetic_iid()


@program("SCVI")
def train_scvi(callbacks: list[Any]) -> nn.Module:
    """Batch correction of gene expression."""
    cells = make_cells()
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(cells)
    model.train(max_epochs=60, accelerator="cpu", callbacks=callbacks)
    return model.module


@program("TOTALVI")
def train_totalvi(callbacks: list[Any]) -> nn.Module:
    """Genes and proteins; it also trains an adversarial classifier, with a second optimizer."""
    cells = make_cells()
    scvi.model.TOTALVI.setup_anndata(
        cells,
        batch_key="batch",
        protein_expression_obsm_key="protein_expression",
        protein_names_uns_key="protein_names",
    )
    model = scvi.model.TOTALVI(cells)
    model.train(max_epochs=40, accelerator="cpu", callbacks=callbacks)
    return model.module


@program("SCANVI")
def train_scanvi(callbacks: list[Any]) -> nn.Module:
    """Cell types from some labels, starting from a trained SCVI."""
    cells = make_cells()
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch", labels_key="labels")
    base = scvi.model.SCVI(cells)
    base.train(max_epochs=10, accelerator="cpu")
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category="label_0")
    model.train(max_epochs=20, accelerator="cpu", callbacks=callbacks)
    return model.module
