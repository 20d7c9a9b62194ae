"""The parts of an unfinished build: one folder a unit, whole or not there.

A unit is written beside and renamed, so whatever ends a build, at most the unit in hand is lost, and the next run takes
up behind the last that is there. Parts lie in the build's own folder, whose name holds the hash of all inputs and
settings: a changed input is another build. They are numpy arrays, since the merge reads spans of them from disk.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
                shutil.rmtree(leftover)

    def done(self, unit: Unit) -> bool:
        return (self.path / unit.name).is_dir()

    def save(self, unit: Unit, result: Result) -> None:
        """Keep what a unit found; there is nothing of it until all of it is there."""
        with self._beside(unit.name) as folder:
            np.save(folder / "edges.npy", _records(EDGE, row=result.row, col=result.col, weight=result.weight))
            statistics = {"mean": result.mean, "std": result.std, "l1": result.l1}
            cuts = {f"cut_{order}": cut for order, cut in result.cuts.items()}
            columns = {f"col_l1_{group}": sums for group, sums in enumerate(result.col_l1)}
            np.savez(folder / "statistics.npz", **statistics, **cuts, **columns)
            for group, found in enumerate(result.candidates):
                np.save(folder / f"candidates-{group:03}.npy", _records(_CANDIDATE, **vars(found)))

    def edges(self, unit: Unit) -> np.ndarray:
        """What a unit's rows keep, records of :data:`EDGE`."""
        return np.load(self.path / unit.name / "edges.npy")

    def statistics(self, unit: Unit) -> dict[str, np.ndarray]:
        with np.load(self.path / unit.name / "statistics.npz") as stored:
            return dict(stored)

    def candidates(self, unit: Unit, group: int, first: int, last: int) -> Candidates:
        """Candidates of columns ``first`` to ``last``, counted from ``first``."""
        stored = np.load(self.path / unit.name / f"candidates-{group:03}.npy", mmap_mode="r")
        span = stored[slice(*np.searchsorted(stored["col"], (first, last)))]
        return Candidates(
            np.ascontiguousarray(span["col"]) - np.int32(first),
            *(np.ascontiguousarray(span[name]) for name in ("row", "weight", "z")),
        )

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
            stored = np.load(path, mmap_mode="r")
            found.append(np.array(stored[slice(*np.searchsorted(stored["row"], (first, last)))]))
        return found

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
    def _beside(self, name: str) -> Iterator[Path]:
        folder = self.path / f".{name}-{os.getpid()}"
        try:
            with disk(self.path):
                folder.mkdir()
                yield folder
                folder.rename(self.path / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _records(dtype: np.dtype, **columns: np.ndarray) -> np.ndarray:
    records = np.empty(len(next(iter(columns.values()))), dtype)
    for name, column in columns.items():
        records[name] = column
    return records
