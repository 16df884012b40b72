"""An index's folder on disk: its versions, which of them is served, and how one takes another's place.

    INDEX/CURRENT             name of the version that is served; replaced in one step
    INDEX/versions/000001/    a version: never changed once it has this name
    INDEX/building/           a build under way; what it has done so far is kept for the next attempt
    INDEX/lock                held by whoever builds

A build writes a version aside, makes it durable, gives it its name, and only then replaces CURRENT. Whenever it is
interrupted, CURRENT names a whole version.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from reranker.errors import ConfigurationError

_CURRENT, _VERSIONS, _BUILDING, _LOCK = "CURRENT", "versions", "building", "lock"
_KEPT = 2
"""Versions that stay: the one that is served, and the one before it, which a reader may be opening."""


class NoIndexError(ConfigurationError):
    """There is no index in a folder."""

    code = "no_index"

    def __init__(self, folder: str) -> None:
        super().__init__(folder)  # pickle rebuilds from these
        self.folder = folder

    def __str__(self) -> str:
        return f"{self.folder}: no index there; make one: reranker index build FILES --out {self.folder}"


class IndexFolder:
    """One index, over time."""

    def __init__(self, path: Path) -> None:
        """Name the folder; it need not exist yet."""
        self.path = path
        self.building = path / _BUILDING

    def current(self) -> Path:
        """The folder of the version that is served.

        Raises:
            NoIndexError: There is none.
        """
        try:
            name = (self.path / _CURRENT).read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):
            raise NoIndexError(str(self.path)) from None
        version = self.path / _VERSIONS / name
        if not name or not version.is_dir():
            raise NoIndexError(str(self.path))
        return version

    def serving(self) -> str | None:
        """Name of the version that is served. None: there is none."""
        try:
            return self.current().name
        except NoIndexError:
            return None

    def next_name(self) -> str:
        """What the version after the one that is served is to be called."""
        return f"{int(self.serving() or 0) + 1:06d}"

    def drop_unserved(self) -> None:
        """Remove versions that a build named and never let be served, for it was killed. Only while `locked`."""
        serving = int(self.serving() or 0)
        for one in self._versions():
            if int(one.name) > serving:
                shutil.rmtree(one)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to build here; it ends with the process, however that ends.

        Raises:
            ConfigurationError: Another process holds it, or the folder cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / _LOCK).open("a")
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be written to ({error.strerror})") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigurationError(f"{self.path}: another build of this index is under way") from None
            yield

    def publish(self, made: Path, name: str) -> Path:
        """Let a version that was written aside be served from now on, and drop old ones. Only while `locked`.

        Args:
            made: Its folder, on the same file system.
            name: What it is to be called.

        Returns:
            Where it is now.
        """
        version = self.path / _VERSIONS / name
        version.parent.mkdir(exist_ok=True)
        for file in made.rglob("*"):
            if file.is_file():
                sync(file)
        sync(made)
        os.rename(made, version)
        sync(version.parent)
        write_whole(self.path / _CURRENT, name)
        for old in self._versions()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return version

    def _versions(self) -> list[Path]:
        """What is there, oldest first."""
        folder = self.path / _VERSIONS
        return sorted(one for one in folder.iterdir() if one.name.isdecimal()) if folder.is_dir() else []


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that at any moment its old content is there, or all of the new."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file or a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
