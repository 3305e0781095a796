"""The benchmark of random mutants: numbers, operators, resumption, and its table."""

from __future__ import annotations

from pathlib import Path
from random import Random

import mutants.operators
import pytest
import torch
from mutants import healthy, mutant, runs, table
from mutants.operators import STATIC, SUDDEN, discover
from mutants.setups import quality
from recipes.base import run
from results import rate, wilson

from lightning_gradguard.detectors import DETECTORS
from lightning_gradguard.policy.presets import REPAIR
from lightning_gradguard.remedies import TryEach

OPERATORS, RECIPES = mutant.every_operator(), mutant.every_recipe()
#: The fastest first: each operator is tried on the first one that it applies to.
ORDER = sorted(RECIPES.values(), key=lambda recipe: (recipe.name in ("language_model", "transformer"), recipe.name))


def test_a_number_is_always_the_same_mutant() -> None:
    drawn = [mutant.mutant(number) for number in range(1, 200)]
    assert drawn == [mutant.mutant(number) for number in range(1, 200)]
    assert {each.recipe for each in drawn} == set(RECIPES)


def test_a_new_operator_changes_only_the_mutants_it_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [mutant.mutant(number) for number in range(1, 1000)]
    fewer = {name: operator for name, operator in OPERATORS.items() if name != "rate_too_high"}
    monkeypatch.setattr(mutant, "every_operator", lambda: fewer)
    before = [mutant.mutant(number) for number in range(1, 1000)]
    changed = [new for old, new in zip(before, drawn, strict=True) if old != new]
    assert {new.operator for new in changed} == {"rate_too_high"}
    assert changed == [new for new in drawn if new.operator == "rate_too_high"]


def test_a_mutant_trains_the_same_twice() -> None:
    first, again = (runs.judge(mutant.Mutant("regression", 100, "rate_jumps", 3.0)) for _ in range(2))
    assert (first.weights, first.quality) == (again.weights, again.quality)
    assert first.weights != runs.judge(mutant.Mutant("regression", 100)).weights


def test_names_are_those_of_the_files() -> None:
    for kind, found in (("operators", OPERATORS), ("recipes", RECIPES)):
        files = {path.stem for path in (Path(mutant.__file__).parent / kind).glob("[!_]*.py")}
        assert set(found) == files
        assert all(each.name == name for name, each in found.items())


def test_every_operator_has_a_recipe_and_every_recipe_an_operator() -> None:
    assert len(RECIPES) >= 10
    assert len(OPERATORS) >= MINIMUM
    for operator in OPERATORS.values():
        assert any(map(operator.applies, RECIPES.values())), operator.name
    for recipe in RECIPES.values():
        onsets = {operator.onset for operator in OPERATORS.values() if operator.applies(recipe)}
        assert onsets == {STATIC, SUDDEN}


MINIMUM = 60


def test_kinds_exist() -> None:
    trials = [t for remedy in REPAIR.remedies if isinstance(remedy, TryEach) for t in remedy.trials]
    causes = {remedy.cause for trial in trials for remedy in trial}
    known = {detector.kind for detector in DETECTORS} | causes | {remedy.cause for remedy in REPAIR.remedies}
    for operator in OPERATORS.values():
        assert operator.kinds <= known, (operator.name, operator.kinds - known)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_few_steps_with_an_operator(name: str) -> None:
    operator = OPERATORS[name]
    recipe = next(recipe for recipe in ORDER if operator.applies(recipe))
    setup = recipe.setup(Random(0))
    setup.steps = 6
    operator.mutate(setup, operator.draw(Random(0)))
    outcome = run(setup.program, 0)
    assert (outcome.error, outcome.steps) == ("", 6)
    assert 0.0 <= quality(outcome.module.net, setup.data) <= 1.0  # type: ignore[arg-type]
    assert (setup.onset > 0) == (operator.onset == SUDDEN)


def test_a_severity_is_within_its_range() -> None:
    for operator in OPERATORS.values():
        low, high = operator.severity
        assert all(0.99 * low <= operator.draw(Random(seed)) <= 1.01 * high for seed in range(50)), operator.name


def test_a_new_file_is_a_new_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing_at_all.py").write_text(
        "from mutants.operators import operator\n\n\n@operator([])\ndef nothing_at_all(setup, severity):\n    pass\n"
    )
    monkeypatch.setattr(mutants.operators, "__path__", [*mutants.operators.__path__, str(tmp_path)])
    assert set(discover()) == {*OPERATORS, "nothing_at_all"}


