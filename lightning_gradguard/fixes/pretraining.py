"""Greedy layer-wise pretraining: each sigmoid layer is trained as an RBM by contrastive divergence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import trange

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.tracing import call, eval_mode, trace


class RBM(nn.Module):
    """A restricted Boltzmann machine with binary hidden units.

    Args:
        visible: Number of visible units.
        hidden: Number of hidden units.
        gaussian: Whether visible units are real numbers of unit variance instead of probabilities.

    Attributes:
        weight: `[hidden, visible]`, as in `nn.Linear`; initially N(0, 0.01²) as in Hinton 2010.
        visible_bias: `[visible]`.
        hidden_bias: `[hidden]`.

    Example:
        >>> rbm = RBM(4, 2)
        >>> rbm(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    weight: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor

    def __init__(self, visible: int, hidden: int, gaussian: bool = False) -> None:
        super().__init__()
        self.gaussian = gaussian
        self.register_buffer("weight", torch.zeros(hidden, visible))
        self.register_buffer("visible_bias", torch.zeros(visible))
        self.register_buffer("hidden_bias", torch.zeros(hidden))

    def reset(self, data: Tensor, generator: torch.Generator) -> None:
        """Initializes small weights, no hidden bias, and a visible bias that gives the data's mean (Hinton 2010)."""
        self.weight.normal_(0, 0.01, generator=generator)
        self.hidden_bias.zero_()
        mean = data.mean(0)
        self.visible_bias.copy_(mean if self.gaussian else torch.logit(mean, eps=1e-2))

    def forward(self, visible: Tensor) -> Tensor:
        """Probabilities of the hidden units, `[batch, hidden]`."""
        return torch.sigmoid(nn.functional.linear(visible, self.weight, self.hidden_bias))

    def visible_mean(self, hidden: Tensor) -> Tensor:
        """Expectation of the visible units, `[batch, visible]`."""
        field = nn.functional.linear(hidden, self.weight.T, self.visible_bias)
        return field if self.gaussian else torch.sigmoid(field)

    def divergence(self, data: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The CD-k estimate of the log-likelihood's gradient for weight, visible bias and hidden bias.

        Hidden units are sampled during the chain; the statistics use its last probabilities (Hinton 2010).
        """
        start = self(data)
        hidden = start
        for _ in range(k):
            fantasy = self.visible_mean(torch.bernoulli(hidden, generator=generator))
            hidden = self(fantasy)
        size = len(data)
        weight = (start.T @ data - hidden.T @ fantasy) / size
        return weight, (data - fantasy).mean(0), (start - hidden).mean(0)

    def reconstruction_error(self, data: Tensor) -> float:
        """Mean squared error of one mean-field reconstruction over the variance of the data."""
        error = (self.visible_mean(self(data)) - data).square().mean()
        return float(error / (data - data.mean(0)).square().mean())


@torch.no_grad()
def train_rbm(
    rbm: RBM,
    data: Tensor,
    *,
    epochs: int = 20,
    lr: float = 0.1,
    k: int = 1,
    batch_size: int = 64,
    momentum: float = 0.5,
    weight_cost: float = 2e-4,
    seed: int = 0,
    progress: str = "",
) -> float:
    """Trains an RBM by CD-k with momentum and returns its final reconstruction error over the data's variance.

    Args:
        rbm: The machine, on the device of the data.
        data: `[samples, visible]`: probabilities in [0, 1], or real numbers of unit variance when it is Gaussian.
        epochs: Passes over the data. Default chosen, not measured.
        lr: Learning rate. Default as in Hinton 2010, section 7; use 0.01 or less for a Gaussian machine (section 13.2).
        k: Gibbs steps. Default as in Hinton 2002.
        batch_size: Samples in a batch. Default from the range of 10 to 100 in Hinton 2010.
        momentum: Default as in Hinton 2010 for the first epochs.
        weight_cost: L2 penalty of the weights. Default as in Hinton 2010.
        seed: Of initial weights, order and sampling.
        progress: Name of a progress bar over the epochs; none is shown without one.

    Returns:
        The reconstruction error; the mean of the data alone has an error of 1.

    Example:
        >>> patterns = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(50, 1)
        >>> train_rbm(RBM(4, 2), patterns, epochs=50, batch_size=10) < 0.2
        True

    References:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence"; Hinton 2010, "A practical
        guide to training restricted Boltzmann machines".
    """
    generator = torch.Generator(data.device).manual_seed(seed)
    rbm.reset(data, generator)
    states = (rbm.weight, rbm.visible_bias, rbm.hidden_bias)
    speeds = [torch.zeros_like(state) for state in states]
    for _ in trange(epochs, desc=progress, disable=not progress):
        order = torch.randperm(len(data), generator=generator, device=data.device)
        for batch in data[order].split(batch_size):
            gradients = list(rbm.divergence(batch, k, generator))
            gradients[0] -= weight_cost * rbm.weight
            for state, speed, gradient in zip(states, speeds, gradients, strict=True):
                speed.mul_(momentum).add_(gradient, alpha=lr)
                state.add_(speed)
    return rbm.reconstruction_error(data)


def pretrain(
    model: nn.Module,
    inputs: Tensor,
    *,
    gaussian: bool = False,
    mirror: Mapping[str, str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> Changes:
    """Pretrains every Linear layer before a hidden sigmoid, starting at the input, each on the output of the previous.

    Afterwards the model is a deep belief network, ready for fine-tuning with labels. Weights and biases change in
    place on the model's device; the output layer is not changed.

    Args:
        model: Any module with Linear layers followed by sigmoids.
        inputs: Training inputs, `[samples, ...]`; labels are not used.
        gaussian: Whether the inputs are real numbers (standardize them) instead of numbers in [0, 1].
        mirror: For an autoencoder: name of an encoder layer -> name of the decoder layer that gets its transposed
            weights and visible biases (Hinton and Salakhutdinov 2006). Decoder layers are not trained themselves.
        progress: Whether to show a progress bar for each layer.
        settings: Arguments of `train_rbm`: `epochs`, `lr`, `k`, `batch_size`, `momentum`, `weight_cost`, `seed`.

    Returns:
        One change for each layer: the reconstruction error over the data's variance before and after.

    Raises:
        ValueError: If inputs are outside [0, 1] and `gaussian` is False.
        NothingToChange: If no Linear layer is followed by a hidden sigmoid.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
        >>> patterns = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(50, 1)
        >>> pretrain(net, patterns, progress=False, epochs=30, batch_size=10)[0].layer
        '0'

    References:
        Hinton, Osindero and Teh 2006; Hinton and Salakhutdinov 2006; Bengio et al. 2007.
    """
    inputs = inputs.to(next(model.parameters()).device)
    if not gaussian and (float(inputs.min()) < 0 or float(inputs.max()) > 1):
        raise ValueError(
            "`pretrain(inputs=...)` must be in [0, 1] for binary visible units, got "
            f"{float(inputs.min()):.3g} to {float(inputs.max()):.3g}. Rescale them, or "
            "standardize them and pass `gaussian=True`."
        )
    decoder = dict(mirror or {})
    seen = trace(model, inputs[:2])
    names = [n for n in seen.layers if _is_sigmoid_layer(model, n, seen.activation_of(n)) and n not in decoder.values()]
    changes = []
    for position, name in enumerate(names):
        layer: Any = model.get_submodule(name)
        data = _input_of(model, layer, inputs)
        rbm = RBM(layer.in_features, layer.out_features, gaussian and position == 0).to(data.device)
        with torch.no_grad():
            rbm.reset(data, torch.Generator(data.device))
            rbm.weight.copy_(layer.weight)
            rbm.hidden_bias.copy_(layer.bias)
            before = rbm.reconstruction_error(data)
            after = train_rbm(rbm, data, progress=f"RBM {name}" if progress else "", **settings)
            layer.weight.copy_(rbm.weight)
            layer.bias.copy_(rbm.hidden_bias)
            if name in decoder:
                target: Any = model.get_submodule(decoder[name])
                target.weight.copy_(rbm.weight.T)
                target.bias.copy_(rbm.visible_bias)
        changes.append(Change(name, f"reconstruction error {before:.3g}", f"{after:.3g} (RBM)"))
    return recorded(changes, "pretrain(model)", "Linear layers followed by a hidden sigmoid")


def _is_sigmoid_layer(model: nn.Module, name: str, activation: Any) -> bool:
    linear = isinstance(model.get_submodule(name), nn.Linear)
    return linear and activation is not None and activation.hidden and activation.kind == "sigmoid"


def _input_of(model: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """Input of the layer for these inputs of the model, `[samples, in_features]`."""
    received: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    try:
        with torch.no_grad(), eval_mode(model):
            call(model, inputs)
    finally:
        hook.remove()
    return received[0].flatten(0, -2)
