"""A failure in showing never stops a run."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from runs import Faults, Net, files, fit, same_state
from tqdm import tqdm

from lightning_gradguard import GradGuard, Policy
from lightning_gradguard.findings import Finding, Incident
from lightning_gradguard.record.console import AboveBars
from lightning_gradguard.record.incident_log import read_incidents
from lightning_gradguard.record.logbook import log_incident_table
from lightning_gradguard.record.report import Report
from lightning_gradguard.remedies import SkipStep, Stop


class BrokenLogger(pl.loggers.CSVLogger):
    """Its disk is full from the first line on."""

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if any(name.startswith("gradguard") for name in metrics):
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


def test_a_failing_logger_is_said_once_and_the_run_is_the_same(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    guarded = Net()
    with pytest.warns(UserWarning, match="could not write to BrokenLogger .*No space left") as caught:
        fit(guarded, GradGuard(), logger=BrokenLogger(tmp_path), log_every_n_steps=1, max_epochs=2)
    assert sum("could not write" in str(w.message) for w in caught) == 1
    pl.seed_everything(0, verbose=False)
    plain = Net()
    fit(plain, max_epochs=2)
    assert same_state(guarded, plain)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "incidents.jsonl").symlink_to("/dev/full")
    guard = GradGuard()
    with pytest.warns(UserWarning, match=r"could not write to incidents.jsonl .*No space left"):
        fit(Net(), Faults({20: float("nan")}), guard, logger=files(tmp_path))
    assert guard.incidents[0].outcome == "resolved"


def test_every_logger_gets_the_curves(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    fit(Net(), Faults({20: float("nan")}), GradGuard(), logger=logger, log_every_n_steps=5)
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        columns = set(next(csv.reader(file)))
    assert {
        "gradguard/grad_norm",
        "gradguard/lr_factor",
        "gradguard/clip_coefficient",
        "gradguard/layer_norm/p50",
    } <= columns


def test_a_tracker_gets_the_curves_and_the_incidents(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = pl.loggers.MLFlowLogger(tracking_uri=(tmp_path / "runs").as_uri())
    guard = GradGuard()
    fit(Net(), Faults({20: float("nan")}), guard, logger=logger, log_every_n_steps=5, default_root_dir=tmp_path)
    norms = logger.experiment.get_metric_history(logger.run_id, "gradguard/grad_norm")
    assert len(norms) >= 40 // 5
    (told,) = (tmp_path / "runs").rglob("incidents.txt")
    assert str(guard.incidents[0]) in told.read_text()


def test_wandb_gets_the_incidents_as_a_table() -> None:
    class Table:
        """Takes text as Lightning's WandbLogger does."""

        experiment = None

        def log_text(self, key: str, columns: list[str], data: list[list[str]]) -> None:
            self.key, self.columns, self.data = key, columns, data

    incident = Incident.start(Finding("nonfinite", 7, detail="loss"), ("SkipStep",)).closed("resolved")
    table = Table()
    log_incident_table(table, Report(10, (incident,)))
    assert table.key == "gradguard/incidents"
    assert table.data == [["7", "nonfinite", "SkipStep", "resolved", str(incident)]]


def test_the_console_tells_the_beginning_and_the_end_of_every_incident(caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="lightning_gradguard"):
        fit(Net(), Faults({20: float("nan"), 21: float("nan")}), GradGuard())
    lines = [record.getMessage() for record in caplog.records if record.name == "lightning_gradguard"]
    assert [line.partition(":")[0] for line in lines] == [
        "GradGuard watches 3 layers, policy 'protect', no log, because there is no logger.",
        "step 20", "step 21", "step 26", "GradGuard",
    ]  # fmt: skip
    assert "skipped the step" in lines[1]
    assert lines[3].startswith("step 26: incident ended: steps 20-21: nonfinite")
    assert "1 incident(s): 1 nonfinite; recovered" in lines[4]


def test_a_message_stands_on_a_line_of_its_own_above_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with tqdm(total=3, file=stream) as bar:
        AboveBars().emit(logging.makeLogRecord({"msg": "told"}))
        bar.update()
    assert re.search(r"0/3.*\r *\rtold\n.*1/3", stream.getvalue(), re.DOTALL)


def test_a_finding_that_lasts_is_told_at_every_power_of_two(caplog: Any) -> None:
    policy = Policy({"nonfinite": [SkipStep()]})
    with caplog.at_level(logging.INFO, logger="lightning_gradguard"):
        fit(Net(), Faults(dict.fromkeys(range(3, 40), float("nan"))), GradGuard(policy))
    told = [record.getMessage() for record in caplog.records if "nonfinite in" in record.getMessage()][:-1]
    assert [line.partition(":")[0] for line in told] == [f"step {3 + n - 1}" for n in (1, 2, 4, 8, 16, 32)]
    assert caplog.records[-1].levelno == logging.WARNING  # the incident is open


def test_a_finding_without_a_remedy_is_told_under_every_policy(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_gradguard"):
        fit(Net(), Faults({20: float("nan")}), GradGuard("monitor"))
    (line, *_) = [record.getMessage() for record in caplog.records]
    assert line.startswith("step 20: nonfinite")
    assert "no action; advice: clean the samples that are named" in line


def test_a_run_that_was_given_up_ends_with_an_error(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_gradguard"):
        fit(Net(), Faults({20: float("nan")}), GradGuard(Policy({"nonfinite": [Stop()]})))
    assert caplog.records[-1].levelno == logging.ERROR


def test_the_log_is_read_back_as_it_was_told(tmp_path: Path) -> None:
    guard = GradGuard()
    fit(Net(), Faults({20: float("nan"), 38: float("inf")}), guard, logger=files(tmp_path))
    assert [str(i) for i in read_incidents(tmp_path / "incidents.jsonl")] == [str(i) for i in guard.report().incidents]


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    fit(Net(), Faults({20: float("nan")}), GradGuard(), logger=files(tmp_path))
    log = tmp_path / "incidents.jsonl"
    log.write_text("[]\nnot json\n" + log.read_text() + '{"kind": "nonfi')
    assert {i.kind for i in read_incidents(log)} == {"nonfinite"}
