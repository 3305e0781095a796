"""The command `gradguard`: thin, over the same public functions. Only the module that is asked for is imported."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

#: Command -> (module, function, what it does).
COMMANDS = {
    "demo": ("cli.demo", "demo", "train on real digits through a bad night, unguarded and guarded"),
    "report": ("cli.commands", "report", "what happened in a run: in the terminal, as HTML or as JSON"),
    "replay": ("cli.commands", "replay", "run recorded statistics through detectors with other settings"),
    "zoo list": ("cli.zoo", "list_", "the models that show each problem and its cures"),
    "zoo show": ("cli.zoo", "show", "one case's card"),
    "zoo run": ("cli.zoo", "run", "train one case, broken or cured"),
    "zoo compare": ("cli.zoo", "compare", "train a case broken and with every cure, side by side"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `gradguard`; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        print(usage(), file=sys.stdout if words in ([], ["-h"], ["--help"]) else sys.stderr)
        return 0 if words in ([], ["-h"], ["--help"]) else 2
    return run(name, words[len(name.split()) :])


def run(name: str, arguments: list[str]) -> int:
    """Parses one command's arguments and calls its function."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=False, parse_optionals_as_positionals=False)
    module, function, summary = COMMANDS[name]
    call = getattr(importlib.import_module(f"lightning_gradguard.{module}"), function)
    parser = ArgumentParser(prog=f"gradguard {name}", description=f"{summary[0].upper()}{summary[1:]}.")
    several = "runs" in inspect.signature(call).parameters
    if several:  # on a command line a list is just several words
        parser.add_argument("runs", nargs="+", type=Path, help="directories of runs, or a directory with runs in it")
    parser.add_function_arguments(call, as_positional=True, sub_configs=True, skip={"runs"} if several else set())
    try:
        return int(call(**parser.instantiate(parser.parse_args(arguments)).as_dict()) or 0)
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        print(f"gradguard {name}: {error.args[0] if error.args else error}", file=sys.stderr)
        return 2


def usage() -> str:
    """All commands, a line each."""
    lines = [f"  gradguard {name:<12} {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "\n".join(["usage: gradguard COMMAND [OPTIONS]", "", *lines, "", "gradguard COMMAND --help says more."])


if __name__ == "__main__":
    sys.exit(main())
