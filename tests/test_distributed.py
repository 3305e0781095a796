"""Many processes: the same numbers as one, the same decisions on all, exact remedies on every piece.

Two launches, of two and of four processes on gloo, run every strategy through `tests/distributed/story.py`; the tests
then ask what was written down. A launch that hangs is killed.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "distributed"))

import groups
import repair
from story import EXPLOSION_STEP, NAN_STEP, SAVED, SPIKE_STEP, STEPS, Story, tell

TWO = ("ddp", "ddp_static", "ddp_accumulate", "ddp_batchnorm", "fsdp1", "fsdp1_flat", "fsdp2", "tp")
FOUR = ("hsdp", "fsdp_tp")
REPLICAS = ("ddp", "ddp_static", "ddp_accumulate", "ddp_batchnorm")
#: Layer widths that do not divide by the number of processes leave pieces of unequal size.
WIDTH = {"fsdp1": 15, "fsdp1_flat": 15, "fsdp2": 15, "hsdp": 15}
PATIENCE = 150  # seconds until a launch counts as deadlocked

Told = dict[str, Any]


def launch(folder: Path, processes: int, cells: tuple[str, ...], script: str = "worker.py") -> dict[str, list[Told]]:
    """Runs a worker in so many processes: for each cell what each process wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "distributed" / script), str(folder)]
    running = []
    for rank in range(processes):
        mine = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"log.{rank}").open("w") as log:
            running.append(subprocess.Popen([*command, *cells], env=mine, stdout=log, stderr=subprocess.STDOUT))
    try:
        for process in running:
            process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in running:
            process.kill()
    return {cell: [read(folder, cell, rank) for rank in range(processes)] for cell in cells}


def read(folder: Path, cell: str, rank: int) -> Told:
    path = folder / f"{cell}.{rank}.json"
    if path.exists():
        return json.loads(path.read_text())
    return {"error": f"no word from process {rank}:\n" + (folder / f"log.{rank}").read_text()[-3000:]}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Told]]:
    two = launch(tmp_path_factory.mktemp("two"), 2, TWO)
    return {**two, **launch(tmp_path_factory.mktemp("four"), 4, FOUR)}


@pytest.fixture(scope="module")
def alone() -> dict[int, Told]:
    """The story in one process, for each width."""
    return {width: tell(Story(width=width), {}) for width in (15, 16)}


@pytest.fixture(params=TWO + FOUR)
def cell(request: pytest.FixtureRequest, told: dict[str, list[Told]]) -> str:
    for ranks in told[request.param]:
        assert "error" not in ranks, ranks["error"]
    return request.param


def test_all_processes_see_and_do_the_same(cell: str, told: dict[str, list[Told]]) -> None:
    first, *others = told[cell]
    for other in others:
        for run in ("whole", "resumed"):
            assert other[run]["findings"] == first[run]["findings"]
            assert other[run]["incidents"] == first[run]["incidents"]
            for mine, theirs in zip(other[run]["rows"], first[run]["rows"], strict=True):
                mine, theirs = dict(mine), dict(theirs)
                for here in ("same_as", "buffers_as"):  # pieces differ, and buffers do under DDP
                    mine.pop(here), theirs.pop(here)
                assert json.dumps(mine) == json.dumps(theirs)


def test_numbers_are_those_of_one_process(cell: str, told: dict[str, list[Told]], alone: dict[int, Told]) -> None:
    if cell == "ddp_batchnorm":
        pytest.skip("BatchNorm sees another batch on each process")
    expected = alone[WIDTH.get(cell, 16)]["rows"]
    rows = told[cell][0]["whole"]["rows"]
    assert len(rows) == STEPS
    for row, reference in zip(rows, expected, strict=True):
        if reference["step"] == NAN_STEP:
            assert math.isnan(row["norm"])
            continue
        assert (row["layers"], row["numel"]) == (reference["layers"], reference["numel"])
        assert row["matrix"] == reference["matrix"]
        assert row["norm"] == pytest.approx(reference["norm"], rel=1e-5)
        assert row["norms"] == pytest.approx(reference["norms"], rel=1e-5)
        assert float(row["loss"]) == pytest.approx(float(reference["loss"]), rel=1e-5)
        assert (row["ratio"] is None) == (reference["ratio"] is None)
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(reference["ratio"], rel=1e-4)
    assert [row["step"] for row in rows if row["actions"]] == [NAN_STEP, SPIKE_STEP, EXPLOSION_STEP]


def test_processes_talk_once_a_step(cell: str, told: dict[str, list[Told]]) -> None:
    rows = told[cell][0]["whole"]["rows"]
    # Activation statistics, and the operation that made NaN.
    looks = {0, 1, 2, 4, 8, 12, NAN_STEP} if cell in REPLICAS else set()
    checks = {0, 4, 8, NAN_STEP}  # weights and optimizer state: before a snapshot, and when something is not finite
    due = [row["calls"] - 1 - (row["step"] in looks) for row in rows]
    assert {row["step"] for row, calls in zip(rows, due, strict=True) if calls} >= checks
    assert set(due) == {0, 1}


def test_trouble_of_one_process_is_skipped_exactly_by_all(cell: str, told: dict[str, list[Told]]) -> None:
    for rank in told[cell]:
        row = rank["whole"]["rows"][NAN_STEP]
        assert row["actions"] == ["skipped the step"]
        assert NAN_STEP in row["same_as"]
        assert NAN_STEP in row["buffers_as"]


