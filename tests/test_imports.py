"""The rooms of the house: a folder may import from the folders before it, and from nothing after it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lightning_gradguard"

#: Folders, and modules of the root, from the lowest to the highest.
ORDER = (
    "arguments", "extras", "renamed", "tensors", "modules", "plugins", "findings", "collect", "detectors", "fixes",
    "step", "checkpoints", "remedies", "policy", "record", "protocols", "engine", "replay", "run_engine", "show",
    "tensorboard_plugin", "trainer", "alerts", "callback", "loops", "transformers", "examine", "zoo", "cli", "__main__",
)  # fmt: skip
#: Who may import Lightning, and which files must import neither torch nor Lightning.
LIGHTNING = {"trainer", "callback", "examine", "zoo", "cli"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of the modules a file imports, also inside functions; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {child for node in typing for statement in node.body for child in ast.walk(statement)}
    names: set[str] = set()
    for node in set(ast.walk(tree)) - skipped:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE or p.stem != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_folder_imports_only_from_those_before_it(path: Path) -> None:
    allowed = ORDER[: ORDER.index(room(path)) + 1]
    parts = [name.split(".") for name in imported(path) if name.startswith("lightning_gradguard.")]
    assert {part[1] for part in parts if part[1] in ORDER} <= set(allowed)


def test_every_folder_has_its_place() -> None:
    assert {room(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("folder", ["detectors", "remedies"])
def test_plugins_do_not_know_each_other(folder: str) -> None:
    for path in (PACKAGE / folder).glob("*.py"):
        if path.stem == "__init__":
            continue
        others = {n.split(".")[2] for n in imported(path) if n.startswith(f"lightning_gradguard.{folder}.")}
        assert others <= {"base", "activation_detector"}, f"{path.name} imports {others}"


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
