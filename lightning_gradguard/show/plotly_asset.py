"""plotly's script, as its package ships it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def plotly_js() -> bytes:
    """`plotly.min.js` as the package ships it, found without importing plotly."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("The package `plotly` is needed for GradGuard's tab: pip install plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()
