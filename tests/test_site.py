"""The site: every detector and zoo case has its place and its picture; what hooks make of a page is true."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_gradguard import detectors, remedies, zoo
from lightning_gradguard.detectors import AbstractDetector

DOCS = Path(__file__).parent.parent / "docs"
SYMPTOMS = [page.read_text(encoding="utf-8") for page in sorted((DOCS / "symptoms").glob("*.md"))]


def arguments_of(macro: str, text: str) -> list[str]:
    return re.findall(r'"(\w+)"', " ".join(re.findall(rf"\{{\{{ {macro}\((.*?)\) \}}\}}", text)))


def test_every_detector_is_on_one_page_of_symptoms() -> None:
    exported = [name for name in detectors.__all__ if isinstance(getattr(detectors, name), type)]
    wanted = [name for name in exported if issubclass(getattr(detectors, name), AbstractDetector)]
    named = [name for page in SYMPTOMS for name in arguments_of("detectors", page)]
    assert sorted(named) == sorted(set(wanted) - {"AbstractDetector"})


def test_every_case_has_a_picture_and_a_page_of_symptoms() -> None:
    cases = {case.name for case in zoo.list_cases()}
    pictures = list((DOCS / "img" / "runs").glob("*.png"))
    assert {picture.stem for picture in pictures} == cases | {"injected_faults", "repaired", "experiment"}
    assert sum(picture.stat().st_size for picture in pictures) < 2e6
    assert {name for page in SYMPTOMS for name in arguments_of("cures", page)} == cases


def test_the_versions_are_those_of_the_package() -> None:
    page, project = (DOCS / "versions.md").read_text(), (DOCS.parent / "pyproject.toml").read_text()
    for name, title in {
        "torch": "PyTorch",
        "pytorch-lightning": "`pytorch-lightning`",
        "tensorboard": "TensorBoard",
    }.items():
        (lower,) = re.findall(rf'^  "{name}>=([\d.]+)', project, re.M)
        assert re.search(rf"^\| {title}.* \| {re.escape(lower)} and later", page, re.M), name


def test_every_public_name_is_in_the_reference() -> None:
    import lightning_gradguard

    reference = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    for name in set(lightning_gradguard.__all__) - {"__version__"}:
        assert re.search(rf"\b{name}\b", reference), name


@pytest.fixture(scope="module")
def hooks() -> Any:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_ladder_in_words(hooks: Any) -> None:
    policy = hooks.Policy({"a": [None, *[remedies.SkipStep()] * 2, remedies.Stop()]})
    link = "[`{0}`][lightning_gradguard.remedies.{0}]"
    skip, stop = link.format("SkipStep"), link.format("Stop")
    assert hooks.ladder(policy, "a") == f"finding 1: nothing; findings 2 to 3: {skip}; from finding 4 on: {stop}"
    assert hooks.ladder(policy, "b") == "reports it"


def test_links_out_of_docs_stay_within_the_site(hooks: Any) -> None:
    page = DOCS / "symptoms" / "exploding.md"
    assert hooks.link_in_site(page, "../../benchmarks/RESULTS.md") == "../benchmarks/RESULTS.md"
    assert hooks.link_in_site(page, "/docs/gallery.md") == "../gallery.md"
    assert hooks.link_in_site(DOCS.parent / "README.md", "docs/tab.md") == "tab.md"


def test_a_section_says_what_the_docstring_says(hooks: Any) -> None:
    section = hooks.detectors("Exploding")
    assert section.startswith("### Exploding (`exploding`)\n\nReports a gradient norm")
    assert "Args:" not in section
    assert "from finding 51 on: [`Stop`]" in section