def test_an_interrupted_benchmark_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[runs.Job] = []
    monkeypatch.setattr(runs, "every", lambda work, jobs, **_: [work(*job) for job in jobs])
    monkeypatch.setattr(runs, "judge", lambda *job: done.append(job) or ENDING)
    jobs = [(mutant.mutant(number), tool) for number in (1, 2) for tool in ("no guard", "GradGuard")]
    runs.endings(jobs[:3], tmp_path)
    with (tmp_path / runs.LINES).open("a") as file:
        file.write('{"mutant": {"recipe": "perc')
    assert runs.endings(jobs[:2], tmp_path) == {job: ENDING for job in jobs[:2]}
    assert done == jobs[:3]


def test_a_line_after_one_that_was_cut_off_counts(tmp_path: Path) -> None:
    (tmp_path / runs.LINES).write_text('{"mutant": {"recipe": "perc')
    runs.keep(tmp_path, (mutant.mutant(1), "GradGuard"), ENDING)
    assert runs.read(tmp_path) == {(mutant.mutant(1), "GradGuard"): ENDING}


ENDING = runs.Ending(0.9, "a", 1.0, "", "recovered", ("lr_jump",), ("step 7: lr_jump",))


def case(number: int, alone: float, guarded: float, weights: str = "b", **options: object) -> table.Case:
    """A mutant whose learning rate jumps, with and without a guard."""
    ends = {"no guard": runs.Ending(alone, "a", 1.0), "GradGuard": runs.Ending(guarded, weights, 1.5, **options)}
    return table.Case(number, mutant.Mutant("perceptron", 100, "rate_jumps", 100.0), 0.8, ends)


CASES = [
    case(1, 0.1, 0.9, outcome="recovered", kinds=("lr_jump",)),
    case(2, 0.1, 0.2, outcome="degraded"),
    case(3, 0.9, 0.9, weights="a", outcome="healthy"),
    case(4, 0.9, 0.9, outcome="recovered", kinds=("unused",), incidents=("step 4: unused",)),
    case(5, 0.9, 0.7, outcome="healthy"),
]  # fmt: skip


def test_the_table_counts() -> None:
    found = table.table(CASES, ["GradGuard"], "title")
    names, values = (list(column.cells) for column in found.columns)
    cells = dict(zip(names, values, strict=True))
    assert cells["killed by the mutation"].startswith("2 of 5 = 40 %")
    assert cells["killed: repaired"].startswith("1 of 2")
    assert cells["killed: repaired, static"] == "-"
    assert cells["killed: reported, sudden"].startswith("2 of 2")
    assert cells["killed: right cause"].startswith("1 of 2")
    assert cells["survivors: harmed"].startswith("1 of 3")
    assert cells["survivors: changed"].startswith("2 of 3")
    assert cells["survivors: reported"].startswith("1 of 3")
    assert cells["time relative to no guard (median)"] == "1.50"


def test_a_line_for_everything_that_went_wrong() -> None:
    found = [line.partition(":")[0] for line in table.lines(CASES, ["GradGuard"])]
    assert found == ["2 not repaired by GradGuard", "4 changed by GradGuard", "5 harmed by GradGuard"]


def test_a_case_without_a_healthy_twin_is_not_counted() -> None:
    one = mutant.Mutant("perceptron", 100, "rate_jumps", 100.0)
    ends = {(one.healthy, "no guard"): runs.Ending(0.7, "a", 1.0), (one, "no guard"): runs.Ending(0.1, "b", 1.0)}
    assert table.gather({1: one}, {"perceptron": 0.8}, ends) == []
    assert len(table.gather({1: one}, {"perceptron": 0.6}, ends)) == 1


def test_every_recipe_has_a_limit() -> None:
    assert set(healthy.limits()) == set(RECIPES)
    assert healthy.limit([0.9, 0.9, 0.9, 0.9, 0.9]) == pytest.approx(0.87)
    assert healthy.limit([0.8, 1.0]) == pytest.approx(0.9 - 4 * 0.2 / 2**0.5)


def test_halves() -> None:
    from mutants.__main__ import arguments, chosen

    assert chosen(arguments(["--count", "5", "--half", "odd"])) == [1, 3, 5]
    assert chosen(arguments(["--first", "4", "--count", "3", "--half", "even"])) == [4, 6]
    assert chosen(arguments(["--only", "7", "9"])) == [7, 9]


def test_rates() -> None:
    assert rate(18, 29) == "18 of 29 = 62 % (44 to 77)"
    assert rate(0, 0) == "-"
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_a_digest_notices_every_bit() -> None:
    ones = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.tensor(1)}
    assert runs.digest(ones) == runs.digest({name: value.clone() for name, value in ones.items()})
    assert runs.digest(ones) != runs.digest({**ones, "b": torch.tensor(2)})
