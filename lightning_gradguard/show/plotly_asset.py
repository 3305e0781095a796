"""Finds the JavaScript that the package `plotly` ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def plotly_js() -> bytes:
    """The content of `plotly.min.js`, found without importing plotly, which takes long.

    Raises:
        FileNotFoundError: If plotly is not installed.
    """
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("GradGuard's tab and report need plotly, which is not installed: pip install plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
