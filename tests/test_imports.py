"""The house's layers: imports run one way, downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_gradguard"

#: Room -> its layer. A module imports from lower layers only.
LAYERS = {
    "findings": 1, "lr_scale": 1, "shards": 1, "adaptive_update": 1, "fixes": 1, "progress": 1, "norms": 1,
    "plain": 1,
    "layers": 2, "look": 2, "trainer": 2, "snapshots": 2, "batch_look": 2,
    "stats": 3, "probes": 3, "batch_state": 3, "checkpoint": 3,
    "collector": 4, "trial": 4, "seen": 4,
    "course": 5, "detectors": 5,
    "pending": 6,
    "remedies": 7,
    "policy": 8,
    "presets": 9, "episodes": 9, "report": 9, "recording": 9,
    "tensorboard_plugin": 10,
    "watch": 11, "logbook": 11, "replay": 11, "html_report": 11,
    "guard": 12,
    "zoo": 13, "demo": 13, "terminal": 13,
    "cli": 14,
}  # fmt: skip
#: The only rooms that may import Lightning, and those that must import neither torch nor Lightning.
LIGHTNING = {"guard", "zoo", "demo"}
LIGHT = ["findings.py", "__init__.py", "tensorboard_plugin/plugin.py", "tensorboard_plugin/metadata.py"]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of the modules a file imports, also inside functions; not those for type checkers alone."""
    names: set[str] = set()
    skipped: set[ast.AST] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py" or p.parent != PACKAGE]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    mine = room(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "lightning_gradguard" or len(parts) < 2 or parts[1] not in LAYERS or parts[1] == mine:
            continue
        theirs = LAYERS[parts[1]]
        assert theirs < LAYERS[mine], f"{mine} (layer {LAYERS[mine]}) imports {parts[1]} (layer {theirs})"


@pytest.mark.parametrize("folder", ["detectors", "remedies"])
def test_plugins_do_not_know_each_other(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        if path.name == "__init__.py":
            continue
        others = {n.split(".")[2] for n in imported(path) if n.startswith(f"lightning_gradguard.{folder}.")}
        assert others <= {"base", "inside"}, f"{path.name} imports {others}"


def test_every_room_has_a_layer() -> None:
    assert {room(path) for path in FILES} <= set(LAYERS)


def test_only_the_shell_imports_lightning() -> None:
    for path in FILES:
        touches = {n.split(".")[0] for n in imported(path)} & {"lightning", "pytorch_lightning"}
        assert not touches or room(path) in LIGHTNING, f"{path.name} imports Lightning"


def test_the_tensorboard_backend_loads_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, lightning_gradguard, lightning_gradguard.tensorboard_plugin.plugin;"
        "print(sorted({'torch', 'pytorch_lightning', 'lightning', 'plotly'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
