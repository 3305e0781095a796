"""Cases and fixes of another package are added; broken ones are left out with a warning."""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lightning_gradguard import fixes, zoo

MODULE = """
from dataclasses import replace
from lightning_gradguard import zoo
from lightning_gradguard.fixes import Change

CASE = replace(zoo.get_case("lr_too_low"), name="tiny_case", title="from outside")

def tiny_fix(model):
    return (Change("", "before", "after"),)
"""
ENTRY_POINTS = {
    "lightning_gradguard.zoo": {
        "tiny": "tiny_zoo", "broken": "tiny_zoo.missing", "number": "tiny_zoo:tiny_fix", "taken": "tiny_taken",
    },
    "lightning_gradguard.fixes": {"tiny_fix": "tiny_zoo:tiny_fix", "he": "tiny_zoo:tiny_fix"},
}  # fmt: skip


def write_project(folder: Path) -> None:
    (folder / "tiny_zoo.py").write_text(MODULE)
    (folder / "tiny_taken.py").write_text("from lightning_gradguard.zoo.cases.lr_too_low import CASE\n")
    lines = [
        "[build-system]", 'requires = ["hatchling"]', 'build-backend = "hatchling.build"',
        "[project]", 'name = "tiny-zoo"', 'version = "1.0"',
        "[tool.hatch.build.targets.wheel]", 'only-include = ["tiny_zoo.py", "tiny_taken.py"]',
    ]  # fmt: skip
    for group, points in ENTRY_POINTS.items():
        lines += [f'[project.entry-points."{group}"]', *(f'{name} = "{target}"' for name, target in points.items())]
    (folder / "pyproject.toml").write_text("\n".join(lines))


def install(project: Path, target: Path) -> None:
    """Installs with pip and hatchling where available; otherwise writes the files that an installer would write."""
    if importlib.util.find_spec("hatchling") and importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*pip, "--target", str(target), str(project)], check=True, capture_output=True, timeout=120)
        return
    info = target / "tiny_zoo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-zoo\nVersion: 1.0\n")
    points = [f"[{group}]\n" + "\n".join(f"{n} = {t}" for n, t in p.items()) for group, p in ENTRY_POINTS.items()]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    for name in ("tiny_zoo.py", "tiny_taken.py"):
        (target / name).write_text((project / name).read_text())


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch):
    project, target = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    write_project(project)
    install(project, target)
    monkeypatch.syspath_prepend(str(target))
    yield
    for name in ("tiny_zoo", "tiny_taken"):
        sys.modules.pop(name, None)


def test_cases_are_added_and_broken_ones_are_reported(tiny_zoo):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = [case.name for case in zoo.list_cases()]
    messages = " ".join(str(warning.message) for warning in caught)
    assert names[-1] == "tiny_case"
    assert names.count("lr_too_low") == 1
    assert "'broken' of tiny-zoo (lightning_gradguard.zoo: tiny_zoo.missing) cannot be loaded" in messages
    assert "ModuleNotFoundError" in messages
    assert "'number' is left out" in messages
    assert "there is already a case 'lr_too_low'" in messages


@pytest.mark.filterwarnings("ignore")
def test_a_case_of_a_plugin_can_be_run(tiny_zoo):
    result = zoo.run_case("tiny_case", accelerator="cpu", max_steps=5)
    assert (result.case, result.steps) == ("tiny_case", 5)


def test_fixes_are_added_and_never_replace_existing_ones(tiny_zoo):
    with pytest.warns(UserWarning, match="'he' is left out: its name is taken"):
        found = fixes.list_fixes()
    assert found["tiny_fix"](None)[0].after == "after"
    assert found["he"] is fixes.he
    assert "tiny_fix" not in fixes.__all__


def test_without_plugins_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "tiny_case" not in [case.name for case in zoo.list_cases()]