def test_rollback_is_bit_exact(cell: str, told: dict[str, list[Told]]) -> None:
    for rank in told[cell]:
        row = rank["whole"]["rows"][SPIKE_STEP]
        assert row["actions"] == ["rolled back to step 8", "reduced the learning-rate factor from 1 to 0.1"]
        assert 8 in row["same_as"]
        assert SPIKE_STEP not in row["same_as"]


def test_clipping_reaches_every_piece(cell: str, told: dict[str, list[Told]]) -> None:
    row = told[cell][0]["whole"]["rows"][EXPLOSION_STEP]
    assert row["clip"] < 0.01
    squares = [rank["whole"]["left"][EXPLOSION_STEP] for rank in told[cell]]
    total = sum(squares) if cell.startswith("fsdp1") else squares[0]
    assert math.sqrt(total) == pytest.approx(float(row["limit"]), rel=1e-4)


def test_learning_rate_is_reduced_and_stays_the_users(cell: str, told: dict[str, list[Told]]) -> None:
    for rank in told[cell]:
        rows = rank["whole"]["rows"]
        assert {row["user_lr"] for row in rows} == {0.01}
        assert [row["lr_factor"] for row in rows] == [1.0] * SPIKE_STEP + [0.1] * (STEPS - SPIKE_STEP)


def test_a_resumed_run_goes_on_as_if_it_had_not_ended(cell: str, told: dict[str, list[Told]]) -> None:
    for rank in told[cell]:
        went_on = [row for row in rank["whole"]["rows"] if row["step"] >= SAVED]
        resumed = rank["resumed"]["rows"]
        for one, other in zip(went_on, resumed, strict=True):
            for key in ("step", "loss", "norms", "findings", "actions", "lr_factor", "clip", "limit"):
                assert one[key] == other[key], (one["step"], key)
        assert rank["resumed"]["incidents"] == rank["whole"]["incidents"]


def test_buffers_of_all_processes_are_judged(told: dict[str, list[Told]]) -> None:
    rows = told["ddp_batchnorm"][0]["whole"]["rows"]
    assert rows[3]["buffers"] == ["net.norm.running_mean", "net.norm.running_var"]
    assert "buffer" in rows[NAN_STEP]["findings"][0]


# ---------------------------------------------------------------- experiments under DDP


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Told]]:
    two = launch(tmp_path_factory.mktemp("two"), 2, tuple(repair.CELLS), "repair.py")
    four = launch(tmp_path_factory.mktemp("four"), 4, ("repair",), "repair.py")
    return {**two, "repair by four": four["repair"]}


@pytest.mark.parametrize("cell", [*repair.CELLS, "repair by four"])
def test_all_processes_come_to_the_same_verdict(cell: str, repaired: dict[str, list[Told]]) -> None:
    first, *others = repaired[cell]
    assert "error" not in first, first["error"]
    for other in others:
        assert json.dumps(other) == json.dumps(first)


@pytest.mark.parametrize("cell", ["repair", "repair by four", "random"])
def test_the_verdict_and_the_weights_are_those_of_one_process(cell: str, repaired: dict[str, list[Told]]) -> None:
    told = repaired[cell][0]
    alone = repair.tell(*repair.CELLS[cell.split()[0]](1), {})
    for one, other in zip(told["incidents"], alone["incidents"], strict=True):
        assert (one["kind"], one["actions"]) == (other["kind"], other["actions"])
        assert [name for name, _ in one["trials"]] == [name for name, _ in other["trials"]]
    assert any(incident["actions"] for incident in told["incidents"])
    assert told["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    for name, weights in told["weights"].items():
        assert weights == pytest.approx(alone["weights"][name], rel=1e-3, abs=1e-4)


def test_what_fails_in_one_process_fails_in_all(repaired: dict[str, list[Told]]) -> None:
    asked, _ = repaired["fails"][0]["incidents"]
    assert asked["actions"] == ["ScaleLR(300)"]
    assert dict(asked["trials"])["Wide + ScaleLR(1000)"] == math.inf


def test_a_healthy_run_is_left_alone(repaired: dict[str, list[Told]]) -> None:
    assert repaired["healthy"][0]["incidents"] == []
    assert repaired["healthy"][0]["weights"] == repaired["unguarded"][0]["weights"]


@pytest.mark.parametrize("cell", ["ddp", "fsdp1", "fsdp2", "tp"])
def test_groups_are_measured_and_clipped_as_in_one_process(cell: str, tmp_path: Path) -> None:
    alone = groups.run(Story(width=WIDTH.get(cell, 16)), {})
    told = launch(tmp_path, 2, (cell,), "groups.py")[cell]
    for rank in told:
        assert "error" not in rank, rank["error"]
    for ours, reference, *ranks in zip(told[0]["rows"], alone, *(rank["rows"] for rank in told), strict=True):
        assert ours["norms"] == pytest.approx(reference["norms"], rel=1e-5)
        assert ours["clip"] == pytest.approx(reference["clip"], rel=1e-5)
        for part in ("first", "middle", "last.weight"):
            squares = [rank[part] for rank in ranks]
            norm = math.sqrt(sum(squares) if cell == "fsdp1" else squares[0])
            expected = {"first": 0.01, "middle": reference["norms"]["middle"], "last.weight": 0.02}[part]
            assert norm == pytest.approx(expected, rel=1e-4)


def test_names_that_fsdp1_has_flattened_are_refused(tmp_path: Path) -> None:
    for rank in launch(tmp_path, 2, ("fsdp1_flat",), "groups.py")["fsdp1_flat"]:
        assert "must match the name of a parameter" in rank["error"]
