"""README and the other pages: complete tables, existing commands, examples that run, whole links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_gradguard import detectors, remedies
from lightning_gradguard.cli import COMMANDS
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.remedies import AbstractRemedy

ROOT = Path(__file__).parent.parent
PAGES = (".md", ".ipynb")
PATHS = "README.md", "docs/symptoms/index.md", "docs/reference/remedies.md"
README, SYMPTOMS, REMEDIES = ((ROOT / path).read_text(encoding="utf-8") for path in PATHS)


def exported(package: object, base: type) -> list[type]:
    found = [getattr(package, name) for name in package.__all__]  # type: ignore[attr-defined]
    return [cls for cls in found if isinstance(cls, type) and issubclass(cls, base) and cls is not base]


def test_every_detector_and_remedy_has_its_row() -> None:
    for cls in exported(detectors, AbstractDetector):
        assert re.search(rf"^\| `{cls.__name__}` \| `{cls.kind}` \| \S", SYMPTOMS, re.M), f"no row for {cls.__name__}"  # type: ignore[attr-defined]
    for cls in exported(remedies, AbstractRemedy):
        assert re.search(rf"^\| `{cls.__name__}` \| \S", REMEDIES, re.M), f"no row for {cls.__name__}"


def test_rows_name_things_that_exist() -> None:
    known = {*detectors.__all__, *remedies.__all__}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", SYMPTOMS + REMEDIES, re.M)) <= known


def test_readme_counts_detectors_and_remedies() -> None:
    counted = len(exported(detectors, AbstractDetector)), len(exported(remedies, AbstractRemedy))
    assert re.findall(r"(\d+) \[(?:detectors|remedies)\]", README) == list(map(str, counted))


def test_readme_can_be_read_to_the_end() -> None:
    assert len(README.split()) <= 900


def test_commands_in_readme_exist() -> None:
    used = {" ".join(match.split()[:2]) for match in re.findall(r"^gradguard ([a-z]+(?: [a-z]+)?)", README, re.M)}
    for command in used:
        assert any(command == name or command.split()[0] == name.split()[0] for name in COMMANDS), command


def test_the_two_commands_stand_in_readme() -> None:
    assert "pip install -c constraints.txt '.[cli,zoo]' && gradguard demo" in README
    assert "pip install -c constraints.txt '.[test]' && pytest" in README
    assert (ROOT / "constraints.txt").read_text().split() == ["torch==2.13.0"]


def test_readme_example_prints_what_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S).groups()  # type: ignore[union-attr]
    exec(code, {})
    assert capsys.readouterr().out.endswith(printed)


def cells_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables in a text, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {first: cells for first, *cells in rows}


#: Rows of README, and the section and row of RESULTS.md with their figures.
FIGURES = {
    "ten NaN batches": ("faults", "ten NaN batches"),
    "LR x1000 from then on": ("faults", "LR x1000 from then on"),
    "BatchNorm, inputs x1e4, one batch": ("faults", "BatchNorm, inputs x1e4, one batch"),
    "published, curable inside: repaired": ("field", "curable inside: repaired"),
    "published, fixed versions: harmed": ("field", "fixed versions: harmed"),
    "mutants that ruin their run: repaired": ("mutants", "killed: repaired"),
    "mutants that do not: harmed": ("mutants", "survivors: harmed"),
    "GPT, learning rate x 30": ("language model", "learning rate x 30"),
}


def test_figures_in_readme_are_those_of_the_results() -> None:
    results, readme = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"), cells_of(README)
    for row, (section, label) in FIGURES.items():
        measured = cells_of(results.partition(f"<!-- {section} -->\n")[2].partition("<!-- end of")[0])[label]
        shown = readme[row]
        for cell, figure in zip(shown[::-1], measured[::-1], strict=False):
            assert cell in ("-", "0") or re.search(rf"(^|\s){re.escape(cell)}(\s|$)", figure), (row, cell, figure)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_links_between_files_are_whole(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"])
def test_links_of_other_pages_are_whole(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_contributing_names_every_folder_of_the_package() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [p.name + "/" if p.is_dir() else p.name for p in (ROOT / "lightning_gradguard").iterdir()]
    for room in rooms:
        assert room.startswith("__") or room == "py.typed" or f"`{room}`" in page, room


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"[\w./]+\.(?:md|ipynb)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*") if page.suffix in PAGES}
    assert not pages - set(listed), "add these pages to `nav` in mkdocs.yml"
