"""Published cures for gradient problems, as functions on a model, an optimizer or a data loader.

Each function returns what it changed, layer by layer, and raises `NothingToChange` when it finds nothing to change.
Third parties add theirs by the entry-point group `gradguard.fixes`; `list_fixes` returns all of them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_gradguard.fixes.activations import Untraceable, replace_activations
from lightning_gradguard.fixes.change import Change, Changes, NothingToChange
from lightning_gradguard.fixes.clipping import clip_adaptive, clip_by_norm, clip_by_value
from lightning_gradguard.fixes.depth import remove_layers
from lightning_gradguard.fixes.initialization import glorot, he, lecun, orthogonal, small_random
from lightning_gradguard.fixes.inputs import Standardize, normalize_inputs
from lightning_gradguard.fixes.normalization import add_batch_norm, add_layer_norm, pre_norm
from lightning_gradguard.fixes.optimization import scale_lr, set_batch_size, set_weight_decay, switch_optimizer
from lightning_gradguard.fixes.pretraining import RBM, pretrain, train_rbm
from lightning_gradguard.fixes.recurrent import orthogonal_recurrent, replace_rnn, set_forget_bias
from lightning_gradguard.fixes.residual import Residual, add_residual
from lightning_gradguard.fixes.standardize import RunningStandardize
from lightning_gradguard.modules.activations import gain_of
from lightning_gradguard.modules.tracing import trace
from lightning_gradguard.plugins import load_plugins

__all__ = [
    "RBM",
    "Change",
    "Changes",
    "NothingToChange",
    "Residual",
    "RunningStandardize",
    "Standardize",
    "Untraceable",
    "add_batch_norm",
    "add_layer_norm",
    "add_residual",
    "clip_adaptive",
    "clip_by_norm",
    "clip_by_value",
    "gain_of",
    "glorot",
    "he",
    "lecun",
    "list_fixes",
    "normalize_inputs",
    "orthogonal",
    "orthogonal_recurrent",
    "pre_norm",
    "pretrain",
    "remove_layers",
    "replace_activations",
    "replace_rnn",
    "scale_lr",
    "set_batch_size",
    "set_forget_bias",
    "set_weight_decay",
    "small_random",
    "switch_optimizer",
    "trace",
    "train_rbm",
]

_FIXES: tuple[Callable[..., Any], ...] = (
    *(glorot, he, lecun, orthogonal, small_random, set_forget_bias, orthogonal_recurrent),
    *(replace_activations, add_batch_norm, add_layer_norm, pre_norm, add_residual, replace_rnn, remove_layers),
    *(normalize_inputs, scale_lr, set_weight_decay, switch_optimizer, set_batch_size),
    *(clip_by_norm, clip_by_value, clip_adaptive, pretrain),
)


def list_fixes() -> dict[str, Callable[..., Any]]:
    """Every fix by name: those of this package, then those of installed distributions (`gradguard.fixes`).

    Example:
        >>> "he" in list_fixes()
        True
    """
    own = {fix.__name__: fix for fix in _FIXES}
    return own | {name: plugin.offer for name, plugin in load_plugins("gradguard.fixes", _as_fix, own).items()}


def _as_fix(name: str, loaded: Any) -> tuple[str, Callable[..., Any]]:
    if not callable(loaded):
        raise TypeError("a fix must be callable")
    return name, loaded
