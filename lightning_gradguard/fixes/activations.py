"""Replacing hidden activations, whether they are modules or function calls in `forward`."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from lightning_gradguard.fixes.change import Change, Changes, recorded
from lightning_gradguard.modules.surgery import match_model, replace_module
from lightning_gradguard.modules.tracing import ActivationCall, trace


class Untraceable(ValueError):
    """An activation is a function call in a `forward` that `torch.fx` cannot rewrite.

    The message names the file and line of the call.
    """


def replace_activations(
    model: nn.Module, example: Any, new: Callable[[], nn.Module], *, only: str | None = None
) -> Changes:
    """Replaces the hidden activations of a model, in place: those whose output reaches another layer.

    A module is replaced. A function call (`torch.relu(...)` in `forward`) is rewritten by `torch.fx`. The output
    activation stays, and so does a gate such as GLU, which changes the number of units. Parameters of layers are not
    changed. PReLU adds parameters, so replace activations before you create the optimizer.

    Args:
        model: Any module that is not itself an activation.
        example: What the model is called with, as in `trace`.
        new: Creates the new activation: `nn.ELU`, or `partial(nn.LeakyReLU, 0.1)`. A common order of
            preference is ELU, leaky ReLU with a slope of 0.1 or 0.2, ReLU, tanh, sigmoid.
        only: Replace only activations of this kind, named as in torch, e.g. `"sigmoid"`. None, the default, replaces
            all.

    Returns:
        One change for each activation, named by its module, or by `file:line` for a function call.

    Raises:
        Untraceable: If a function call is in a `forward` that `torch.fx` cannot trace. Nothing has been changed.
        NothingToChange: If there is no hidden activation, or none of that kind.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())
        >>> print(*replace_activations(net, torch.zeros(1, 2), nn.ELU))
        1: sigmoid -> ELU(alpha=1.0)
        >>> net
        Sequential(
          (0): Linear(in_features=2, out_features=4, bias=True)
          (1): ELU(alpha=1.0)
          (2): Linear(in_features=4, out_features=1, bias=True)
          (3): Sigmoid()
        )

    References:
        Nair and Hinton 2010 (ReLU); Maas et al. 2013 (leaky ReLU); He et al. 2015, arXiv 1502.01852 (PReLU);
        Clevert et al. 2016, arXiv 1511.07289 (ELU); Klambauer et al. 2017, arXiv 1706.02515 (SELU).
    """
    hidden = [
        a for a in trace(model, example).activations if a.hidden and a.traits.elementwise and only in (None, a.kind)
    ]
    modules = {a.owner: a for a in hidden if a.module}
    calls = [a for a in hidden if not a.module]
    graphs = {owner: _rewritten(model.get_submodule(owner), owner, calls, new) for owner in {a.owner for a in calls}}
    changes = []
    for name, activation in modules.items():
        fresh = match_model(new(), model)
        replace_module(model, name, fresh)
        changes.append(Change(name, activation.kind, str(fresh)))
    for owner, graph in graphs.items():
        _adopt(model.get_submodule(owner), graph)
        changes += [Change(a.where, f"{a.kind} (function call)", str(new())) for a in calls if a.owner == owner]
    return recorded(changes, "replace_activations(model)", f"hidden {only or ''} activations".replace("  ", " "))


class _OneForward(fx.Tracer):
    """Traces one `forward` only: the modules that it calls stay calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _rewritten(
    owner: nn.Module, name: str, calls: list[ActivationCall], new: Callable[[], nn.Module]
) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The owner's `forward` as a graph in which its hidden activations are modules, and these modules.

    Changes nothing.
    """
    mine = [a for a in calls if a.owner == name]
    where = ", ".join(f"{a.kind} at {a.where}" for a in mine)
    try:
        graph = _OneForward().trace(owner)
    except Exception as error:
        raise Untraceable(
            f"`replace_activations(model)` cannot rewrite {where}: torch.fx cannot trace that `forward` "
            f"({error}). Use an activation module there, such as `self.act = nn.ReLU()`."
        ) from error
    kinds = {a.kind for a in mine}
    nodes = [n for n in graph.nodes if n.op in ("call_function", "call_method") and _kind(n) in kinds]
    if len(nodes) < len(mine):
        raise Untraceable(
            f"`replace_activations(model)` cannot rewrite {where}: torch.fx found only {len(nodes)} of these calls. "
            "Use activation modules there, such as `self.act = nn.ReLU()`."
        )
    fresh: dict[str, nn.Module] = {}
    # An output activation of the same kind runs after the last hidden one: the first nodes are the hidden ones.
    for position, node in enumerate(nodes[: len(mine)]):
        attribute = f"replaced_{_kind(node)}_{position}"
        fresh[attribute] = match_model(new(), owner)
        with graph.inserting_after(node):
            replacement = graph.call_module(attribute, (node.args[0] if node.args else node.kwargs["input"],))
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    return graph, fresh


def _kind(node: fx.Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(name).strip("_")


def _adopt(owner: nn.Module, rewritten: tuple[fx.Graph, dict[str, nn.Module]]) -> None:
    """Gives the owner its new `forward`. The object, its class and its parameters stay the same."""
    graph, fresh = rewritten
    for attribute, module in fresh.items():
        owner.add_module(attribute, module)
    graph.lint()
    compiled = fx.GraphModule(owner, graph, class_name=type(owner).__name__)
    owner.forward = types.MethodType(type(compiled).forward, owner)
