from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_gradguard.cli import COMMANDS, main
from lightning_gradguard.cli.demo import demo


@pytest.fixture(scope="module")
def night(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert demo(folder, steps=200) == 0
    return folder


def test_demo_survives_the_night_and_tells_every_incident(night: Path) -> None:
    lines = [json.loads(line) for line in (night / "guarded" / "incidents.jsonl").read_text().splitlines()]
    kinds = {(line["kind"], line["first_step"]) for line in lines}
    assert kinds == {
        ("nonfinite", 40),
        ("nonfinite", 60),
        ("exploding_buffer", 80),
        ("lr_jump", 100),
        ("nonfinite", 150),
        *(("bad_batch", step) for step in (40, 60, 150)),
    }
    assert not (night / "healthy" / "incidents.jsonl").exists()


def test_demo_without_remedies_fails(tmp_path: Path) -> None:
    assert main(["demo", "--logdir", str(tmp_path), "--steps", "100", "--policy", "monitor"]) == 1


def test_report_and_replay_as_commands(night: Path, capsys: Any, tmp_path: Path) -> None:
    assert main(["report", str(night / "guarded"), "--format", "json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert len(story[0]["incidents"]) == 8
    assert main(["report", str(night), "--html", str(tmp_path / "report.html")]) == 0  # open, but not given up
    assert (tmp_path / "report.html").stat().st_size > 1000
    capsys.readouterr()
    assert main(["replay", str(night / "guarded"), "--format", "json"]) == 0
    replayed = json.loads(capsys.readouterr().out)
    assert [line["first_step"] for line in replayed] == [40, 60, 80, 100, 150]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--steps", "5"], "`gradguard demo --steps` must be at least 100, got 5"),
        (["replay", "/nowhere"], "was the run trained with GradGuard"),
        (["report", "/nowhere"], "/nowhere"),
        (["dance"], "usage: gradguard COMMAND"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_usage_names_every_command(capsys: Any) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    assert stopped.value.code == 0
    assert "usage: gradguard" in capsys.readouterr().out
