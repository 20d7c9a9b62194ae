"""Writing the staged form of a build: :mod:`atlas.staging` is the specification.

Every file is written beside and renamed, the manifest last, so a build that can be opened is whole. Encodings are
fixed: the same tables give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.manifest import FORMAT
from atlas.staging import EDGE_COLUMNS, sha256
from ingest.parts import disk

_ROW_GROUP = 1 << 20


class Writer:
    """The files of one build. Use :meth:`table` and :meth:`open` for each, then :meth:`finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}

    def edges(self, name: str, source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> None:
        """One file of weighted relationships, in the order that the specification asks of its kind."""
        columns = [
            pa.array(column, field.type) for column, field in zip((source, target, weight), EDGE_COLUMNS, strict=True)
        ]
        with self.open(name, EDGE_COLUMNS) as file:
            file.write_table(pa.table(columns, schema=EDGE_COLUMNS), row_group_size=_ROW_GROUP)

    def table(self, name: str, table: pa.Table) -> None:
        """One file in one piece."""
        with self.open(name, table.schema) as file:
            file.write_table(table, row_group_size=_ROW_GROUP)

    @contextmanager
    def open(self, name: str, columns: pa.Schema) -> Iterator[pq.ParquetWriter]:
        """One file in several pieces."""
        with self._beside(name) as beside:
            with pq.ParquetWriter(beside, columns, **_encoding(columns)) as file:
                yield file
            self._put(name, beside, pq.read_metadata(beside).num_rows)

    @contextmanager
    def array(self, name: str, shape: tuple[int, int]) -> Iterator[IO[bytes]]:
        """A file of numpy's, little-endian float16, whose rows are written as bytes."""
        with self._beside(name) as beside:
            with beside.open("wb") as file:
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                yield file
            self._put(name, beside, shape[0])

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        path = self.path / name
        beside = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            with disk(self.path):
                path.parent.mkdir(parents=True, exist_ok=True)
                yield beside
        finally:
            beside.unlink(missing_ok=True)

    def _put(self, name: str, beside: Path, rows: int) -> None:
        self.files[name] = {"rows": rows, "bytes": beside.stat().st_size, "sha256": sha256(beside)}
        beside.replace(self.path / name)

    def rows(self, prefix: str) -> int:
        """Rows of all files so far whose name begins with ``prefix``."""
        return sum(entry["rows"] for name, entry in self.files.items() if name.startswith(prefix))

    def finish(self, about: dict[str, Any]) -> None:
        """Write the manifest: from here on the build is there."""
        self.json("manifest.json", {"format": FORMAT, **about, "files": self.files})

    def json(self, name: str, content: dict[str, Any]) -> None:
        beside = self.path / f".{name}-{os.getpid()}"
        with disk(self.path):
            beside.write_text(
                json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            beside.replace(self.path / name)


def _encoding(columns: pa.Schema) -> dict[str, Any]:
    """Numbers: ids as differences, floats with their bytes split; text and lists as Parquet does by itself."""
    flat = {
        field.name: field.type
        for field in columns
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    encoding = {
        name: "DELTA_BINARY_PACKED" if pa.types.is_integer(type_) else "BYTE_STREAM_SPLIT"
        for name, type_ in flat.items()
    }
    others = [field.name for field in columns if field.name not in flat]
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": others,
        "column_encoding": encoding,
        "version": "2.6",
        "store_schema": True,
    }
