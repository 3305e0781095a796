"""What `GradGuard(on_incident=...)` may call: alerts outside of the run, and ways to end it.

An alert is anything that can be called with an `Incident` and the Trainer, when the incident begins (its `outcome` is
`"open"`) and when it ends. Every process calls it, because all of them find the same; those here that send something
do so in the first process alone.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import queue
import threading
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lightning_gradguard.arguments import require, require_number
from lightning_gradguard.findings import OPEN, RESOLVED, UNRECOVERABLE, Incident

__all__ = ["Alert", "MLflowTag", "RaiseOnUnrecoverable", "StopRun", "UnrecoverableError", "WandbAlert", "Webhook"]

#: What is called with an incident and the Trainer.
Alert = Callable[[Incident, Any], Any]

#: Messages that may wait to be sent; further ones are dropped. Chosen.
MOST_WAITING = 100

log = logging.getLogger("lightning_gradguard")


class UnrecoverableError(RuntimeError):
    """Ends training when an alert raises it. Every other `Exception` of an alert is logged, and training goes on."""


@dataclass(frozen=True)
class RaiseOnUnrecoverable:
    """Raises when an incident is unrecoverable, so that the program ends with an exit code other than 0.

    Only policies that act give a run up. Lightning then calls its `on_exception` hooks.

    Raises:
        UnrecoverableError: In the training step in which the guard gives the run up.

    Example:
        >>> RaiseOnUnrecoverable()(Incident("nonfinite", 7, 9, outcome="unrecoverable"), trainer=None)
        Traceback (most recent call last):
        lightning_gradguard.alerts.UnrecoverableError: steps 7-9: nonfinite; no action; unrecoverable
    """

    def __call__(self, incident: Incident, trainer: Any) -> None:
        if incident.outcome == UNRECOVERABLE:
            raise UnrecoverableError(incident.message)


@dataclass(frozen=True)
class StopRun:
    """Ends training after the step in which an incident begins, as `trainer.should_stop = True` does.

    Args:
        kinds: Kinds of incidents that end it; every kind when there are none.

    Example:
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(should_stop=False)
        >>> StopRun(kinds=("nonfinite",))(Incident("nonfinite", 7, 7), trainer)
        >>> trainer.should_stop
        True
    """

    kinds: Sequence[str] = ()

    def __call__(self, incident: Incident, trainer: Any) -> None:
        if incident.outcome == OPEN and (not self.kinds or incident.kind in self.kinds):
            trainer.should_stop = True


@dataclass(frozen=True)
class WandbAlert:
    """Sends an alert of W&B (e-mail or Slack, as set in the W&B account) through the Trainer's `WandbLogger`."""

    def __call__(self, incident: Incident, trainer: Any) -> None:
        if trainer.is_global_zero:
            run = first_logger(trainer, "WandbLogger", lambda logger: hasattr(logger.experiment, "alert")).experiment
            levels = {RESOLVED: "INFO", UNRECOVERABLE: "ERROR"}
            title = f"GradGuard: {incident.kind} {incident.outcome}"
            run.alert(title=title, text=incident.message, level=levels.get(incident.outcome, "WARN"))


@dataclass(frozen=True)
class MLflowTag:
    """Sets the tag `gradguard.KIND` of the Trainer's MLflow run to the outcome of the latest incident of that kind.

    Runs are then found by it: `tags."gradguard.nonfinite" = "unrecoverable"`. The tag `gradguard.incident` holds the
    latest incident as a sentence.
    """

    def __call__(self, incident: Incident, trainer: Any) -> None:
        if trainer.is_global_zero:
            logger = first_logger(trainer, "MLFlowLogger", lambda logger: hasattr(logger.experiment, "set_tag"))
            logger.experiment.set_tag(logger.run_id, f"gradguard.{incident.kind}", incident.outcome)
            logger.experiment.set_tag(logger.run_id, "gradguard.incident", incident.message[:500])


