"""Optional packages: one sentence that says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Package that is imported -> what installs it.
INSTALLS = {
    "PIL": "pillow",
    "jsonargparse": "lightning-gradguard[cli]",
    "pandas": "pandas",
    "plotly": "plotly",
    "rich": "lightning-gradguard[cli]",
    "sklearn": "lightning-gradguard[zoo]",
    "tensorboard": "tensorboard",
}


@contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Imports of optional packages; one that is not installed is named with the command that installs it.

    Args:
        what: What the packages are for, as the sentence begins.

    Raises:
        ImportError: If one of them is not installed.

    Example:
        >>> with needed_for("The zoo"):
        ...     raise ModuleNotFoundError(name="sklearn")
        Traceback (most recent call last):
        ImportError: The zoo needs sklearn, which is not installed: pip install 'lightning-gradguard[zoo]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in INSTALLS:
            raise
        raise ImportError(
            f"{what} needs {package}, which is not installed: pip install '{INSTALLS[package]}'"
        ) from error
