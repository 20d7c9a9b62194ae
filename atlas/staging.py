"""The staged form of a build: a folder of Parquet files and a manifest. Written by ingest, read by every store.

Specification, format 1. Keywords as in RFC 2119.

::

    BUILD/
      manifest.json             everything that defines the build; written last, so its presence means "finished"
      run.json                  when and how long; outside every hash
      nodes/Model.parquet  TranscoderSet.parquet  Run.parquet  Token.parquet  Feature.parquet
      edges/ACTIVATES/*.parquet FEEDS/*.parquet PROMOTES/*.parquet
      stats/ACTIVATES.parquet FEEDS.parquet PROMOTES.parquet logits.parquet
      work/                     parts of an unfinished build; a finished one has none

* Node files MUST have the Arrow schema of :data:`atlas.schema.NODES` for their label, one row a node, keys unique.
  Features MUST be sorted by (layer, idx) and tokens by id, with no gaps, so that a *row number* names a node.
* Edge files MUST have exactly the columns ``source int32, target int32, weight float32``: row numbers in the node
  files of the relationship's two ends. A file MUST be sorted by (target, source) - PROMOTES by (source, target) - and
  hold no pair twice; files in the order of their names continue that order. Weights MUST be finite and not zero.
  Why row numbers: keys would cost five times the space; why no z and share: they follow from the statistics below,
  and what is derived is not stored.
* ``stats/ACTIVATES``: ``target int32, mean, std, l1 float64``, one row a feature: all tokens into it.
  ``stats/FEEDS``: ``target int32, layer int32, mean, std, l1 float64``, one row a feature and source layer.
  ``stats/PROMOTES``: ``source int32, mean, std, l1 float64``, one row a feature: all logits it reaches.
  ``stats/logits``: ``target int32, l1 float64``, one row a token: everything that reaches its logit.
* ``z = (weight - mean) / std`` (0 where std is 0) and ``share = abs(weight) / l1`` of the target, in float64,
  rounded to float32: :func:`derive` is the only place that computes them.
* The manifest lists every file but itself and run.json with its rows, bytes and SHA-256. Two builds of the same input
  MUST have equal manifests. A reader MUST refuse another ``format``, a missing file and a wrong size;
  :meth:`Build.verify` also compares the hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas import schema
from atlas.errors import BadBuild

FORMAT = 1
EDGE_COLUMNS = pa.schema([("source", pa.int32()), ("target", pa.int32()), ("weight", pa.float32())])
WEIGHTED = tuple(edge.type for edge in schema.EDGES if edge.weighted)
NODE_FILES = ("Model", "TranscoderSet", "Run", "Token", "Feature")
_ROW_STATISTICS = [("mean", pa.float64()), ("std", pa.float64()), ("l1", pa.float64())]
STATS_COLUMNS = {
    "ACTIVATES": pa.schema([("target", pa.int32()), *_ROW_STATISTICS]),
    "FEEDS": pa.schema([("target", pa.int32()), ("layer", pa.int32()), *_ROW_STATISTICS]),
    "PROMOTES": pa.schema([("source", pa.int32()), *_ROW_STATISTICS]),
    "logits": pa.schema([("target", pa.int32()), ("l1", pa.float64())]),
}


@dataclass(frozen=True)
class Build:
    """A finished build on disk. Make one with :func:`open_build`."""

    path: Path
    manifest: dict[str, Any]

    @property
    def id(self) -> str:
        """``MODEL-SET-RUN``, the folder's name under ``ATLAS_HOME/builds``."""
        return f"{self.model}-{self.set}-{self.run}"

    @property
    def model(self) -> str:
        return self.manifest["model"]["name"]

    @property
    def set(self) -> str:
        return self.manifest["set"]["name"]

    @property
    def set_key(self) -> str:
        return f"{self.model}/{self.set}"

    @property
    def run(self) -> str:
        """First 12 hex digits of the SHA-256 over inputs and settings."""
        return self.manifest["run"]

    @property
    def layers(self) -> list[int]:
        """Layers that have a transcoder, ascending."""
        return list(self.manifest["layers"])

    @property
    def features_per_layer(self) -> list[int]:
        return list(self.manifest["features_per_layer"])

    @property
    def n_edges(self) -> int:
        """Weighted relationships over all kinds."""
        return sum(self.rows(f"edges/{kind}/") for kind in WEIGHTED)

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def rows(self, prefix: str) -> int:
        """Rows of all files whose name begins with ``prefix``."""
        return sum(entry["rows"] for name, entry in self.manifest["files"].items() if name.startswith(prefix))

    def nodes(self, label: str) -> pa.Table:
        """All nodes of one label; columns as in :data:`atlas.schema.NODES`."""
        return self._read(f"nodes/{label}.parquet", schema.NODE[label].arrow)

    def stats(self, kind: str) -> pa.Table:
        """Row statistics; columns as in :data:`STATS_COLUMNS`."""
        return self._read(f"stats/{kind}.parquet", STATS_COLUMNS[kind])

    def edge_files(self, kind: str) -> list[str]:
        """Names of the files of one kind of weighted relationship, in order."""
        return sorted(name for name in self.manifest["files"] if name.startswith(f"edges/{kind}/"))

    def edges(self, kind: str) -> Iterator[pa.Table]:
        """Weighted relationships of one kind, a table a file: ``source, target`` (row numbers), weight, z, share."""
        for name in self.edge_files(kind):
            yield self.derive(kind, self._read(name, EDGE_COLUMNS))

    def derive(self, kind: str, edges: pa.Table) -> pa.Table:
        """Add ``z`` and ``share`` (float32) to a table of ``source, target, weight``."""
        source = edges["source"].to_numpy()
        target = edges["target"].to_numpy()
        weight = edges["weight"].to_numpy().astype(np.float64)
        mean, std = self._moments(kind, source, target)
        total = self._total_logits[target] if kind == "PROMOTES" else self._total_features[target]
        z = np.divide(weight - mean, std, out=np.zeros_like(weight), where=std > 0)
        share = np.divide(np.abs(weight), total, out=np.zeros_like(weight), where=total > 0)
        edges = edges.append_column("z", pa.array(z.astype(np.float32)))
        return edges.append_column("share", pa.array(share.astype(np.float32)))

    def keys(self, label: str) -> pa.ChunkedArray:
        """Keys of one label, by row number."""
        return self.nodes(label)["key"]

    @cached_property
    def layer_of(self) -> np.ndarray:
        """Layer of every feature, by row number; int32 [n_features]."""
        return np.repeat(np.asarray(self.layers, np.int32), self.features_per_layer)

    def verify(self) -> None:
        """Compare every file with the manifest's hashes. Raises :class:`atlas.errors.BadBuild`."""
        for name, entry in self.manifest["files"].items():
            if sha256(self.path / name) != entry["sha256"]:
                raise BadBuild(f"{self.path / name} is not the file the manifest names; build it again")

    def _read(self, name: str, columns: pa.Schema) -> pa.Table:
        try:
            table = pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise BadBuild(f"{self.path / name} cannot be read ({error}); build it again") from error
        if not table.schema.equals(columns):
            raise BadBuild(
                f"{self.path / name} has columns {table.schema.names}, expected {columns.names} of format {FORMAT}; "
                "build it again"
            )
        return table

    def _moments(self, kind: str, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stats = self._stats(kind)
        if kind == "FEEDS":
            column = np.searchsorted(np.asarray(self.layers), self.layer_of[source])
            row = self._feeds_row[target, column]
        else:
            row = source if kind == "PROMOTES" else target
        return stats["mean"][row], stats["std"][row]

    @cached_property
    def _feeds_row(self) -> np.ndarray:
        """Row of stats/FEEDS for (target, position of the source layer); -1 where there is none."""
        stats = self._stats("FEEDS")
        rows = np.full((int(sum(self.features_per_layer)), len(self.layers)), -1, np.int64)
        rows[stats["target"], np.searchsorted(np.asarray(self.layers), stats["layer"])] = np.arange(len(stats["mean"]))
        return rows

    @cached_property
    def _total_features(self) -> np.ndarray:
        """L1 of everything into each feature: all tokens and all features of earlier layers."""
        total = self._stats("ACTIVATES")["l1"].copy()
        feeds = self._stats("FEEDS")
        np.add.at(total, feeds["target"], feeds["l1"])
        return total

    @cached_property
    def _total_logits(self) -> np.ndarray:
        return self._stats("logits")["l1"]

    def _stats(self, kind: str) -> dict[str, np.ndarray]:
        cache = self.__dict__.setdefault("_stats_cache", {})
        if kind not in cache:
            cache[kind] = {
                name: column.to_numpy()
                for name, column in zip(STATS_COLUMNS[kind].names, self.stats(kind).columns, strict=True)
            }
        return cache[kind]


def open_build(path: str | Path) -> Build:
    """Open a finished build. Raises :class:`atlas.errors.BadBuild` where the folder is not one."""
    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError:
        state = "is not finished: run the same ingest again to resume" if (path / "work").is_dir() else "is not a build"
        raise BadBuild(f"{path} {state} (it has no manifest.json)") from None
    except (OSError, ValueError) as error:
        raise BadBuild(f"{path}/manifest.json cannot be read ({error}); build it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else "no object"
        raise BadBuild(f"{path} has format {found}, this version reads format {FORMAT}; build it again")
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            found = f"{file.stat().st_size} bytes" if file.is_file() else "nothing"
            raise BadBuild(f"{file} should have {entry['bytes']} bytes, found {found}; build it again")
    return Build(path, manifest)


def sha256(path: Path) -> str:
    """Hash of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_keys(build: Build, kind: str, edges: pa.Table) -> pa.Table:
    """Replace row numbers by keys: the columns of the relationship's Arrow schema (:data:`atlas.schema.EDGES`), and
    evidence where the edges have it."""
    edge = schema.EDGE[kind]
    for column, label in (("source", edge.source), ("target", edge.target)):
        keys = pc.take(build.keys(label).combine_chunks(), edges[column])
        edges = edges.set_column(edges.schema.get_field_index(column), column, keys)
    return edges.select([name for name in edge.stored_arrow.names if name in edges.column_names])