@dataclass(frozen=True)
class Webhook:
    """Posts `{"text": ...}` as JSON to an address, as Slack, Mattermost and Discord (`.../slack`) take it.

    A thread of its own sends the messages: training never waits for it. A message that cannot be sent is logged. At the
    end of the program at most `timeout` seconds are spent on what is still to be sent.

    Args:
        url: The address; not shown in `repr`, since whoever knows it may post.
        timeout: Seconds until an attempt is given up. Default chosen.

    Raises:
        ValueError: If `url` does not begin with http:// or https://, or `timeout` is not positive.

    Example:
        >>> Webhook("https://hooks.slack.com/services/T0/B0/secret")
        Webhook(timeout=5.0)
    """

    url: str = field(repr=False)
    timeout: float = 5.0

    def __post_init__(self) -> None:
        known = isinstance(self.url, str) and urlsplit(self.url).scheme in ("http", "https")
        require(known, "Webhook(url=...)", "must begin with http:// or https://", self.url)
        require_number("Webhook(timeout=...)", self.timeout, above=0)

    def __call__(self, incident: Incident, trainer: Any) -> None:
        if trainer.is_global_zero:
            run = "".join(f" {logger.name}/{logger.version}" for logger in trainer.loggers[:1])
            outbox().put(functools.partial(self._send, f"GradGuard{run}: {incident.message}"), self.timeout)

    def _send(self, text: str) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps({"text": text}).encode(), headers)
        try:
            urllib.request.urlopen(request, timeout=self.timeout).close()
        except Exception as error:
            log.warning("GradGuard could not post to %s (%s).", urlsplit(self.url).hostname, error)


class Outbox:
    """Calls what it is given one after another, in a daemon thread."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Callable[[], Any]] = queue.Queue(MOST_WAITING)
        self._patience = 0.0
        threading.Thread(target=self._work, name="gradguard-outbox", daemon=True).start()
        atexit.register(self.flush)

    def _work(self) -> None:
        while True:
            self._waiting.get()()

    def put(self, send: Callable[[], Any], patience: float) -> None:
        """Adds one message; drops it when too many wait.

        Args:
            send: Sends it, and raises nothing.
            patience: Seconds that the end of the program may wait for it.
        """
        self._patience = max(patience, self._patience)
        try:
            self._waiting.put_nowait(send)
        except queue.Full:
            log.warning("GradGuard drops a message, because %d others wait to be sent.", MOST_WAITING)

    def flush(self) -> bool:
        """Waits until everything is sent, but not longer than the last messages may take; whether it is."""
        done = threading.Event()
        try:
            self._waiting.put(done.set, timeout=self._patience)
        except queue.Full:
            return False
        return done.wait(self._patience)


@functools.cache
def outbox() -> Outbox:
    """The one of this process."""
    return Outbox()


class Announcer:
    """Calls the alerts of one run: once when an incident begins, and once when it ends.

    Args:
        alerts: What is called.
        known: Incidents that were open before the run was resumed.
    """

    def __init__(self, alerts: Sequence[Alert], known: Iterable[Incident] = ()) -> None:
        self.alerts = alerts
        self._told = {(i.optimizer, i.kind, i.first_step): i.outcome for i in known}
        self._failed: set[int] = set()

    def announce(self, incidents: Iterable[Incident], trainer: Any) -> None:
        """Calls every alert with the incidents that have begun or ended.

        Raises:
            UnrecoverableError: If an alert has raised one; all alerts are called before.
        """
        deliberate: UnrecoverableError | None = None
        for incident in incidents:
            key = incident.optimizer, incident.kind, incident.first_step
            if incident.outcome == self._told.get(key):
                continue
            self._told[key] = incident.outcome
            for index, alert in enumerate(self.alerts):
                try:
                    alert(incident, trainer)
                except UnrecoverableError as error:
                    deliberate = error
                except Exception as error:
                    self._log(index, error)
            if incident.outcome not in (OPEN, UNRECOVERABLE):  # nothing will change about it
                del self._told[key]
        if deliberate is not None:
            raise deliberate

    def _log(self, index: int, error: Exception) -> None:
        if index not in self._failed:
            self._failed.add(index)
            alert = self.alerts[index]
            log.warning("GradGuard: on_incident=%r raised %r; the run goes on.", alert, error, exc_info=error)


def first_logger(trainer: Any, name: str, fits: Callable[[Any], bool]) -> Any:
    """The first of the Trainer's loggers that fits.

    Raises:
        ValueError: If there is none.
    """
    logger = next(filter(fits, trainer.loggers), None)
    if logger is None:
        raise ValueError(f"the Trainer has no {name}: give it one (Trainer(logger=...)), or leave this alert out")
    return logger
