from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lightning_gradguard
from lightning_gradguard.cli import COMMANDS, main
from lightning_gradguard.cli.demo import demo


@pytest.fixture(scope="module")
def demo_runs(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert demo(folder, steps=200) == 0
    return folder


def test_the_demo_reports_every_injected_fault(demo_runs: Path) -> None:
    lines = [json.loads(line) for line in (demo_runs / "guarded" / "incidents.jsonl").read_text().splitlines()]
    kinds = {(line["kind"], line["first_step"]) for line in lines}
    assert kinds == {
        ("nonfinite", 40),
        ("nonfinite", 60),
        ("exploding_buffer", 80),
        ("lr_jump", 100),
        ("nonfinite", 150),
    }
    assert not (demo_runs / "healthy" / "incidents.jsonl").exists()


def test_the_demo_without_remedies_fails(tmp_path: Path) -> None:
    assert main(["demo", "--logdir", str(tmp_path), "--steps", "100", "--policy", "monitor"]) == 1


def test_report_and_replay_as_commands(demo_runs: Path, capsys: Any, tmp_path: Path) -> None:
    assert main(["report", str(demo_runs / "guarded"), "--format", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert len(runs[0]["incidents"]) == 5
    assert main(["report", str(demo_runs), "--html", str(tmp_path / "report.html")]) == 0  # open, not unrecoverable
    assert (tmp_path / "report.html").stat().st_size > 1000
    capsys.readouterr()
    assert main(["replay", str(demo_runs / "guarded"), "--format", "json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert sorted((i["first_step"], i["kind"]) for i in replayed) == sorted(
        (i["first_step"], i["kind"]) for i in runs[0]["incidents"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--steps", "5"], "`gradguard demo --steps` must be at least 100, got 5"),
        (["replay", "/nowhere"], "was the run trained with GradGuard"),
        (["report", "/nowhere"], "/nowhere"),
        (["dance"], "usage: gradguard COMMAND"),
        (["dance"], "there is no command `dance`."),
        (["raport", "runs"], "no command `raport`; did you mean `gradguard report`?"),
        (["zoo", "lst"], "no command `zoo lst`; did you mean `gradguard zoo list`?"),
    ],
)
def test_wrong_arguments_get_a_one_line_message(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_error_of_the_operating_system_is_a_sentence(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path), "--html", str(tmp_path / "no" / "folder" / "report.html")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_version(capsys: Any) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gradguard {lightning_gradguard.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_usage_names_every_command(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gradguard re", {"replay", "report"}),
        ("gradguard report", {"report"}),
        ("gradguard zoo ", {"compare", "list", "run", "show"}),
        ("gradguard zoo run --pol", {"--policy"}),
    ],
)
def test_the_shell_completes_commands_and_options(line: str, words: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    told = tmp_path / "told"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(told), "_ARGCOMPLETE_IFS": "\n"}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    command = [sys.executable, "-m", "lightning_gradguard"]
    subprocess.run(command, env={**os.environ, **asked}, check=True, capture_output=True, timeout=120)
    assert {word.strip() for word in told.read_text().split("\n")} == words


def test_no_deprecated_function_is_called(tmp_path: Path) -> None:
    environment = {**os.environ, "JSONARGPARSE_DEPRECATION_WARNINGS": "all"}
    for arguments in (["report", "nothing"], ["replay", "nothing", "--detectors+=Exploding", "--detectors.factor=9"]):
        command = [sys.executable, "-W", "error", "-m", "lightning_gradguard", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr.startswith(f"gradguard {arguments[0]}: ")
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage: gradguard" in capsys.readouterr().out
