"""ACT: tensors that a module can reach without holding them: a teacher in a closure, shadow weights in a list."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

#: Packages whose objects belong to the loop, not to the step: a module reaches its Trainer, and through it everything.
LOOP = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_gradguard", "torch", "torchmetrics")


def reachable_tensors(module: nn.Module) -> list[Tensor]:
    """Every tensor that can be reached from a module's attributes, each once.

    Containers, plain objects, other modules, and the closures of functions are followed; objects of torch and Lightning
    that are no modules are not.

    Example:
        >>> student, teacher = nn.Linear(2, 1), nn.Linear(2, 1)
        >>> student.teachers = [teacher]  # so that its weights are not saved with the student's
        >>> len(reachable_tensors(student))
        4
    """
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    waiting: list[Any] = [module]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif id(value) not in seen:
            seen.add(id(value))
            waiting.extend(parts_of(value))
    return list(found.values())


def parts_of(value: Any) -> Iterator[Any]:
    """What a value holds, if it may hold tensors that a step changes."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from value
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if not is_empty(cell))
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, nn.Module) or not is_of_the_loop(value):
        yield from getattr(value, "__dict__", {}).values()


def is_empty(cell: Any) -> bool:
    """Whether a cell of a closure has not been set."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def is_of_the_loop(value: Any) -> bool:
    """Whether a value is a class, a Python module, or an object of torch or Lightning."""
    return isinstance(value, (type, ModuleType)) or type(value).__module__.partition(".")[0] in LOOP
