"""Post-LN transformer without warmup.

Symptom: the loss stays near chance level.
Cause: with LayerNorm after the residual addition, the expected gradient near the output is large at initialization, and
Adam's first steps at the full learning rate ruin the weights.
Cures: warmup, LayerNorm inside the residual branch, a tenth of the learning rate. Shallow post-LN networks train
without them.
References: Xiong et al., 2020, arXiv:2002.04745; source notes 001, 002 (docs/documents.md; learning rate).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from lightning_gradguard import fixes
from lightning_gradguard.zoo import measures
from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom, on_optimizer
from lightning_gradguard.zoo.data import digits, loaders
from lightning_gradguard.zoo.learner import classifier
from lightning_gradguard.zoo.nets import seed_torch


class RowReader(nn.Module):
    """Reads a digit row by row: eight tokens of eight pixels, eight post-LN layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(0.1 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=8, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():  # torch has copied one layer's weights into all
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, 64]` to `[batch, 10]`."""
        tokens = self.embed(x.view(-1, 8, 8)) + self.place
        out: torch.Tensor = self.head(self.encoder(tokens).mean(1))
        return out


def build(seed: int) -> Program:
    """Adam at 5e-3 from the first step."""
    seed_torch(seed)
    learner = classifier(RowReader(), 10, partial(torch.optim.Adam, lr=5e-3))
    return Program(learner, *loaders(digits(), seed, batch_size=32), max_steps=150)


CASE = Case(
    name="post_ln_transformer",
    title="post-LN transformer without warmup",
    kind="collapsed",
    symptom=Symptom("final loss / initial loss", measures.final_loss_ratio, limit=0.6),
    statements=("S3",),
    build=build,
    cures={
        "warm_up": Cure(lambda program: program.warm_up(100), ("F9",)),
        "pre_norm": Cure(lambda program: fixes.pre_norm(program.net)),
        "lr_down": Cure(on_optimizer(fixes.scale_lr, 0.1), ("F9",)),
    },
    metric="accuracy",
    margin=0.2,
)
