"""ACT: what remedies have changed in a model, as plain values that are saved with its weights and rebuilt from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gradguard.fixes.standardize import RunningStandardize
from lightning_gradguard.modules.surgery import match_model, replace_module

#: An entry of a changed model's `state_dict` beside its weights; where nobody expects it, torch's error names it.
KEY = "gradguard: this model was changed during training; load it by `lightning_gradguard.load(Module, path)`"
_ATTRIBUTE = "_gradguard_changes"
#: Where the code of a change belongs.
INIT, OPTIMIZERS = "__init__", "configure_optimizers"


@dataclass(frozen=True)
class NewModule:
    """A module by its class and its arguments, so that a checkpoint can say how it is built.

    Args:
        name: A class of `torch.nn`, or `"RunningStandardize"`.
        arguments: Its keyword arguments: numbers, text, booleans.
        place: `"instead"` of the module that is there, or `"before"` or `"after"` it in an `nn.Sequential`.

    Example:
        >>> NewModule("LayerNorm", {"normalized_shape": 4, "elementwise_affine": False}).code
        'nn.LayerNorm(normalized_shape=4, elementwise_affine=False)'
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    place: str = "instead"

    @property
    def code(self) -> str:
        """The call that builds it."""
        package = "nn" if hasattr(nn, self.name) else "fixes"
        return f"{package}.{self.name}({', '.join(f'{key}={value!r}' for key, value in self.arguments.items())})"

    def build(self, model: nn.Module) -> nn.Module:
        """Builds it for a model: on its device and, if it has parameters, in their dtype.

        Raises:
            ValueError: If there is no such class. A checkpoint cannot name others than those of `torch.nn`.
        """
        cls = RunningStandardize if self.name == RunningStandardize.__name__ else getattr(nn, self.name, None)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise ValueError(
                f"`NewModule(name=...)` must be the name of a module in torch.nn or 'RunningStandardize', got "
                f"{self.name!r}: the checkpoint does not say how to build it. Exchange it by hand before loading."
            )
        new = cls(**self.arguments)
        if any(True for _ in new.parameters()):
            return match_model(new, model)
        device = next((p.device for p in model.parameters()), None)
        return new.train(model.training).to(device)

    def joined(self, old: nn.Module, model: nn.Module) -> nn.Module:
        """What takes the place of `old`."""
        new = self.build(model)
        if self.place == "instead":
            return new
        return nn.Sequential(new, old) if self.place == "before" else nn.Sequential(old, new)


@dataclass(frozen=True)
class CodeChange:
    """A change that a remedy has made, as the code that makes it.

    Args:
        code: What to write so that the next run begins with the change.
        method: The method of the module that it belongs to: `"__init__"`, at its end, or `"configure_optimizers"`.
        was: What was there before.
        subject: What is set, e.g. `"optimizer lr"`: a later change of the same, or of all that begins with its subject
            (`"optimizer"`), replaces this one. Empty when both count.
        path: Dotted name of the module that was exchanged, if it is one.
        old: Class of the module that was there.
        new: What was put there, as fields of a `NewModule`.

    Example:
        >>> print(CodeChange("self.net[1] = nn.SELU()", was="Sigmoid()"))
        self.net[1] = nn.SELU()  # was Sigmoid()
    """

    code: str
    method: str = INIT
    was: str = ""
    subject: str = ""
    path: str = ""
    old: str = ""
    new: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}  # was {self.was}" if self.was else self.code

    @classmethod
    def exchange(cls, path: str, old: nn.Module, new: NewModule) -> CodeChange:
        """The exchange of a module."""
        name = expression(path)
        parts = {"instead": "{new}", "before": "nn.Sequential({new}, {old})", "after": "nn.Sequential({old}, {new})"}
        code = f"{name} = {parts[new.place].format(new=new.code, old=name)}"
        was = str(old) if new.place == "instead" else ""
        return cls(code, was=was.splitlines()[0] if was else "", path=path, old=type(old).__name__, new=asdict(new))

    def rebuild(self, model: nn.Module) -> None:
        """Makes the exchange in another instance, unless its code has been changed already.

        Raises:
            ValueError: If the model has another module there.
        """
        new, present = NewModule(**self.new), model.get_submodule(self.path)
        became = new.name if new.place == "instead" else nn.Sequential.__name__
        if type(present).__name__ not in (self.old, became):
            raise ValueError(
                f"GradGuard has changed {self.path!r} from {self.old} to {became} before the checkpoint was saved, but "
                f"the model has a {type(present).__name__} there: give the model that was trained."
            )
        if type(present).__name__ == self.old:
            replace_module(model, self.path, new.joined(present, model))


def expression(path: str) -> str:
    """A submodule's dotted name as Python code.

    Example:
        >>> expression("net.0.layers.head-1")
        "self.net[0].layers['head-1']"
    """
    parts = [f"[{p}]" if p.isdigit() else f".{p}" if p.isidentifier() else f"[{p!r}]" for p in path.split(".")]
    return "self" + "".join(parts)


# -------------------------------------------------------------------- kept by the model, and saved with its weights


def changes_of(model: nn.Module) -> list[CodeChange]:
    """The changes that are in force in a model, in order; to be changed in place."""
    follow_changes(model)
    changes: list[CodeChange] = vars(model)[_ATTRIBUTE]
    return changes


def record_change(model: nn.Module, change: CodeChange) -> None:
    """Adds a change to those of a model."""
    changes = changes_of(model)
    changes[:] = [c for c in changes if not (change.subject and c.subject.startswith(change.subject))] + [change]


def exchanges(changes: Iterable[CodeChange]) -> list[CodeChange]:
    """Those without which the weights belong to another network."""
    return [change for change in changes if change.path]


def follow_changes(model: nn.Module) -> Callable[[], None]:
    """Saves and loads a model's changes with its weights from now on.

    Returns:
        Ends that again, unless there are such changes.
    """
    if _ATTRIBUTE in vars(model):
        return lambda: None
    vars(model)[_ATTRIBUTE] = []
    handles = (
        model.register_state_dict_post_hook(_write),
        model.register_load_state_dict_pre_hook(_read),
    )

    def end() -> None:
        if _ATTRIBUTE in vars(model) and not exchanges(vars(model)[_ATTRIBUTE]):
            del vars(model)[_ATTRIBUTE]
            for handle in handles:
                handle.remove()

    return end


def _write(model: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    if made := exchanges(changes_of(model)):
        state_dict[prefix + KEY] = torch.tensor(list(json.dumps([asdict(c) for c in made]).encode()), dtype=torch.uint8)


def _read(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    saved: Tensor | None = state_dict.pop(prefix + KEY, None)
    wanted = [CodeChange(**plain) for plain in json.loads(bytes(saved.tolist()))] if saved is not None else []
    made = exchanges(changes_of(model))
    if wanted[: len(made)] != made:
        raise RuntimeError(
            "The weights are from before GradGuard changed this model "
            f"({'; '.join(str(change) for change in made)}): load them into a new instance."
        )
    for change in wanted[len(made) :]:
        change.rebuild(model)
        record_change(model, change)
