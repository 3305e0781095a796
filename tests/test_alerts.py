"""`GradGuard(on_incident=...)`: what is called, when, and what becomes of its exceptions."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import Faults, Net, fit

from lightning_gradguard import GradGuard, Incident
from lightning_gradguard.alerts import (
    MOST_WAITING,
    Announcer,
    MLflowTag,
    Outbox,
    RaiseOnUnrecoverable,
    StopRun,
    UnrecoverableError,
    WandbAlert,
    Webhook,
)
from lightning_gradguard.policy import Policy
from lightning_gradguard.remedies import SkipStep, Stop

NAN = float("nan")
GIVES_UP = Policy({"nonfinite": [SkipStep(), Stop()]})


def broken(incident: Incident, trainer: Any) -> None:
    raise KeyError("no such channel")


def test_an_alert_is_called_live_when_an_incident_begins_and_when_it_ends() -> None:
    seen: list[Any] = []
    guard = GradGuard(on_incident=lambda incident, trainer: seen.append((incident, trainer.global_step)))
    fit(Net(), guard, Faults({10: NAN, 11: NAN}))
    assert [(i.kind, i.outcome, i.count, step) for i, step in seen] == [
        ("nonfinite", "open", 1, 10),
        ("nonfinite", "resolved", 2, 14),
    ]


def test_an_exception_is_logged_once_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Incident] = []
    guard = GradGuard(on_incident=[broken, lambda incident, _: seen.append(incident)])
    with caplog.at_level(logging.WARNING, "lightning_gradguard"):
        trainer = fit(Net(), guard, Faults({10: NAN, 20: NAN}))
    assert trainer.global_step == 40
    assert len(seen) == 4
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]


def test_a_run_that_is_given_up_raises_after_all_alerts_were_called() -> None:
    seen: list[str] = []
    guard = GradGuard(GIVES_UP, on_incident=[RaiseOnUnrecoverable(), lambda i, _: seen.append(i.outcome)])
    with pytest.raises(UnrecoverableError, match=r"steps 10-11: nonfinite.*; unrecoverable"):
        fit(Net(), guard, Faults({10: NAN, 11: NAN}))
    assert seen == ["open", "unrecoverable"]
    assert guard.report().outcome == "unrecoverable"


def test_stop_run_ends_training_at_its_kinds() -> None:
    guard = GradGuard("monitor", on_incident=StopRun(kinds=["nonfinite"]))
    assert fit(Net(), guard, Faults({10: NAN})).global_step == 11
    guard = GradGuard("monitor", on_incident=StopRun(kinds=["exploding"]))
    assert fit(Net(), guard, Faults({10: NAN})).global_step == 40


def test_stop_run_does_not_stop_when_an_incident_ends() -> None:
    trainer = SimpleNamespace(should_stop=False)
    StopRun()(Incident("nonfinite", 7, 7, outcome="resolved"), trainer)
    assert not trainer.should_stop


def test_an_incident_that_was_open_before_a_resume_does_not_begin_again() -> None:
    seen: list[str] = []
    known = Incident("nonfinite", 7, 7)
    announcer = Announcer([lambda incident, _: seen.append(incident.outcome)], [known])
    announcer.announce([known, known.closed("resolved")], None)
    assert seen == ["resolved"]


def test_alerts_survive_copying() -> None:
    guard = GradGuard(on_incident=[broken, Webhook("https://example.org"), StopRun(), RaiseOnUnrecoverable()])
    for copied in (copy.deepcopy(guard), pickle.loads(pickle.dumps(guard))):
        assert copied.on_incident == guard.on_incident
        with pytest.raises(UnrecoverableError):
            fit(Net(), GradGuard(GIVES_UP, on_incident=copied.on_incident[-1]), Faults({10: NAN, 11: NAN}))


@pytest.mark.parametrize("wrong", ["webhook", [broken, None], 3])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"`GradGuard\(on_incident=...\)` must be callable, or several, got"):
        GradGuard(on_incident=wrong)


# ---------------------------------------------------------------- webhook


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/hook", received
    served.shutdown()
    served.server_close()
    thread.join()


def trainer_with(*loggers: Any) -> Any:
    return SimpleNamespace(is_global_zero=True, loggers=list(loggers))


def test_a_webhook_gets_the_incident_as_json(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, received = server
    box = Outbox()
    monkeypatch.setattr("lightning_gradguard.alerts.outbox", lambda: box)
    trainer = trainer_with(SimpleNamespace(name="digits", version="version_3"))
    Webhook(url)(Incident("nonfinite", 7, 7), trainer)
    assert box.flush()
    assert received == [{"text": "GradGuard digits/version_3: step 7: nonfinite; no action; open"}]
    Webhook(url)(Incident("nonfinite", 7, 7), SimpleNamespace(is_global_zero=False))
    assert box.flush()
    assert len(received) == 1


def test_a_webhook_never_raises_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box, goes_on = Outbox(), threading.Event()
    monkeypatch.setattr("lightning_gradguard.alerts.outbox", lambda: box)
    box.put(goes_on.wait, 5.0)
    with caplog.at_level(logging.WARNING, "lightning_gradguard"):
        for _ in range(MOST_WAITING + 3):  # the thread may or may not have taken the first
            Webhook("http://127.0.0.1:1/secret", timeout=0.5)(Incident("nonfinite", 7, 7), trainer_with())
        assert "drops a message" in caplog.text
        goes_on.set()
        assert box.flush()
    assert "could not post to 127.0.0.1" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(ValueError, match="must begin with http"):
        Webhook("file:///etc/hosts")


# ---------------------------------------------------------------- experiment trackers


def test_wandb_gets_an_alert_with_a_level() -> None:
    sent: list[dict[str, str]] = []
    logger = SimpleNamespace(experiment=SimpleNamespace(alert=lambda **alert: sent.append(alert)))
    for outcome in ("open", "resolved", "unrecoverable"):
        WandbAlert()(Incident("nonfinite", 7, 7, outcome=outcome), trainer_with(logger))
    assert [alert["level"] for alert in sent] == ["WARN", "INFO", "ERROR"]
    assert sent[0]["title"] == "GradGuard: nonfinite open"


def test_mlflow_gets_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path}")
    MLflowTag()(Incident("nonfinite", 7, 7), trainer_with(logger))
    tags = logger.experiment.get_run(logger.run_id).data.tags
    assert tags["gradguard.nonfinite"] == "open"
    assert tags["gradguard.incident"].startswith("step 7: nonfinite")


@pytest.mark.parametrize("alert", [WandbAlert(), MLflowTag()])
def test_without_the_logger_the_message_says_what_to_do(alert: Any) -> None:
    with pytest.raises(ValueError, match="give it one"):
        alert(Incident("nonfinite", 7, 7), trainer_with(SimpleNamespace(experiment=None)))


# ---------------------------------------------------------------- YAML


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI's own
@pytest.mark.parametrize("several", [True, False])
def test_alerts_from_the_yaml_of_lightning_cli(several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("pytorch_lightning.cli")
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    stop = {"class_path": "lightning_gradguard.alerts.StopRun", "init_args": {"kinds": ["nonfinite"]}}
    raises = {"class_path": "lightning_gradguard.alerts.RaiseOnUnrecoverable"}
    guard = {
        "class_path": "lightning_gradguard.GradGuard",
        "init_args": {"on_incident": [stop, raises] if several else stop},
    }
    (tmp_path / "config.yaml").write_text(json.dumps({"trainer": {"callbacks": [guard]}}))
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    arguments = [f"--config={tmp_path / 'config.yaml'}", "--seed_everything=false"]
    built = cli.LightningCLI(Net, run=False, args=arguments, trainer_defaults=quiet)
    (made,) = [callback for callback in built.trainer.callbacks if isinstance(callback, GradGuard)]
    assert made.on_incident == (StopRun(["nonfinite"]), RaiseOnUnrecoverable())[: 1 + several]
