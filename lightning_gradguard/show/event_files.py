"""Reads TensorBoard's event files for the report: what is damaged is left out, with a sentence about it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from lightning_gradguard.record.location import Location
from lightning_gradguard.show import metadata

#: Pattern of TensorBoard's event files.
EVENTS = "*tfevents*"


class EventFiles:
    """The events of several files, in the place of TensorBoard's loader, which gives up at the first defect.

    Args:
        paths: The files, oldest first.

    Attributes:
        problems: What could not be read, one sentence for each file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self.problems: dict[str, str] = {}
        self._path = ""
        self._events = self._read()

    def Load(self) -> Iterator[Any]:
        """Goes on after the last event that was handed out."""
        return self._events

    def damaged(self, error: object) -> None:
        """Notes the first defect of the present file."""
        self.problems.setdefault(self._path, f"{self._path} is damaged ({error}); what can be read of it is shown.")

    def _read(self) -> Iterator[Any]:
        for path in self.paths:
            self._path = path
            try:
                yield from self._read_file(EventFileLoader(path))
            except Exception as error:
                self.damaged(error)

    def _read_file(self, loader: EventFileLoader) -> Iterator[Any]:
        """The events of a file up to a record with a wrong checksum, without those that are no events."""
        while True:
            try:
                yield from loader.Load()
                break
            except DecodeError as error:
                self.damaged(error)
        try:  # the loader takes a wrong checksum for a last record that is still being written
            next(loader._iterator, None)
        except Exception as error:
            if "crc32" in str(error):
                self.damaged(error)


def read_event_files(folders: Iterable[tuple[str, Location]]) -> tuple[MultiplexerDataProvider, dict[str, list[str]]]:
    """TensorBoard's data provider of runs, and for each run what could not be read.

    Args:
        folders: Name and directory of each run.
    """
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of what is normal after a crash
    store = EventMultiplexer(tensor_size_guidance={metadata.PLUGIN_NAME: 0})
    problems: dict[str, list[str]] = {}
    for name, folder in folders:
        files = EventFiles([str(folder / file) for file in folder.names(EVENTS)])
        if files.paths:
            load(store.AddRun(str(folder), name).GetAccumulator(name), files)
        problems[name] = list(files.problems.values())
    return MultiplexerDataProvider(store, ""), problems


def load(accumulator: Any, files: EventFiles) -> None:
    """Gives every event of `files` to TensorBoard's accumulator; one that it cannot take is left out."""
    accumulator._generator = files
    while True:
        try:
            accumulator.Reload()
            return
        except Exception as error:
            files.damaged(error)
