"""How does a run end after a fault, and is what the guard reports about it true?

    python benchmarks/chaos.py [--pairs NAME ...] [--faults NAME ...] [--policies NAME ...] [--markdown FILE]

Small networks learn scikit-learn's digits in 210 steps, once without any fault (the twin) and once with each fault of
`chaos_faults.py`. Learning rates are such that the twins are near their plateau: where every step still counts, no
guard can make up for the steps that a fault has cost. A run is near its twin when its validation accuracy is at most
three points lower. The exit code is 1 if a run that is not near its twin is called healthy or recovered, or if the
guard raises.

Thresholds were tuned on the pairs of `TUNED`; the table reports the other pairs apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from chaos_faults import FAULTS, PERMANENT, STEPS, TRANSIENT, Injector
from parallel import every
from recipes.base import Learner, Program, batches, run
from recipes.nets import Recurrent, classify, cnn, mlp
from results import publish
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_gradguard import GradGuard

NONE, NO_GUARD = "none", "no guard"
#: Points of validation accuracy that a run may lose and still be near its twin.
MARGIN = 0.03
#: What a guard may say of a run only when it is near its twin.
GOOD = ("healthy", "recovered")
TRAINING = 1344


class Lion(Optimizer):
    """Sign of the momentum (Chen et al. 2023, arXiv 2302.06675)."""

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.sub_(group["lr"] * torch.lerp(p.grad, momentum, fast).sign())
                momentum.lerp_(p.grad, 1 - slow)
        return loss


class Transformer(nn.Module):
    """Two encoder layers over the rows of an image, `[N, 8, 8]`, with learned positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(8, width), nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


def rows(net: nn.Module) -> nn.Module:
    """A network that reads an image as a sequence of its rows."""
    return nn.Sequential(nn.Unflatten(1, (8, 8)), net)


def image(net: nn.Module) -> nn.Module:
    """A network that reads an image as one."""
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), net)


adam = partial(torch.optim.Adam, lr=3e-3)
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Optimizer]]] = {
    "mlp, Adam": (lambda: mlp(64, 48, 32, 10), adam),
    "cnn with BatchNorm, SGD": (lambda: image(cnn()), sgd),
    "transformer, AdamW foreach": (
        lambda: rows(Transformer()), partial(torch.optim.AdamW, lr=2e-3, foreach=True)),
    "mlp, Lion": (lambda: mlp(64, 48, 32, 10), Lion),
    "mlp, SGD": (lambda: mlp(64, 48, 32, 10), sgd),
    "mlp, Adafactor": (lambda: mlp(64, 48, 32, 10), partial(torch.optim.Adafactor, lr=1e-2)),
    "mlp, RMSprop": (lambda: mlp(64, 48, 32, 10), partial(torch.optim.RMSprop, lr=1e-3)),
    "cnn with BatchNorm, AdamW fused": (lambda: image(cnn()), partial(torch.optim.AdamW, lr=3e-3, fused=True)),
    "lstm, Adam": (lambda: rows(Recurrent(nn.LSTM, 8, 32, 10)), adam),
}  # fmt: skip
TUNED = tuple(PAIRS)[:4]


class Spoiled(Learner):
    """A learner whose loss the fault may change."""

    injector: Injector | None = None

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        spoiled = self.injector
        if spoiled is None or spoiled.fault.loss is None or not spoiled.fault.strikes(spoiled.step):
            return loss
        return spoiled.fault.loss(loss, spoiled.step)


def data() -> tuple[Tensor, Tensor]:
    """Digits in random order, `[N, 64]` in -1..1 and their labels `[N]`."""
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    return x.float()[order] / 8 - 1, y[order]


def program(pair: str, injector: Injector | None) -> Program:
    net, optimizer = PAIRS[pair]
    x, y = data()
    module = Spoiled(net(), classify, optimizer)
    module.injector = injector
    return Program(module, batches(x[:TRAINING], y[:TRAINING]))


@dataclass(frozen=True)
class End:
    """Result of one run."""

    accuracy: float
    steps: int
    finite: bool
    outcome: str = ""
    story: str = ""
    error: str = ""


