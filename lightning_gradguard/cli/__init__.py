"""The `gradguard` command: `commands` (report, replay), `demo`, `zoo`. Imports only the module of the given command."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from lightning_gradguard import __version__
from lightning_gradguard.extras import needed_for

#: Command -> (module, function, what it does).
COMMANDS = {
    "demo": ("cli.demo", "demo", "train on handwritten digits: healthy, with injected faults, and with GradGuard"),
    "doctor": ("cli.doctor", "doctor", "examine a program before it is trained"),
    "report": ("cli.commands", "report", "summarize runs: in the terminal, as HTML or as JSON"),
    "replay": ("cli.commands", "replay", "run recorded statistics through detectors with other settings"),
    "zoo list": ("cli.zoo", "list_", "list the failing training programs and their cures"),
    "zoo show": ("cli.zoo", "show", "describe one case: symptom, cause, cures, references"),
    "zoo run": ("cli.zoo", "run", "train one case, broken or with a cure"),
    "zoo compare": ("cli.zoo", "compare", "train a case broken and with every cure, and compare the results"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `gradguard` with `arguments` (default: `sys.argv`).

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "_ARGCOMPLETE" in os.environ and find_spec("argcomplete") is not None:
        words = complete_command()
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    if name is None:
        return answer(words)
    return run(name, words[len(name.split()) :])


def complete_command() -> list[str]:
    """The words of the command whose arguments the shell asks for; while the command itself is typed, completes that.

    `eval "$(register-python-argcomplete gradguard)"` lets the shell ask, by environment variables. The parser of the
    command answers, when it is to parse.
    """
    import argcomplete

    typed = shlex.split(os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])] + "|")[1:-1]
    name = next((name for name in COMMANDS if typed[: len(name.split())] == name.split()), None)
    if name is None:
        parser = argparse.ArgumentParser(add_help=False)
        rest = [name.split()[len(typed) :] for name in COMMANDS if name.split()[: len(typed)] == typed]
        parser.add_argument("command", choices=sorted({words[0] for words in rest if words}))
        os.environ["_ARGCOMPLETE"] = str(1 + len(typed))
        argcomplete.autocomplete(parser)
        return []
    os.environ["_ARGCOMPLETE"] = str(1 + len(name.split()))
    return name.split()


def answer(words: list[str]) -> int:
    """Answers what is no command: with the version, the usage, or the command that was probably meant."""
    if words in (["-V"], ["--version"]):
        print(f"gradguard {__version__}")
        return 0
    if words in ([], ["-h"], ["--help"], ["help"]):
        print(usage())
        return 0
    given = " ".join(words[:2] if words[0] == "zoo" else words[:1])
    meant = difflib.get_close_matches(given, COMMANDS, n=1)
    hint = f"; did you mean `gradguard {meant[0]}`?" if meant else "."
    print(f"gradguard: there is no command `{given}`{hint}\n\n{usage()}", file=sys.stderr)
    return 2


def run(name: str, arguments: list[str]) -> int:
    """Parses the arguments of one command, calls its function and returns the exit code."""
    module, function, summary = COMMANDS[name]
    try:
        with needed_for("The command"):
            from jsonargparse import ArgumentParser, set_parsing_settings

            call = getattr(importlib.import_module(f"lightning_gradguard.{module}"), function)
    except ImportError as error:
        print(f"gradguard {name}: {error}", file=sys.stderr)
        return 2
    set_parsing_settings(docstring_parse_attribute_docstrings=False, parse_optionals_as_positionals=False)
    parser = ArgumentParser(
        prog=f"gradguard {name}", allow_abbrev=False, description=f"{summary[0].upper()}{summary[1:]}."
    )
    several = "runs" in inspect.signature(call).parameters
    if several:  # jsonargparse would want a list as one argument: '[a,b]'
        parser.add_argument("runs", nargs="+", type=str, help="directories of runs, or directories that contain runs")
    parser.add_function_arguments(call, as_positional=True, sub_configs=True, skip={"runs"} if several else set())
    try:
        return int(call(**parser.instantiate(parser.parse_args(arguments)).as_dict()) or 0)
    except (FileNotFoundError, ImportError, KeyError, ValueError) as error:
        print(f"gradguard {name}: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 2


def usage() -> str:
    """The list of commands, one per line."""
    lines = [f"  gradguard {name:<12} {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "\n".join(["usage: gradguard COMMAND [OPTIONS]", "", *lines, "", "See also: gradguard COMMAND --help"])
