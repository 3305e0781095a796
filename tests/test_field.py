"""Published programs: what they claim is complete, both versions run, and the table counts right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")
FOLDER = Path(__file__).parent.parent / "benchmarks" / "field"

from lightning_gradguard.detectors import DETECTORS  # noqa: E402
from lightning_gradguard.remedies import list_remedies  # noqa: E402

#: Fast ones that are trained here.
TRAINED = ("wine_not_scaled", "growing_loss", "weights_skyrocket", "broadcast")


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path[:0] = [str(FOLDER.parent), str(FOLDER)]
    spec = importlib.util.spec_from_file_location("field_bench", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["field_bench"] = module
    spec.loader.exec_module(module)
    return module


def test_every_program_is_complete(bench: Any) -> None:
    kinds = {detector.kind for detector in DETECTORS} | {"lr_too_large", "lr_too_small"}
    kinds |= {remedy.cause for remedy in list_remedies().values() if isinstance(remedy.cause, str)}
    assert len(bench.PROGRAMS) == sum(
        len(m.PROGRAMS) for m in (bench.classes, bench.images, bench.regressions, bench.sequences)
    )
    assert {p.inside for p in bench.PROGRAMS.values()} == {True, False}
    for p in bench.PROGRAMS.values():
        assert p.source.startswith("https://")
        assert p.wrong
        assert p.fix
        assert set(p.kinds) <= kinds, p.name
        assert 0 < p.mark < 1


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_both_versions_of_every_program_take_a_step(bench: Any) -> None:
    for p in bench.PROGRAMS.values():
        for variant in (p.faulty, p.fixed):
            torch.manual_seed(0)
            setup = variant()
            x, y = (t[: setup.batch] for t in setup.data)
            optimizer = setup.optimizer(setup.net.parameters())
            setup.loss(setup.net(x), y).backward()
            optimizer.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRAINED)
def test_the_mark_lies_between_the_two_versions(bench: Any, name: str) -> None:
    mark = bench.PROGRAMS[name].mark
    faulty, fixed = (bench.judge(name, variant, 0, bench.NONE).measure for variant in (bench.FAULTY, bench.FIXED))
    assert faulty < mark <= fixed


def test_the_table_counts_repairs_names_and_harms(bench: Any) -> None:
    inside, outside = bench.PROGRAMS["wine_not_scaled"], bench.PROGRAMS["broadcast"]
    ended = {}
    for p, alone, with_tool, kinds in ((inside, 0.1, 0.9, ("unnormalized_input",)), (outside, 0.1, 0.1, ("stalled",))):
        ended[p.name, "faulty", 0, "no guard"] = bench.Ending(alone, "a", 1.0)
        ended[p.name, "faulty", 0, "x"] = bench.Ending(with_tool, "b", 2.0, kinds, "said")
        ended[p.name, "fixed", 0, "no guard"] = bench.Ending(0.95, "c", 1.0)
    ended[inside.name, "fixed", 0, "x"] = bench.Ending(0.95, "c", 1.0, (), "said")
    ended[outside.name, "fixed", 0, "x"] = bench.Ending(0.2, "d", 1.0, ("stalled",), "said")
    cells = bench.column(ended, [inside, outside], range(1), "x")
    assert [cell.split(" = ")[0] for cell in cells] == [
        "1 of 1", "1 of 1", "1 of 1", "0 of 1", "1 of 1", "0 of 1", "1 of 2", "1 of 2", "1 of 2", "2.00",
    ]  # fmt: skip
