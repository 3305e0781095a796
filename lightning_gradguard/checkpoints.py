"""Loading checkpoints of models that were changed during training."""

from __future__ import annotations

from typing import Any, TypeVar
from unittest import mock

from lightning_gradguard.step.model_changes import follow_changes

M = TypeVar("M")


def load(module: type[M], checkpoint_path: Any, **kwargs: Any) -> M:
    """Loads a checkpoint of a run whose model GradGuard may have changed: `module.load_from_checkpoint`, rebuilt.

    `fit(ckpt_path=...)` with a `GradGuard` among the callbacks does the same. Checkpoints of other runs load as ever.

    Args:
        module: The LightningModule's class.
        checkpoint_path: As for `load_from_checkpoint`.
        kwargs: As for `load_from_checkpoint`: `map_location`, `strict`, arguments of the module.

    Raises:
        ValueError: If the model is not the one that was trained.

    Example::

        model = lightning_gradguard.load(MyModule, "lightning_logs/version_0/checkpoints/last.ckpt")
    """
    original: Any = module.load_state_dict  # type: ignore[attr-defined]

    def load_state_dict(self: Any, *args: Any, **options: Any) -> Any:
        end = follow_changes(self)
        try:
            return original(self, *args, **options)
        finally:
            end()

    with mock.patch.object(module, "load_state_dict", load_state_dict):
        return module.load_from_checkpoint(checkpoint_path, **kwargs)  # type: ignore[attr-defined, no-any-return]
