"""What MkDocs does with a page before it renders it (`hooks` in mkdocs.yml).

* Files outside of `docs` that a page links to are pages and files of the site, too; README is its first page. A link
  that begins with `/` is relative to the repository.
* `{{ detectors("Exploding") }}` and the other functions in `MACROS` are replaced by text that is made from the code, so
  that no page repeats what a docstring, a ladder or a table says.
"""

from __future__ import annotations

import doctest
import inspect
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from mkdocs.structure.files import File, Files

import lightning_gradguard.detectors
from lightning_gradguard import PROTECT, REPAIR, Policy, zoo
from lightning_gradguard.detectors import AbstractDetector
from lightning_gradguard.policy.presets import CURES
from lightning_gradguard.remedies import list_remedies
from lightning_gradguard.zoo.tables import WRAPPED_LINE

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


# ---------------------------------------------------------------- hooks


def on_files(files: Files, config: Any) -> Files:
    """Adds README, and what pages link to outside of `docs`."""
    waiting = [ROOT / "README.md", *(Path(file.abs_src_path or "") for file in files.documentation_pages())]
    for source in waiting:
        for path in (source, *linked_files(source)):
            if files.get_file_from_path(site_path(path)) is None:
                files.append(File.generated(config, site_path(path), abs_src_path=str(path)))
                waiting += [path] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in the macros, then makes links relative to the site."""
    if "{{ " in markdown:
        markdown = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(markdown).render(MACROS)
    source = Path(page.file.abs_src_path)
    return LINK.sub(lambda match: link_in_site(source, match[1]), markdown)


def linked_files(source: Path) -> Iterator[Path]:
    for match in LINK.finditer(source.read_text(encoding="utf-8")):
        target = linked_file(source, match[1])
        if target.is_file():
            yield target


def linked_file(source: Path, link: str) -> Path:
    return (ROOT / link[1:] if link.startswith("/") else source.parent / link).resolve()


def link_in_site(source: Path, link: str) -> str:
    target = linked_file(source, link)
    return os.path.relpath(site_path(target), Path(site_path(source)).parent) if target.is_file() else link


def site_path(path: Path) -> str:
    """Where a file of the repository is in the site."""
    name = path.relative_to(ROOT).as_posix()
    return "index.md" if name == "README.md" else name.removeprefix("docs/")


# ---------------------------------------------------------------- text that is made from the code


def detectors(*names: str) -> str:
    """A section for each detector: what it reports, an example, and what the policies do about it."""
    return "\n\n".join(detector_section(getattr(lightning_gradguard.detectors, name)) for name in names)


def detector_section(cls: type[AbstractDetector]) -> str:
    doc = inspect.getdoc(cls) or ""
    told = re.split(r"^(?:Args|Raises|Example|References):$", doc, maxsplit=1, flags=re.M)[0].strip()
    example = doctest.DocTestParser().get_examples(doc)[-1].want.strip()
    rows = [f'| `"{policy.name}"` | {ladder(policy, cls.kind)} |' for policy in (PROTECT, REPAIR)]
    return "\n\n".join(
        [
            f"### {cls.__name__} (`{cls.kind}`)",
            told,
            f"```text\n{example}\n```",
            "\n".join(["| policy | what is done |", "|---|---|", *rows]),
            *advice(cls.kind),
            f"[Settings and their sources][lightning_gradguard.detectors.{cls.__name__}]",
        ]
    )


def ladder(policy: Policy, kind: str) -> str:
    """What a policy does at the first, second, ... finding of a kind."""
    rungs, start, parts = policy.rungs.get(kind, ()), 1, list[str]()
    for rung, group in itertools.groupby(rungs):
        end = start + len(list(group)) - 1
        where = (
            f"findings {start} to {end}" if end < len(rungs) else f"from finding {start} on" if start > 1 else "always"
        )
        names = ", ".join(f"[`{name}`][lightning_gradguard.remedies.{name}]" for name in map(class_name, rung or ()))
        parts.append(f"{where.replace(f's {end} to {end}', f' {end}')}: {names or 'nothing'}")
        start = end + 1
    return "; ".join(parts) or "reports it"


def remedies() -> str:
    """Every remedy, the kinds whose ladders hold it in a preset, and whether experiments try it."""
    rungs = [
        (kind, rung) for kind, ladder in [*PROTECT.rungs.items(), *REPAIR.rungs.items()] for rung in ladder if rung
    ]
    tried = {class_name(remedy) for trial in CURES for remedy in trial}
    rows = ["| remedy | answers | is tried in experiments |", "|---|---|---|"]
    for name in list_remedies():
        kinds = dict.fromkeys(f"`{kind}`" for kind, rung in rungs if name in map(class_name, rung))
        link = f"[`{name}`][lightning_gradguard.remedies.{name}]"
        rows.append(f"| {link} | {', '.join(kinds)} | {'yes' if name in tried else ''} |")
    return "\n".join(rows)


def class_name(value: object) -> str:
    return type(value).__name__


def advice(kind: str) -> list[str]:
    """What an incident advises to change by hand when no experiment helps."""
    remedies = itertools.chain.from_iterable(rung or () for rung in REPAIR.rungs.get(kind, ()))
    texts = dict.fromkeys(getattr(remedy, "advice", "") for remedy in remedies)
    return [f"If no experiment is clearly better, the incident advises: *{text}*." for text in texts if text]


def picture(name: str, caption: str = "") -> str:
    """A picture of `docs/pictures.py` with a caption, that of the zoo case by default; a click shows it alone."""
    caption = caption or f"The zoo case [`{name}`](/docs/gallery.md#{name}): {zoo.get_case(name).title}"
    return f"{image(name)}\n\n*{caption}.*"


def image(name: str) -> str:
    file = f"/docs/img/runs/{name}.png"
    return f"[![Two runs side by side, {name}]({file}){{ loading=lazy }}]({file})"


def cures(*names: str) -> str:
    """The measured cures of zoo cases."""
    rows = ["| case | cures that work | cures that do not |", "|---|---|---|"]
    for case in map(zoo.get_case, names):
        parts = (
            ", ".join(f"`{n}`" for n, cure in case.cures.items() if cure.holds is works) for works in (True, False)
        )
        rows.append(f"| [`{case.name}`](/docs/gallery.md#{case.name}): {case.title} | {' | '.join(parts)} |")
    return "\n".join(rows)


def gallery() -> str:
    """Every case of the zoo: its picture and its card."""
    return "\n\n".join(card(case) for case in zoo.list_cases())


def card(case: zoo.Case) -> str:
    title, _, rest = case.card.partition("\n\n")
    told = re.sub(r"^([A-Z][^:\n]*):", r"**\1:**", WRAPPED_LINE.sub(" ", rest), flags=re.M).replace("\n", "\n\n")
    told = told.replace("docs/documents.md", "[the source notes](/docs/documents.md)")
    told = told.replace("docs/zoo.md", "[the tables](/docs/zoo.md)")
    return f"## {title.rstrip('.')} {{ #{case.name} }}\n\n{image(case.name)}\n\n{told}"


def results(name: str) -> str:
    """A table of benchmarks/RESULTS.md, by the comment above it."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    return text.split(f"<!-- {name} -->\n")[1].split("<!-- end of")[0].strip()


MACROS = {macro.__name__: macro for macro in (detectors, remedies, picture, cures, gallery, results)}
