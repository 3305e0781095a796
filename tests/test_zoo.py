"""Every case: the broken program shows the symptom, and a cure removes it and improves the metric."""

import io
import re
import warnings
from dataclasses import replace

import pytest
import torch

from lightning_gradguard import zoo
from lightning_gradguard.zoo import tables
from lightning_gradguard.zoo.running import BROKEN

CASES = {case.name: case for case in zoo.list_cases()}


def representative() -> list[tuple[str, str]]:
    """The first cure of every case, and more until every advice that holds in any case is tested."""
    chosen = [(case.name, next(iter(case.cures))) for case in CASES.values()]
    covered = {row for name, cure in chosen for row in CASES[name].cures[cure].advice}
    for case in CASES.values():
        for name, cure in case.cures.items():
            if cure.holds and not set(cure.advice) <= covered:
                covered |= set(cure.advice)
                chosen.append((case.name, name))
    return chosen


QUICK = representative()
REST = [(case.name, cure) for case in CASES.values() for cure in case.cures if (case.name, cure) not in QUICK]
RESULTS: dict[tuple[str, str | None, int], zoo.Result] = {}
#: Seeds other than 0 for GradGuard's findings: with seed 0 this transformer learns a little, and nothing is reported.
SEEDS = {"post_ln_transformer": 1}


def run(name: str, cure: str | None = None, seed: int = 0) -> zoo.Result:
    if (name, cure, seed) not in RESULTS:
        RESULTS[name, cure, seed] = zoo.run_case(CASES[name], cure, accelerator="cpu", seed=seed)
    return RESULTS[name, cure, seed]


def holds(name: str, cure: str, seed: int = 0) -> bool:
    case, broken, cured = CASES[name], run(name, seed=seed), run(name, cure, seed)
    return not cured.has_symptom and case.gain(broken.metric, cured.metric) >= case.margin


@pytest.mark.parametrize("name", CASES)
def test_broken_shows_the_symptom(name):
    result = run(name)
    assert result.variant == BROKEN
    assert result.has_symptom, f"{CASES[name].symptom.description}: {result.symptom}"


@pytest.mark.parametrize("name", CASES)
def test_gradguard_reports_it_at_the_right_layers(name):
    case = CASES[name]
    incidents = run(name, seed=SEEDS.get(name, 0)).incidents
    named = [incident for incident in incidents if incident.kind == case.kind]
    assert named, [str(incident) for incident in incidents]
    layers = {layer for incident in named for layer in incident.layers}
    assert all(re.fullmatch(case.layers, layer) for layer in layers), layers


@pytest.mark.parametrize(("name", "cure"), QUICK)
def test_a_cure_removes_the_symptom_and_improves_the_metric(name, cure):
    assert CASES[name].cures[cure].holds
    assert run(name, cure).changes
    assert holds(name, cure), (run(name), run(name, cure))
    assert CASES[name].kind not in {incident.kind for incident in run(name, cure).incidents}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cure"), REST)
def test_every_other_cure_is_as_the_card_says_over_three_seeds(name, cure):
    claimed = CASES[name].cures[cure].holds
    assert all(holds(name, cure, seed) for seed in range(3)) == claimed


@pytest.mark.parametrize("name", CASES)
def test_the_card_is_complete(name):
    case = CASES[name]
    for word in ("Symptom:", "Cause:", "Cures:", "References:"):
        assert word in case.card, word
    if not all(cure.holds for cure in case.cures.values()):
        assert "Does not help here" in case.card
    assert next(iter(case.cures.values())).holds
    assert case.build.__doc__


def test_every_module_defines_the_case_of_its_name():
    modules = {case.build.__module__.rpartition(".")[2] for case in CASES.values()}
    assert modules == set(CASES)


def test_a_run_is_repeatable_and_leaves_the_callers_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = zoo.run_case("deep_sigmoid", "residual", accelerator="cpu", max_steps=10)
    assert torch.equal(torch.rand(2), expected)
    second = zoo.run_case("deep_sigmoid", "residual", accelerator="cpu", max_steps=10)
    other = zoo.run_case("deep_sigmoid", "residual", accelerator="cpu", max_steps=10, seed=1)
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert first.ratio != other.ratio


def test_a_policy_acts_on_the_failing_program():
    unguarded = zoo.run_case("nan_sqrt", policy="none", accelerator="cpu", max_steps=40)
    guarded = zoo.run_case("nan_sqrt", policy="protect", accelerator="cpu", max_steps=40)
    assert unguarded.incidents == ()
    assert "nonfinite" in {incident.kind for incident in guarded.incidents}
    assert any(incident.actions for incident in guarded.incidents)


def test_compare_writes_one_tensorboard_run_for_each_variant(tmp_path):
    case = replace(CASES["nan_sqrt"], cures={"eps": CASES["nan_sqrt"].cures["eps"]})
    results = zoo.compare_case(case, accelerator="cpu", logdir=tmp_path)
    assert [result.variant for result in results] == ["broken", "eps"]
    for variant in ("broken", "eps"):
        assert list((tmp_path / "nan_sqrt" / variant).glob("events.out.tfevents.*"))


def test_an_unknown_name_is_reported_with_the_known_names():
    with pytest.raises(KeyError, match=r"no zoo case 'nothing'. The cases are: .*deep_sigmoid"):
        zoo.get_case("nothing")
    with pytest.raises(KeyError, match=r"'deep_sigmoid' has no cure 'magic'. Its cures are: elu_he, .*"):
        zoo.run_case("deep_sigmoid", "magic")


def test_a_renamed_case_is_found_under_its_former_name():
    with pytest.warns(DeprecationWarning, match="'unnormalised_inputs' is now 'unnormalized_inputs'"):
        assert zoo.get_case("unnormalised_inputs") is CASES["unnormalized_inputs"]


def test_the_former_name_of_has_symptom_works():
    result = run("nan_sqrt")
    with pytest.warns(DeprecationWarning, match="renamed to `has_symptom`"):
        assert result.sick is result.has_symptom


def test_tables_and_cards_can_be_printed():
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(zoo.show("deep_sigmoid"))
    console.print(tables.results_table(CASES["nan_sqrt"], [run("nan_sqrt"), run("nan_sqrt", "eps")]))
    text = console.export_text()
    assert "no, see above" in text
    assert "nonfinite" in text


@pytest.mark.parametrize("width", [20, 80])
def test_no_name_is_cut_in_the_list(width: int) -> None:
    words = re.split(r"[\s,:()]+", tables.cases_text(CASES.values(), width))
    assert {name for case in CASES.values() for name in (case.name, case.kind, *case.cures)} <= set(words)


def test_nothing_is_downloaded_and_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.run_case("lr_too_low", accelerator="cpu", max_steps=3)
