"""Replacing modules inside a model, and finding blocks that keep the shape of their input."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.modules.tracing import call, eval_mode, trace


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts `new` in the place of the module `name`, under every name that this module object has.

    Raises:
        ValueError: If `name` is the model itself.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
        >>> replace_module(net, "1", nn.ReLU())
        >>> net[1]
        ReLU()
    """
    if not name:
        raise ValueError("`replace_module(name=...)` must name a submodule; wrap the model: `nn.Sequential(model)`.")
    old = model.get_submodule(name)
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, new)


def match_model(new: nn.Module, model: nn.Module) -> nn.Module:
    """Moves a new module to the model's device, dtype and training mode, and returns it."""
    parameter = next(model.parameters(), None)
    new.train(model.training)
    return new if parameter is None else new.to(parameter.device, parameter.dtype)


def has_weight(module: nn.Module) -> bool:
    """Whether a module or one inside it has a parameter of two or more dimensions."""
    return any(p.ndim >= 2 for p in module.parameters())


@dataclass(frozen=True)
class Block:
    """Adjacent members of a container that together keep their input's shape.

    Args:
        parent: Dotted name of the container.
        members: Names of the members in the container, in order.
    """

    parent: str
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        """Dotted name of the first member."""
        return f"{self.parent}.{self.members[0]}".lstrip(".")


def replace_block(model: nn.Module, block: Block, wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Puts `wrap(the block as one module)` in the place of the first member, and identities in that of the others."""
    parent = model.get_submodule(block.parent)
    members = [parent.get_submodule(name) for name in block.members]
    setattr(parent, block.members[0], wrap(members[0] if len(members) == 1 else nn.Sequential(*members)))
    for name in block.members[1:]:
        setattr(parent, name, nn.Identity())


def remove_block(model: nn.Module, block: Block) -> None:
    """Removes a block: its members become identities; an `nn.ModuleList` loses the element."""
    parent = model.get_submodule(block.parent)
    if isinstance(parent, nn.ModuleList):
        position = list(parent._modules).index(block.members[0])
        del parent[position]
    else:
        replace_block(model, block, lambda _: nn.Identity())


def shape_preserving_blocks(
    model: nn.Module, example: Any, every: int = 1, named: Collection[str] | None = None, call: str = ""
) -> list[Block]:
    """The model's blocks of `every` weight layers whose output has the shape of their input.

    In an `nn.Sequential` a block starts with a weight layer and includes the modules up to the next one
    (normalization, activation). In an `nn.ModuleList` it is an element. The output layer is never a block.

    Args:
        model: Any module.
        example: What the model is called with, as in `trace`.
        every: Weight layers in one block.
        named: Names of modules to use instead of searching.
        call: Name of the calling function, for the message.

    Raises:
        ValueError: If a named module does not keep its input's shape.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> shape_preserving_blocks(net, torch.zeros(1, 2))
        [Block(parent='', members=('2', '3'))]
    """
    shapes = _shapes(model, example)
    if named is not None:
        return [_named_block(name, shapes, call) for name in named]
    shapes.pop(_output_layer(model, example), None)
    blocks: list[Block] = []
    for parent, container in model.named_modules():
        if isinstance(container, nn.ModuleList):
            blocks += _joined(
                parent, [(n,) for n, item in container.named_children() if has_weight(item)], shapes, every
            )
        elif isinstance(container, nn.Sequential):
            blocks += _joined(parent, _weight_groups(container), shapes, every)
    outer = {f"{b.parent}.{member}".lstrip(".") for b in blocks for member in b.members}
    return [b for b in blocks if not any(b.parent == o or b.parent.startswith(f"{o}.") for o in outer)]


def _output_layer(model: nn.Module, example: Any) -> str:
    """Name of the layer called last, if no hidden activation follows it; otherwise the model itself."""
    seen = trace(model, example)
    last = next(reversed(seen.layers), "")
    activation = seen.activation_of(last)
    return "" if activation is not None and activation.hidden else last


def _named_block(name: str, shapes: dict[str, tuple[Any, Any]], call: str) -> Block:
    entry, exit_ = shapes.get(name, (None, None))
    if entry is None or entry != exit_:
        shown = (
            "not called exactly once with a tensor" if entry is None else f"{tuple(entry)} -> {exit_ and tuple(exit_)}"
        )
        raise ValueError(
            f"`{call}(blocks=...)` must name modules that keep the shape of their input, got {name!r}: {shown}."
        )
    parent, _, child = name.rpartition(".")
    return Block(parent, (child,))


def _weight_groups(container: nn.Sequential) -> list[tuple[str, ...]]:
    groups: list[tuple[str, ...]] = []
    for name, module in container.named_children():
        if has_weight(module):
            groups.append((name,))
        elif groups:
            groups[-1] = (*groups[-1], name)
    return groups


def _joined(parent: str, items: list[tuple[str, ...]], shapes: dict[str, tuple[Any, Any]], every: int) -> list[Block]:
    """Groups of `every` adjacent items that all keep the shape, in order, without overlap."""
    blocks: list[Block] = []
    run: list[tuple[str, ...]] = []
    for item in items:
        entry = shapes.get(f"{parent}.{item[0]}".lstrip("."), (None, None))[0]
        exit_ = shapes.get(f"{parent}.{item[-1]}".lstrip("."), (None, None))[1]
        run = [*run, item] if entry is not None and entry == exit_ else []
        if len(run) == every:
            blocks.append(Block(parent, tuple(name for member in run for name in member)))
            run = []
    return blocks


def _shapes(model: nn.Module, example: Any) -> dict[str, tuple[Any, Any]]:
    """Input and output shape of every module that was called exactly once; the input is its first argument."""
    seen: dict[str, tuple[Any, Any]] = {}
    twice: set[str] = set()

    def note(name: str, args: tuple[Any, ...], output: Any) -> None:
        entry = args[0].shape if args and isinstance(args[0], Tensor) else None
        twice.update({name} & set(seen))
        seen[name] = (entry, output.shape if isinstance(output, Tensor) else None)

    hooks = [
        module.register_forward_hook(lambda _, args, output, name=name: note(name, args, output))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad(), eval_mode(model):
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: shapes for name, shapes in seen.items() if name not in twice}
