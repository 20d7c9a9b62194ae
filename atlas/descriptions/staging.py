"""Staging one run of descriptions beside its build (:mod:`atlas.descriptions` has the format), a layer at a time.

A layer is written when it is finished and found again by the next attempt; the manifest comes last. Everything is
written beside and renamed.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atlas import descriptions
from atlas.descriptions import Descriptions
from atlas.errors import NoSpace
from atlas.provenance import Run
from atlas.staging import Build, sha256


@dataclass
class Staging:
    """One run of one method, finished or under way."""

    build: Build
    method: str
    run: Run

    def __post_init__(self) -> None:
        self._clock, self._started = time.perf_counter(), datetime.now(UTC)

    @property
    def path(self) -> Path:
        return descriptions.folder(self.build) / f"{self.method}-{self.run.id}"

    def finished(self) -> Descriptions | None:
        """The run, where it is there already; that it was asked for again is noted."""
        if not (self.path / "manifest.json").exists():
            return None
        found = descriptions.find(self.build, self.method, self.run.id)
        self._json("run.json", found.times() | {"asked": datetime.now(UTC).isoformat(timespec="microseconds")})
        return found

    def layer(self, layer: int, make: Callable[[], pa.Table]) -> pa.Table:
        """One layer's details: those of an earlier attempt, or made now and kept."""
        path = self.path / "work" / f"layer-{layer:03}.parquet"
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException):
            pass
        made = make()
        self._table(path, made)
        return made

    def finish(self, texts: pa.Table, details: pa.Table, about: dict[str, Any]) -> Descriptions:
        """Write the tables and, last, the manifest."""
        now = datetime.now(UTC)
        files = {}
        for name, table in (("texts.parquet", texts), ("details.parquet", details)):
            self._table(self.path / name, table)
            file = self.path / name
            files[name] = {"rows": len(table), "bytes": file.stat().st_size, "sha256": sha256(file)}
        self._json(
            "run.json",
            {
                "started": self._started.isoformat(timespec="seconds"),
                "finished": now.isoformat(timespec="seconds"),
                "asked": now.isoformat(timespec="microseconds"),
                "seconds": round(time.perf_counter() - self._clock, 3),
            },
        )
        self._json(
            "manifest.json",
            {
                "format": descriptions.FORMAT,
                "build": self.build.run,
                "method": self.method,
                "number": descriptions.next_number(self.build, self.method),
                "run": self.run.id,
                "run_node": self.run.row(),
                "created": now.isoformat(timespec="microseconds"),
                "files": files,
                **about,
            },
        )
        shutil.rmtree(self.path / "work", ignore_errors=True)
        return descriptions.find(self.build, self.method, self.run.id)

    def _table(self, path: Path, table: pa.Table) -> None:
        beside = path.with_name(f".{path.name}")
        with _disk(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, beside, compression="zstd", compression_level=1)
            beside.replace(path)

    def _json(self, name: str, content: dict[str, Any]) -> None:
        beside = self.path / f".{name}"
        with _disk(self.path):
            beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            beside.replace(self.path / name)


def texts(rows: list[tuple[int, str, str]], explainer: str, created: str = "") -> pa.Table:
    """Descriptions as (feature, text, scores as JSON); ``created`` is today where it is not given."""
    feature, text, scores = zip(*rows, strict=True) if rows else ((), (), ())
    date = created or datetime.now(UTC).date().isoformat()
    columns = [feature, text, [explainer] * len(rows), scores, [date] * len(rows)]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, descriptions.TEXTS, strict=True)],
        schema=descriptions.TEXTS,
    )


def scores(**figures: Any) -> str:
    """Figures of one description as JSON, without those that are not there."""
    return json.dumps({name: value for name, value in figures.items() if value is not None}, ensure_ascii=False)


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"the disk is full: {place} has no room for more; free some and run the same again, what is "
                "finished stays"
            ) from error
        raise
