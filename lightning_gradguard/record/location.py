"""RECORD: a file or directory on a disk or in an object store (`s3://...`, `gs://...`), through fsspec."""

from __future__ import annotations

import os
import warnings
from fnmatch import fnmatch
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Location:
    """A file or a directory, which need not exist.

    Args:
        url: A path, or a URL of any file system that fsspec knows.

    Example:
        >>> log = Location("memory://runs/7") / "log.txt"
        >>> log.append(b"one")
        >>> log.append(b"two", new_line=True)
        >>> log.read().split(), Location("memory://runs/7").names("*.txt")
        ([b'one', b'two'], ['log.txt'])
    """

    def __init__(self, url: str | os.PathLike[str] | Location) -> None:
        self.url = os.fspath(url)
        self.fs, self.path = fsspec.core.url_to_fs(self.url)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def __fspath__(self) -> str:
        return self.url

    __str__ = __fspath__

    def __truediv__(self, name: str) -> Location:
        return Location(os.path.join(self.url, name) if self.is_local else f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return str(self.path).rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The directory that it is in."""
        return Location(os.path.dirname(self.path) if self.is_local else self.url.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such a file or directory."""
        return bool(self.fs.exists(self.path))

    def names(self, pattern: str = "*") -> list[str]:
        """Names in a directory, sorted; none where there is no directory."""
        self.fs.invalidate_cache()
        try:
            paths = self.fs.ls(self.path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(name for name in names if fnmatch(name, pattern))

    def find(self, *patterns: str) -> list[Location]:
        """The files below a directory whose names match one of `patterns`, sorted."""
        self.fs.invalidate_cache()
        paths = (path for path in self.fs.find(self.path) if any(fnmatch(path.rpartition("/")[2], p) for p in patterns))
        return [Location(path if self.is_local else self.fs.unstrip_protocol(path)) for path in sorted(paths)]

    def size(self, name: str) -> int:
        """Bytes in a file of this directory; 0 where there is no such file."""
        return int((self / name).fs.size((self / name).path) or 0) if (self / name).exists() else 0

    def modified(self, name: str) -> float:
        """When a file of this directory was written last, in seconds since 1970; 0 where that is not known."""
        try:
            return float(self.fs.modified((self / name).path).timestamp())
        except (FileNotFoundError, NotImplementedError):
            return 0.0

    def read(self) -> bytes:
        """A file's content; nothing where there is no file."""
        try:
            return bytes(self.fs.cat_file(self.path))
        except FileNotFoundError:
            return b""

    def write(self, data: bytes) -> None:
        """Replaces a file's content."""
        if self.is_local:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.fs.pipe_file(self.path, data)

    def append(self, data: bytes, new_line: bool = False) -> None:
        """Adds to a file. An object store has no appending: there the whole file is read and written.

        Args:
            data: What to add.
            new_line: Whether to end a line that was torn before.
        """
        if not self.is_local:
            known = self.read()
            return self.write(known + ended(known[-1:], new_line) + data)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with Path(self.path).open("ab+") as file:
            file.seek(-min(1, file.seek(0, os.SEEK_END)), os.SEEK_END)
            file.write(ended(file.read(1), new_line) + data)


def ended(last: bytes, new_line: bool) -> bytes:
    """What ends a line whose last byte is given; nothing where that is not asked for or needed."""
    return b"\n" if new_line and last not in (b"", b"\n") else b""


def location_of(url: str | os.PathLike[str]) -> Location | None:
    """The location of a run's files; None, with a warning, where its file system cannot be opened."""
    try:
        return Location(url)
    except Exception as error:
        warnings.warn(
            f"GradGuard writes no files: {url} cannot be opened ({type(error).__name__}: {error}).", stacklevel=2
        )
        return None
