"""ACT: let the gates of recurrent layers keep their state for the length of the sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.recurrent import set_forget_bias
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.gains import forget_bias
from lightning_gradguard.step.pending_step import PendingStep

_GATED = (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)


@dataclass(frozen=True)
class SetForgetBias(AbstractRemedy):
    """Sets the bias of the gate that keeps the state (an LSTM's forget gate, a GRU's z) by the sequence length.

    The bias is log(T - 1) for sequences of T steps in the activation statistics, at least log 3: then the state decays
    within about T steps. The optimizer's state of these biases is reset; all other weights stay.

    References:
        Tallec and Ollivier 2018, arXiv 1804.11188; Jozefowicz, Zaremba and Sutskever 2015.
    """

    cause: ClassVar[str] = "vanishing_through_time"
    only_corrects: ClassVar[bool] = True

    @torch.no_grad()
    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        stats = step.activation_stats
        if step.module is None or stats is None or not stats.time:
            return None
        value, changed = forget_bias(stats), 0
        for layer in (m for m in step.module.modules() if isinstance(m, _GATED) and m.bias):
            gate = slice(layer.hidden_size, 2 * layer.hidden_size)
            biases = [p for name, p in layer.named_parameters(recurse=False) if name.startswith("bias")]
            before = [bias.clone() for bias in biases]
            set_forget_bias(layer, value)
            if any(not torch.equal(*pair) for pair in zip(before, biases, strict=True)):
                changed += 1
                for bias in biases:
                    step.reset_optimizer_state(bias, gate)
        if changed:
            step.record(f"fixes.set_forget_bias(self, {value:.6g})", subject="forget bias")
        return self.did(f"set the forget bias of {changed} recurrent layers to {value:.3g}") if changed else None
