"""Does a guard change healthy models of libraries built on Lightning, trained with the libraries' defaults?

    nox -s libraries                                        # every library, each in an environment of its own
    nox -s "libraries(scvi_tools)"                          # one
    python benchmarks/libraries scvi_tools [--models NAME ...] [--markdown FILE]      # where it is installed

Every model is trained twice without a guard and once with each policy, from the same seed. The exit code is 1 if a
guard changed a run, did not see it, reported anything, or caused an exception.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from comparison import CHANGED, PROGRAMS, SAME, Row, compare  # noqa: E402
from results import publish  # noqa: E402
from rich.table import Table  # noqa: E402

LIBRARIES = sorted(file.stem for file in (HERE / "programs").glob("[!_]*.py"))
MEASURED = HERE / "measured"
HEAD = ("library", "model", "steps", "policy", "weights", "incidents", "warnings, exceptions", "time ÷ unguarded")


def main() -> int:
    """Runs the programs of one library and shows those of all that were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES, nargs="?", help="without one, shows what was measured last")
    parser.add_argument("--models", nargs="*", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", help="file whose section with the table of all libraries is replaced")
    options = parser.parse_args()
    if options.library is None:
        publish(table_of(measured()), options.markdown, "libraries")
        return 0
    importlib.import_module(f"programs.{options.library}")
    name = options.library.replace("_", "-")
    rows = [row for m in options.models or PROGRAMS for row in compare(f"{name} {version(name)}", m, options.seed)]
    if options.markdown:
        (MEASURED / f"{options.library}.json").write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    publish(table_of(measured() if options.markdown else rows), options.markdown, "libraries")
    for row in rows:
        for sentence in (*row.incidents, *row.said, *filter(None, [row.error])):
            print(f"{row.library}, {row.model}, {row.policy}: {sentence}")
    return int(not all(row.harmless for row in rows))


def measured() -> list[Row]:
    """The rows of every library, as they were last measured."""
    return [Row(**plain) for file in sorted(MEASURED.glob("*.json")) for plain in json.loads(file.read_text())]


def table_of(rows: list[Row]) -> Table:
    """A line for each model and policy."""
    compared = [row for row in rows if row.weights in (SAME, CHANGED)]
    same = sum(row.weights == SAME for row in rows)
    title = f"Healthy models of libraries built on Lightning: {same} of {len(compared)} comparable runs bit-identical"
    table = Table(*HEAD, title=title)
    for row in rows:
        said = "; ".join((*row.said, *filter(None, [row.error]))) or "none"
        incidents = "; ".join(row.incidents) or "none"
        table.add_row(
            row.library, row.model, str(row.steps), row.policy, row.weights, incidents, said, f"{row.ratio:.2f}"
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
