"""What operators change in a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from mutants.setup import Setup


def matrices(net: nn.Module) -> list[Tensor]:
    """Weight matrices and filters, in the order of the model, detached."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    owners = [layer for layer in net.modules() if not isinstance(layer, norms)]
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