def end(pair: str, fault: str, policy: str) -> End:
    """Trains one pair with one fault under one policy."""
    injector = Injector(FAULTS[fault]) if fault != NONE else None
    guards = [GradGuard(policy, record=False)] if policy != NO_GUARD else []
    result = run(partial(program, pair, injector), 0, STEPS, [*([injector] if injector else []), *guards])
    x, y = data()
    with torch.no_grad():
        right = result.module.net.eval()(x[TRAINING:]).argmax(1) == y[TRAINING:]  # type: ignore[operator]
    report = guards[0].report() if guards else None
    outcome = report.outcome if report is not None else ""
    return End(float(right.float().mean()), result.steps, result.finite, outcome, str(report or ""), result.error)


def summarize(title: str, ends: dict[tuple[str, str, str], End], twins: dict[str, float], policies: Iterable[str]):
    """One row for each policy."""
    columns = ("policy", "transient faults", "near the twin", "not near, called good", "finite", "permanent, not told")
    table = Table(*columns, "outcomes", title=title)
    for policy in policies:
        mine = {job: e for job, e in ends.items() if job[2] == policy}
        passing = [(job, e) for job, e in mine.items() if job[1] in TRANSIENT]
        lasting = [(job, e) for job, e in mine.items() if job[1] in PERMANENT]
        near = sum(is_near(e, twins[job[0]]) for job, e in passing)
        false = sum(is_false(e, twins[job[0]]) for job, e in passing)
        untold = sum(is_false(e, twins[job[0]]) for job, e in lasting)
        outcomes = ", ".join(f"{n} {o or '-'}" for o, n in Counter(e.outcome for e in mine.values()).most_common())
        share = f"{near} of {len(passing)} ({near / max(len(passing), 1):.0%})"
        finite = f"{sum(e.finite for e in mine.values())} of {len(mine)}"
        table.add_row(policy, str(len(passing)), share, str(false), finite, f"{untold} of {len(lasting)}", outcomes)
    return table


def is_near(end: End, twin: float) -> bool:
    """Whether a run ended near its twin."""
    return end.accuracy >= twin - MARGIN


def is_false(end: End, twin: float) -> bool:
    """Whether a run was called good and is not."""
    return end.outcome in GOOD and not is_near(end, twin)


def main() -> int:
    """One table for all pairs, and one for the pairs on which nothing was tuned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="*", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=FAULTS)
    parser.add_argument("--policies", nargs="*", default=[NO_GUARD, "protect"])
    parser.add_argument("--markdown", help="file whose section with this table is replaced")
    parser.add_argument("--cache", help="folder for finished runs; see `parallel.every`")
    options = parser.parse_args()
    alone = [(pair, NONE, policy) for pair in options.pairs for policy in [NO_GUARD, *options.policies]]
    jobs = [(p, f, policy) for p in options.pairs for f in options.faults for policy in options.policies]
    ends = every(end, list(dict.fromkeys([*alone, *jobs])), options.cache)
    twins = {pair: ends[pair, NONE, NO_GUARD].accuracy for pair in options.pairs}
    for title, pairs in (("all pairs", options.pairs), ("pairs not tuned on", [*set(options.pairs) - {*TUNED}])):
        chosen = {job: ends[job] for job in jobs if job[0] in pairs}
        heading = f"Faults on digits, {title}: {len(pairs)} pairs, {len(options.faults)} faults"
        publish(summarize(heading, chosen, twins, options.policies), options.markdown, f"chaos: {title}")
    for job in jobs:
        e, twin = ends[job], twins[job[0]]
        if job[2] != NO_GUARD and (not is_near(e, twin) or e.error):
            flag = "FALSE " if is_false(e, twin) else ""
            print(f"{flag}{job[0]} | {job[1]} | {e.accuracy:.3f}, twin {twin:.3f} | {e.outcome} {e.error} | {e.story}")
    for (pair, _, policy), e in ((job, ends[job]) for job in alone):
        if policy != NO_GUARD and (e.outcome != "healthy" or e.accuracy != twins[pair]):
            print(f"HEALTHY RUN {pair} | {e.accuracy:.3f}, twin {twins[pair]:.3f} | {e.outcome} | {e.story}")
    return int(any(is_false(ends[job], twins[job[0]]) or ends[job].error for job in jobs if job[2] != NO_GUARD))


if __name__ == "__main__":
    sys.exit(main())
