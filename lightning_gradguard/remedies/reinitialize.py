"""ACT: re-initialize the weights, with the gain of the real activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_gradguard.collect.activation_stats import ActivationStats
from lightning_gradguard.findings import Action, Finding
from lightning_gradguard.fixes.initialization import LAYERS, fixed_seed, glorot, he
from lightning_gradguard.fixes.recurrent import orthogonal_recurrent, set_forget_bias
from lightning_gradguard.remedies.base import AbstractRemedy
from lightning_gradguard.step.gains import forget_bias, traits_after
from lightning_gradguard.step.pending_step import PendingStep

#: Gain of a layer with random weights: the RMS of its output over that of its input. Published recipes have 0.01 (the
#: last layer of a policy) to 2.2 (N(0, 0.02) for 12,288 inputs), those of `python benchmarks/harmless.py` 0.013 to 1.6.
SMALL, LARGE = 0.003, 5.0
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True)
class Reinitialize(AbstractRemedy):
    """Re-initializes every Linear, convolution and recurrent layer; for a run that has not learned anything yet.

    Layers before an activation that is flat at both ends, such as sigmoid or tanh, get Glorot's variance, others He's,
    each with the gain of the activation after them (1 without one). Biases become 0. Recurrent weights become
    orthogonal, and the bias of the gate that keeps the state becomes log(T - 1) for sequences of T steps, so that the
    state is kept for about that long. Embeddings, attention and norms are initialized as torch does it. After a
    finding about recurrent layers alone the others are not changed.

    The number of the step is the seed: all processes draw the same numbers, and the run's random state is not changed.

    References:
        Glorot and Bengio 2010; He et al. 2015, arXiv 1502.01852; Saxe et al. 2014, arXiv 1312.6120; Tallec and
        Ollivier 2018, arXiv 1804.11188 (forget bias by length).
    """

    only_model: ClassVar[bool] = True
    cause: ClassVar[str] = "poor_initialization"
    only_corrects: ClassVar[bool] = True

    def is_called_for(self, step: PendingStep) -> bool:
        """Whether the weights of a layer are all the same, or far too small or large (`is_off`)."""
        modules = step.module.modules() if step.module is not None else ()
        layers = (m for m in modules if isinstance(m, (*LAYERS, *RECURRENT)))
        weights = (p for layer in layers for p in layer.parameters(recurse=False) if p.ndim > 1 and p.requires_grad)
        return any(is_off(p.detach()) for p in weights)

    def apply(self, finding: Finding, step: PendingStep) -> Action | None:
        module = step.edit_model()
        if module is None:
            return None
        modules = dict(module.named_modules())
        if finding.layers and all(isinstance(modules.get(name), RECURRENT) for name in finding.layers):
            count = initialize_recurrent(module, step.activation_stats, finding.step, step.record)
            return self.did(f"re-initialized {count} recurrent layers")
        counts = {
            "layers": initialize_layers(module, step.activation_stats, finding.step, step.record),
            "recurrent layers": initialize_recurrent(module, step.activation_stats, finding.step, step.record),
            "other modules": reset_others(module, seed=finding.step),
        }
        done = [f"{count} {what}" for what, count in counts.items() if count]
        return self.did(f"re-initialized {' and '.join(done)}") if done else None


def is_off(weight: Tensor) -> bool:
    """Whether initial weights are all the same, or far too small or large for the number of inputs.

    Weights of zero are left alone (branches that begin with nothing), and so are fewer than 16.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> weight = nn.Linear(64, 64).weight.detach()  # uniform, RMS 0.072
        >>> [is_off(factor * weight) for factor in (1e-3, 0.1, 1, 3, 10)]
        [True, False, False, False, True]
        >>> [is_off(torch.full((4, 4), value)) for value in (0.0, 0.1)]
        [False, True]
    """
    gain = float(weight.float().square().mean().sqrt()) * math.sqrt(weight[0].numel())
    if weight.numel() < 16 or gain == 0:
        return False
    return not SMALL < gain < LARGE or bool((weight == weight.flatten()[0]).all())


def initialize_layers(
    module: nn.Module, stats: ActivationStats | None, seed: int, record: Callable[[str], None]
) -> int:
    """Initializes every layer whose weight is trained and not parametrized; returns how many.

    Args:
        module: The module in training.
        stats: Its latest activation statistics, for the gains.
        seed: Of the random numbers.
        record: Called with the code that does the same.
    """
    gains: dict[tuple[bool, float], list[str]] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS) and "weight" in layer._parameters and layer.weight.requires_grad:
            traits = traits_after(module, name, stats)
            gains.setdefault((traits.saturating, traits.gain), []).append(name)
    for i, ((saturating, gain), names) in enumerate(gains.items()):
        initialize = glorot if saturating else he
        initialize(module, gain=gain, layers=names, seed=1000 * seed + i)
        record(f"fixes.{initialize.__name__}(self, gain={gain:.6g}, layers={names}, seed={1000 * seed + i})")
    return sum(map(len, gains.values()))


def reset_others(module: nn.Module, seed: int) -> int:
    """Initializes embeddings, attention and affine norms as torch does; returns how many."""
    kinds = (nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.LayerNorm, nn.GroupNorm, _NormBase)
    others = [m for m in module.modules() if isinstance(m, kinds) and any(True for _ in m.parameters(recurse=False))]
    with fixed_seed(seed):
        for layer in others:
            reset: Any = getattr(layer, "reset_parameters", None) or layer._reset_parameters
            reset()
    return len(others)


def initialize_recurrent(
    module: nn.Module, stats: ActivationStats | None, seed: int, record: Callable[[str], None]
) -> int:
    """Initializes every recurrent layer; returns how many. Arguments as in `initialize_layers`."""
    layers = [m for m in module.modules() if isinstance(m, RECURRENT)]
    if not layers:
        return 0
    orthogonal_recurrent(module, seed=seed)
    record(f"fixes.orthogonal_recurrent(self, seed={seed})")
    for name, parameter in ((n, p) for layer in layers for n, p in layer.named_parameters(recurse=False)):
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
    if any(not isinstance(m, (nn.RNN, nn.RNNCell)) and m.bias for m in layers):
        set_forget_bias(module, forget_bias(stats))
        record(f"fixes.set_forget_bias(self, {forget_bias(stats):.6g})")
    return len(layers)
