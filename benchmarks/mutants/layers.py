"""What operators change in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from mutants.setups import Setup

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.Identity)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)


def matrices(net: nn.Module) -> list[Tensor]:
    """Weight matrices and filters, in the order of the model, detached."""
    owners = [layer for layer in net.modules() if not isinstance(layer, NORMS)]
    return [p.detach() for layer in owners for p in layer.parameters(recurse=False) if p.dim() > 1]


def one_matrix(setup: Setup) -> Tensor:
    """A random one of them."""
    return setup.random.choice(matrices(setup.net))


def biases(net: nn.Module) -> list[Tensor]:
    """The biases of every layer, detached."""
    return [p.detach() for name, p in net.named_parameters() if "bias" in name]


def places(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and layer of every layer of these kinds."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                yield parent, name, child


def swap(net: nn.Module, kinds: tuple[type[nn.Module], ...], new: Callable[[], nn.Module]) -> None:
    """Replaces every layer of these kinds."""
    for parent, name, _ in places(net, kinds):
        setattr(parent, name, new())


def hidden(net: nn.Module) -> list[tuple[nn.Sequential, int]]:
    """Chain and index of every activation behind a linear layer or a convolution."""
    chains = [layer for layer in net.modules() if isinstance(layer, nn.Sequential)]
    places = [(chain, at) for chain in chains for at in range(len(chain)) if isinstance(chain[at], ACTIVATIONS)]
    return [(chain, at) for chain, at in places if _before(chain, at) is not None]


def deepen(chain: nn.Sequential, at: int, count: int) -> None:
    """Adds layers with activations behind an activation."""
    before = _before(chain, at)
    for _ in range(count):
        chain.insert(at + 1, _like(before))  # type: ignore[arg-type]
        chain.insert(at + 2, type(chain[at])())


def _before(chain: nn.Sequential, at: int) -> nn.Module | None:
    return next((layer for layer in list(chain)[at::-1] if isinstance(layer, (nn.Linear, nn.Conv2d))), None)


def _like(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.out_features, layer.out_features)
    return nn.Conv2d(layer.out_channels, layer.out_channels, 3, padding=1)
