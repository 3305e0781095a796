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
README = (ROOT / "README.md").read_text(encoding="utf-8")


def exported(package: object, base: type) -> list[type]:
    found = [getattr(package, name) for name in package.__all__]  # type: ignore[attr-defined]
    return [cls for cls in found if isinstance(cls, type) and issubclass(cls, base) and cls is not base]


def test_every_detector_and_remedy_has_its_row() -> None:
    for cls in exported(detectors, AbstractDetector):
        assert re.search(rf"^\| `{cls.__name__}` \| `{cls.kind}` \| \S", README, re.M), f"no row for {cls.__name__}"  # type: ignore[attr-defined]
    for cls in exported(remedies, AbstractRemedy):
        assert re.search(rf"^\| `{cls.__name__}` \| \S", README, re.M), f"no row for {cls.__name__}"


def test_rows_name_things_that_exist() -> None:
    known = {*detectors.__all__, *remedies.__all__}
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", README, re.M)) <= known


def test_commands_in_readme_exist() -> None:
    used = {" ".join(match.split()[:2]) for match in re.findall(r"^gradguard ([a-z]+(?: [a-z]+)?)", README, re.M)}
    for command in used:
        assert any(command == name or command.split()[0] == name.split()[0] for name in COMMANDS), command


def test_the_two_commands_stand_in_readme() -> None:
    assert "pip install -c constraints.txt '.[cli,zoo]' && gradguard demo" in README
    assert "pip install -c constraints.txt '.[test]' && pytest" in README
    assert (ROOT / "constraints.txt").read_text().split() == ["torch==2.13.0"]


def test_readme_example_runs(tmp_path: Path) -> None:
    import pytorch_lightning as pl
    from runs import Net, loader

    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "Policy(" in block)

    def trainer(callbacks: list[object]) -> pl.Trainer:
        return pl.Trainer(
            callbacks=callbacks, max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False,
            enable_model_summary=False, logger=False,
        )  # fmt: skip

    names: dict[str, object] = {"Trainer": trainer, "module": Net(), "loader": loader()}
    exec(code, names)
    assert names["guard"].incidents == ()  # type: ignore[attr-defined]


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
