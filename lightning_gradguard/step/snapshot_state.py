"""ACT: snapshots as plain values, for a checkpoint from which a run must still be able to roll back."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from lightning_gradguard.step.snapshots import Snapshot, Snapshots
from lightning_gradguard.tensors.copies import optimizer_params
from lightning_gradguard.tensors.shards import local


def save_snapshots(snapshots: Snapshots) -> dict[str, Any]:
    """Copies of all snapshots that are held, as dicts, lists, numbers and tensors."""
    ring = [{field.name: plain(getattr(s, field.name)) for field in fields(s)} for s in snapshots.ring]
    return {"ring": ring, "tries": snapshots.tries}


def load_snapshots(snapshots: Snapshots, state: dict[str, Any]) -> None:
    """The reverse of `save_snapshots`.

    Raises:
        ValueError: If they are of another model.
    """
    ring = [Snapshot(**{**saved, "params": tuple(saved["params"])}) for saved in state["ring"]]
    present = [local(p).shape for p in optimizer_params(snapshots.optimizer)]
    if any([p.shape for p in snapshot.params] != present for snapshot in ring):
        raise ValueError("its snapshots have weights of other shapes than the optimizer")
    snapshots.ring, snapshots.tries = ring, int(state["tries"])


def plain(value: Any) -> Any:
    """A copy that later snapshots do not overwrite."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
