"""The folder of an embedded atlas: generations of files, of which one counts.

::

    FOLDER/
      VERSION             JSON: format, engine, the generation that counts and the builds in it; replaced in one step
      LOCK                held by the one writer
      current             a link to the generation that counts, for people and other tools; nothing of ours reads it
      generations/N/      atlas.lbug  search.sqlite  adjacency/MODEL@SET/  vectors/MODEL@SET/  LOCK, which readers share

A change is written into a new generation, beside the one that counts. The moment it happens is the replacement of
VERSION: whoever opens the atlas sees all of the old or all of the new, and whatever dies on the way leaves the old.
Readers keep the generation they opened; a writer sweeps those that nobody reads any more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from atlas.errors import NoAtlas, NoSpace, StoreError, StoreLocked, StoreVersion
from atlas.stores.embedded.engine import PINNED

FORMAT = 3
GRAPH, INDEX, ADJACENCY, VECTORS = "atlas.lbug", "search.sqlite", "adjacency", "vectors"
_HOW = "`atlas ingest NAME` makes one, `atlas load BUILD` loads one that is staged, `make demo` shows a small one"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PATIENCE = 5.0


class Folder:
    """Where the files are, who holds them, and how one generation follows another."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._writer: IO[str] | None = None

    def generation(self, number: int) -> Path:
        return self.path / "generations" / str(number)

    def state(self) -> dict[str, Any]:
        """What VERSION says: ``format, engine, generation, builds``. Raises NoAtlas, StoreVersion."""
        state = self.version()
        if (state["engine"], state["format"]) != (PINNED, FORMAT):
            raise StoreVersion(
                f"{self.path} was written by engine {state['engine']}, format {state['format']}; this is engine "
                f"{PINNED}, format {FORMAT}. `atlas doctor --mend` rebuilds it from its builds"
            )
        return state

    def version(self) -> dict[str, Any]:
        """The same, of whatever version it is. Raises NoAtlas."""
        if not self.path.exists():
            raise NoAtlas(f"there is no atlas at {self.path}. {_HOW}")
        try:
            state = json.loads((self.path / "VERSION").read_text(encoding="utf-8"))
            assert all(type(state[name]) is int for name in ("format", "generation"))
            assert isinstance(state["builds"], list)
            assert isinstance(state["engine"], str)
        except (OSError, ValueError, KeyError, TypeError, AssertionError):
            raise NoAtlas(f"{self.path} is not an atlas (it has no readable VERSION). {_HOW}") from None
        return state

    @property
    def empty(self) -> bool:
        """Whether nothing was ever written here."""
        return not (self.path / "VERSION").exists()

    def share(self) -> tuple[dict[str, Any], IO[bytes]]:
        """The state, and a hold on its generation: it is not swept before the hold is closed. Raises NoAtlas."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            state = self.state()
            lock = self.generation(state["generation"]) / "LOCK"
            try:
                held = lock.open("rb")
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if lock.exists():  # and was not swept between the two
                    return state, held
                held.close()
            except OSError as error:
                if time.monotonic() > give_up:
                    raise NoAtlas(
                        f"{self.path}: generation {state['generation']}, which counts, cannot be read "
                        f"({error.strerror}); load its builds into a new folder"
                    ) from error
            # it was replaced since VERSION was read, or is being swept
            time.sleep(0.02)

    def lock(self) -> None:
        """Become the one writer; makes the folder. Raises StoreLocked, NoAtlas where something else is there."""
        ours = {"LOCK", "VERSION", "VERSION.new", "generations", "current"}
        if self.path.is_dir() and self.empty and not ours.issuperset(path.name for path in self.path.iterdir()):
            raise NoAtlas(f"{self.path} holds other files and is no atlas; give a new or an empty folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = (self.path / "LOCK").open("a+", encoding="utf-8")
        except OSError as error:
            raise _meaning(error, self.path) from error
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat((self.path / "LOCK").stat(), os.fstat(held.fileno())):
                raise OSError  # the writer before took its lock away with it
        except OSError:
            held.seek(0)
            who = held.read().strip() or "another process"
            held.close()
            raise StoreLocked(f"{who} is writing to {self.path}; wait for it to end, then run the same again") from None
        held.truncate(0)
        held.write(f"process {os.getpid()}")
        held.flush()
        self._writer = held

    def unlock(self) -> None:
        if self._writer:
            with suppress(OSError):
                self._writer.truncate(0)
                if self.empty:  # nothing came of it: leave nothing behind
                    shutil.rmtree(self.path / "generations", ignore_errors=True)
                    (self.path / "LOCK").unlink()
                    self.path.rmdir()
            self._writer.close()
            self._writer = None

    @contextmanager
    def change(self) -> Iterator[Path]:
        """A new generation to write into; gone again if the block fails. :meth:`commit` makes it count.

        Whatever a full disk raises becomes NoSpace.
        """
        folder = self.generation(1 + max((int(path.name) for path in self._generations()), default=0))
        try:
            (folder / ADJACENCY).mkdir(parents=True)
            (folder / "LOCK").touch()
            with (folder / "LOCK").open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_SH)
                yield folder
        except BaseException as error:
            if self._counts() != int(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError | sqlite3.Error):
                raise _meaning(error, self.path) from error
            raise

    def commit(self, folder: Path, builds: list[dict[str, Any]]) -> None:
        """Let a finished generation count, in one step."""
        for path in folder.rglob("*"):
            if path.is_file():
                _sync(path)
        beside = self.path / "VERSION.new"
        state = {"format": FORMAT, "engine": PINNED, "generation": int(folder.name), "builds": builds}
        beside.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        _sync(beside)
        beside.replace(self.path / "VERSION")
        _sync(self.path)
        with suppress(OSError):  # a convenience; some file systems have no links
            link = self.path / "current.new"
            link.unlink(missing_ok=True)
            link.symlink_to(Path("generations") / folder.name)
            link.replace(self.path / "current")

    def left_over(self) -> list[Path]:
        """Generations that do not count and that nobody reads."""
        found = []
        for path in self._generations():
            if int(path.name) != self._counts():
                with suppress(BlockingIOError, FileNotFoundError), (path / "LOCK").open("rb") as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.append(path)
                if not (path / "LOCK").exists():
                    found.append(path)
        return sorted(found)

    def sweep(self) -> int:
        """Delete them; returns how many there were."""
        left = self.left_over()
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return len(left)

    def room(self, needed: int) -> None:
        """Raise NoSpace at once where the disk cannot hold ``needed`` more bytes."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise NoSpace(
                f"{self.path} needs about {needed / 1e6:,.0f} MB more and the disk has {free / 1e6:,.0f} MB; nothing "
                "was changed. Free some and run the same again"
            )

    def _counts(self) -> int:
        try:
            return self.version()["generation"]
        except NoAtlas:
            return 0

    def _generations(self) -> list[Path]:
        folder = self.path / "generations"
        return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _meaning(error: OSError | sqlite3.Error, path: Path) -> Exception:
    """What went wrong with a file, for the reader; the error itself where it is a defect of ours."""
    if (isinstance(error, OSError) and error.errno in _FULL) or "disk is full" in str(error):
        return NoSpace(f"no room for {path} ({error}); nothing was changed. Free some and run the same again")
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) or (
        isinstance(error, OSError) and error.errno == errno.EROFS
    ):
        return StoreError(f"{path} cannot be written ({error.strerror}); choose another folder with --store")
    return error
