"""The parts of an unfinished build: one folder a unit, whole or not there.

A unit is written beside and renamed, so whatever ends a build, at most the unit in hand is lost, and the next run takes
up behind the last that is there. Parts lie in the build's own folder, whose name holds the hash of all inputs and
settings: a changed input is another build. They are numpy arrays, since the merge reads spans of them from disk.

Several processes may fill one folder (:mod:`ingest.ranks`). Should two make the same unit, the first to finish is kept:
both hold all that the merge needs. One of them at a time may write the build (:meth:`Parts.finishing`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atlas.errors import NoSpace
from ingest.edges import Candidates, Result, Spread

EDGE = np.dtype([("row", "<i4"), ("col", "<i4"), ("weight", "<f4")])
_CANDIDATE = np.dtype([("col", "<i4"), ("row", "<i4"), ("weight", "<f4"), ("z", "<f4")])


@dataclass(frozen=True)
class Unit:
    """A block of rows of one kind of relationship; ``layer`` is a position in the set's layers (0 for logits)."""

    kind: str
    layer: int
    first: int
    """first row, counted within the layer or the vocabulary"""
    last: int
    products: int
    """dot products to take"""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.layer:03}-{self.first:09}"


@contextmanager
def disk(place: Path) -> Iterator[None]:
    """Turn a full disk into :class:`atlas.errors.NoSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise NoSpace(
                f"the disk is full: {place} has no room for more; free some and run the same again, what is finished "
                "stays"
            ) from error
        raise


class Parts:
    """The folder ``work`` of a build."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk(path):
            path.mkdir(parents=True, exist_ok=True)
            for leftover in path.glob(".*"):
                if _abandoned(leftover.name):
                    shutil.rmtree(leftover, ignore_errors=True)

    def done(self, unit: Unit) -> bool:
        return (self.path / unit.name).is_dir()

    @contextmanager
    def writing(self, unit: Unit) -> Iterator[Writing]:
        """Keep what a unit finds; there is nothing of it until all of it is there."""
        with self._beside(unit.name) as folder:
            yield Writing(folder)

    def edges(self, unit: Unit) -> np.ndarray:
        """What a unit's rows keep, records of :data:`EDGE`."""
        return np.load(self.path / unit.name / "edges.npy")

    def statistics(self, unit: Unit) -> dict[str, np.ndarray]:
        """What a unit says of its rows."""
        with np.load(self.path / unit.name / "statistics.npz") as stored:
            return dict(stored)

    def column_l1(self, unit: Unit, group: int) -> np.ndarray:
        """Sums of abs(weight) over a unit's rows, of each column of a group."""
        with np.load(self.path / unit.name / "columns.npz") as stored:
            return stored[f"{group:03}"]

    def seconds(self, unit: Unit) -> float:
        """How long it took."""
        return float((self.path / unit.name / "seconds").read_text())

    def candidates(self, unit: Unit, group: int, first: int, last: int) -> Candidates:
        """Candidates of columns ``first`` to ``last``, counted from ``first``."""
        stored = np.load(self.path / unit.name / f"candidates-{group:03}.npy", mmap_mode="r")
        span = _span(stored, "col", first, last)
        return Candidates(span["col"] - np.int32(first), *(span[name].copy() for name in ("row", "weight", "z")))

    def save_kept(self, kind: str, group: int, span: int, row: np.ndarray, col: np.ndarray, weight: np.ndarray) -> None:
        """Keep what the rules of a span of columns keep, in the order of its rows."""
        with disk(self.path):
            folder = self.path / "columns" / kind
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{group:03}-{span:06}.npy", _records(EDGE, row=row, col=col, weight=weight))

    def kept(self, kind: str, first: int, last: int) -> list[np.ndarray]:
        """What columns keep of rows ``first`` to ``last`` (row numbers of the node file)."""
        found = []
        for path in sorted((self.path / "columns" / kind).glob("*.npy")):
            found.append(_span(np.load(path, mmap_mode="r"), "row", first, last))
        return found

    def save_cuts(self, source: int, cuts: dict[str, np.ndarray]) -> None:
        """The largest score of what each feature of a source layer does not keep, by order."""
        with disk(self.path):
            folder = self.path / "columns"
            folder.mkdir(exist_ok=True)
            _savez(folder / f"cuts-{source:03}.npz", cuts)

    def cuts(self, source: int) -> dict[str, np.ndarray]:
        with np.load(self.path / "columns" / f"cuts-{source:03}.npz") as stored:
            return dict(stored)

    def forget_kept(self) -> None:
        shutil.rmtree(self.path / "columns", ignore_errors=True)

    def spread(self, name: str, make: Callable[[], Spread]) -> Spread:
        """The mean and covariance of a set of columns, computed once for all units."""
        path = self.path / f"spread-{name}"
        if not path.is_dir():
            made = make()
            with self._beside(path.name) as folder:
                np.savez(folder / "spread.npz", mean=made.mean.numpy(), covariance=made.covariance.numpy())
        with np.load(path / "spread.npz") as stored:
            return Spread(torch.from_numpy(stored["mean"]), torch.from_numpy(stored["covariance"]))

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @contextmanager
    def finishing(self, wait: bool) -> Iterator[bool]:
        """Whether it is this process that may write the build; the lock goes with the process, however it ends."""
        with disk(self.path), (self.path / "lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        folder = self.path / f".{name}@{socket.gethostname()}@{os.getpid()}"
        try:
            with disk(self.path):
                folder.mkdir()
                yield folder
                try:
                    folder.rename(self.path / name)
                except OSError:
                    if not (self.path / name).is_dir():
                        raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Writing:
    """The folder of a unit that is being computed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def candidates(self, group: int, found: Candidates) -> None:
        np.save(self._folder / f"candidates-{group:03}.npy", _records(_CANDIDATE, **vars(found)))

    def result(self, result: Result, seconds: float) -> None:
        edges = _records(EDGE, row=result.row, col=result.col, weight=result.weight)
        np.save(self._folder / "edges.npy", edges)
        cuts = {f"cut_{order}": cut for order, cut in result.cuts.items()}
        _savez(self._folder / "statistics.npz", {"mean": result.mean, "std": result.std, "l1": result.l1, **cuts})
        _savez(self._folder / "columns.npz", {f"{group:03}": sums for group, sums in enumerate(result.col_l1)})
        (self._folder / "seconds").write_text(f"{seconds:.3f}\n")


def _abandoned(name: str) -> bool:
    """Whether whoever wrote this folder beside is gone, as far as can be told from here."""
    _, host, pid = name.rsplit("@", 2)
    if host != socket.gethostname():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _span(stored: np.ndarray, by: str, first: int, last: int) -> np.ndarray:
    """A copy of the records from ``first`` to ``last``, without reading the others."""
    start, stop = (bisect_left(range(len(stored)), bound, key=lambda i: stored[i][by]) for bound in (first, last))
    return np.array(stored[start:stop])


def _savez(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def _records(dtype: np.dtype, **columns: np.ndarray) -> np.ndarray:
    records = np.empty(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        records[name] = column
    return records
