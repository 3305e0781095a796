"""The conda recipe names what pyproject.toml names."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

import lightning_gradguard

if sys.version_info < (3, 11):
    pytest.skip("reads pyproject.toml with tomllib", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parent.parent
#: Names that conda has another one for.
CONDA = {"torch": "pytorch"}


def recipe() -> dict[str, Any]:
    text = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(jinja2.Template(text).render(PYTHON="python"))  # type: ignore[no-any-return]


def as_conda(requirement: str) -> str:
    name, bounds = re.match(r"([\w-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
    return f"{CONDA.get(name, name)} {bounds}"


def test_the_recipe_agrees_with_the_project() -> None:
    project, made = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")), recipe()
    meta, needs = project["project"], made["requirements"]
    python = f"python {meta['requires-python']}"
    assert (made["package"]["name"], made["package"]["version"]) == (meta["name"], lightning_gradguard.__version__)
    assert needs["run"] == [python, *map(as_conda, meta["dependencies"])]
    assert needs["host"] == [python, *map(as_conda, project["build-system"]["requires"]), "pip"]
    assert made["build"]["entry_points"] == [f"{name} = {target}" for name, target in meta["scripts"].items()]
    assert (made["about"]["summary"], made["about"]["license"]) == (meta["description"], meta["license"])
    assert [made["about"]["license_file"]] == meta["license-files"]
