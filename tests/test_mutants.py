"""Random mutants: the same number is the same mutant, every operator runs, and the table counts right."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")
FOLDER = Path(__file__).parent.parent / "benchmarks" / "mutants"
sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]
from mutant import OPERATORS, RECIPES, Draw, Mutant, Program, found_in, load, train  # noqa: E402
from results import rate, wilson  # noqa: E402

from lightning_gradguard.detectors import DETECTORS  # noqa: E402
from lightning_gradguard.remedies import list_remedies  # noqa: E402

load()


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("mutants_bench", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants_bench"] = module
    spec.loader.exec_module(module)
    return module


def test_there_are_enough_of_both_and_names_are_those_of_the_files() -> None:
    assert len(RECIPES) >= 8
    assert len(OPERATORS) >= 24
    for registry in (RECIPES, OPERATORS):
        assert all(one.name == name for name, one in registry.items())


def test_a_number_is_always_the_same_mutant_and_numbers_differ() -> None:
    mutants = [Mutant.of(number) for number in range(40)]
    assert mutants == [Mutant.of(number) for number in range(40)]
    assert len({(m.recipe, m.operator) for m in mutants}) > 25
    one, other = mutants[3].program(), mutants[3].program()
    assert one[1] == other[1]
    assert all(torch.equal(a, b) for a, b in zip(one[0].net.parameters(), other[0].net.parameters(), strict=True))


def test_causes_are_kinds_that_a_guard_reports() -> None:
    kinds = {detector.kind for detector in DETECTORS} | {"lr_too_large", "lr_too_small"}
    kinds |= {remedy.cause for remedy in list_remedies().values() if isinstance(remedy.cause, str)}
    for operator in OPERATORS.values():
        assert set(operator.kinds) <= kinds, operator.name


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_applies_somewhere_and_runs(name: str) -> None:
    operator = OPERATORS[name]
    applied = []
    for recipe in RECIPES.values():
        program = Program.of(recipe, 0)
        if (done := operator.mutate(program, Draw(1))) is not None:
            applied.append((program, done))
    program, done = applied[0]
    assert done
    assert operator.mutate(Program.of(program.recipe, 0), Draw(1)) == done
    program.recipe = replace(program.recipe, steps=3)
    train(program, 0, [], {})


def test_a_new_file_joins_without_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "newcomers"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "another.py").write_text("THING = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert found_in("newcomers", "THING") == {"another": 7}


def test_every_recipe_has_a_margin() -> None:
    margins = json.loads((FOLDER / "healthy.json").read_text())
    assert margins.keys() == RECIPES.keys()
    assert all(0.03 <= entry["margin"] < entry["quality"] <= 1 for entry in margins.values())


def test_the_table_counts_repairs_harms_and_changes(bench: Any) -> None:
    mutants = [Mutant(n, "digits_mlp", op, 0) for n, op in enumerate(["lr_times", "nan_batches", "eps", "momentum"])]
    alone = [bench.Ending(q, "x", "a", 1.0) for q in (0.1, 0.2, 0.9, 0.9)]
    after = [
        bench.Ending(0.9, "x", "b", 2.0, ("lr_too_large",), "said"),
        bench.Ending(0.3, "x", "b", 2.0, (), "said"),
        bench.Ending(0.4, "x", "b", 2.0, ("no_progress",), "said"),
        bench.Ending(0.9, "x", "a", 2.0, (), "said"),
    ]
    judged = [bench.Judged(*row, 0.8) for row in zip(mutants, alone, after, strict=True)]
    cells = dict(zip(bench.ROWS, bench.column(judged), strict=True))
    assert cells["killed mutants repaired"].startswith("1 of 2 = 50 %")
    assert cells["- wrong from the start"].startswith("1 of 1")
    assert cells["- spoiled within the run"].startswith("0 of 1")
    assert cells["- right cause among the incidents"].startswith("1 of 2")
    assert cells["others harmed"].startswith("1 of 2")
    assert cells["- weights not the same"].startswith("1 of 2")
    assert cells["time (median)"] == "2.00"


def test_the_interval_of_a_rate_is_wilsons() -> None:
    assert [round(bound, 4) for bound in wilson(0, 10)] == [0.0, 0.2775]
    assert rate(18, 29) == "18 of 29 = 62 % (44 to 77)"
    assert rate(0, 0) == "-"
