"""The staged form of a build: a folder of Parquet files and a manifest. Written by ingest, read by every store.

Specification, format 1. Keywords as in RFC 2119.

::

    BUILD/
      manifest.json             everything that defines the build; written last, so its presence means "finished"
      run.json                  when and how long; outside every hash
      nodes/Model.parquet  TranscoderSet.parquet  Run.parquet  Token.parquet  Feature.parquet
      edges/ACTIVATES/*.parquet FEEDS/*.parquet PROMOTES/*.parquet
      stats/ACTIVATES.parquet FEEDS.parquet PROMOTES.parquet logits.parquet
      …                         what attention's heads add, where it was asked for: :mod:`atlas.through`
      vectors/                  what features read and write with, where it was asked for: :mod:`atlas.vectors`
      work/                     parts of an unfinished build; a finished one has none

* The manifest MUST hold ``format`` (1), ``run``, ``model.name``, ``set.name``, ``layers`` (ascending; those that have a
  transcoder), ``features_per_layer`` and ``files``: each file but itself and run.json with its ``rows``, ``bytes`` and
  ``sha256``. It MAY hold more. Two builds of the same input MUST have equal manifests, but for the vectors.
* Node files MUST have the Arrow schema of :data:`atlas.schema.NODES` for their label. There MUST be one model, one set
  and one run, those that the manifest names. Tokens MUST be sorted by id, features by (layer, idx), both with no gaps
  and with the keys of :mod:`atlas.model`: a *row number* names a node, and its key follows from it.
* Edge files MUST have exactly the columns ``source int32, target int32, weight float32``: row numbers in the node
  files of the relationship's two ends. A file MUST be sorted by (target, source) - PROMOTES by (source, target) - and
  hold no pair twice; files in the order of their names continue that order. Weights MUST be finite and not zero; FEEDS
  MUST lead to a later layer. Why row numbers: keys would cost five times the space; why no z and share: they follow
  from the statistics below, and what is derived is not stored.
* ``stats/ACTIVATES``: ``target int32, mean, std, l1 float64``, one row a feature: all tokens into it.
  ``stats/FEEDS``: ``target int32, layer int32, mean, std, l1 float64``, one row a feature and earlier layer.
  ``stats/PROMOTES``: ``source int32, mean, std, l1 float64``, one row a feature: all logits it reaches.
  ``stats/logits``: ``target int32, l1 float64``, one row a token: everything that reaches its logit.
  Rows MUST be in the order of these columns, and finite.
* ``z = (weight - mean) / std`` (0 where std is 0) and ``share = abs(weight) / l1`` of the target, in float64,
  rounded to float32: :meth:`Build.derive` is the only place that computes them.
* Nothing MUST be null. A reader MUST refuse whatever breaks one of these rules: :func:`open_build` looks at the
  manifest and the files' sizes (:mod:`atlas.manifest`), each reading method at what it reads, :meth:`Build.verify` at
  the hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas import schema, through
from atlas.errors import BadBuild
from atlas.manifest import FORMAT, read_manifest
from atlas.model import FeatureKey, TokenKey

EDGE_COLUMNS = pa.schema([("source", pa.int32()), ("target", pa.int32()), ("weight", pa.float32())])
WEIGHTED = tuple(edge.type for edge in schema.EDGES if edge.weighted)
ALWAYS = tuple(kind for kind in WEIGHTED if kind not in through.KINDS)
"""kinds of weighted relationship that every build has"""
NODE_FILES = ("Model", "TranscoderSet", "Run", "Token", "Feature")
"""labels that every build has"""
_ROW_STATISTICS = [("mean", pa.float64()), ("std", pa.float64()), ("l1", pa.float64())]
STATS_COLUMNS = {
    "ACTIVATES": pa.schema([("target", pa.int32()), *_ROW_STATISTICS]),
    "FEEDS": pa.schema([("target", pa.int32()), ("layer", pa.int32()), *_ROW_STATISTICS]),
    "PROMOTES": pa.schema([("source", pa.int32()), *_ROW_STATISTICS]),
    "logits": pa.schema([("target", pa.int32()), ("l1", pa.float64())]),
}
_FILES = {f"nodes/{label}.parquet" for label in NODE_FILES} | {f"stats/{kind}.parquet" for kind in STATS_COLUMNS}
"""files that every build has, edges aside"""


@dataclass(frozen=True)
class Build:
    """A finished build on disk. Make one with :func:`open_build`. Methods that read raise BadBuild."""

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
    def n_features(self) -> int:
        return sum(self.features_per_layer)

    @property
    def n_tokens(self) -> int:
        return self.rows("nodes/Token.parquet")

    @property
    def n_edges(self) -> int:
        """Weighted relationships over all kinds."""
        return sum(self.rows(f"edges/{kind}/") for kind in WEIGHTED)

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @cached_property
    def vocabulary(self) -> str:
        """The vocabulary's name in token keys."""
        return self.nodes("Model")["tokenizer"][0].as_py()

    @cached_property
    def layer_of(self) -> np.ndarray:
        """Layer of every feature, by row number; int32 [n_features]."""
        return np.repeat(np.asarray(self.layers, np.int32), self.features_per_layer)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of which this build has nodes."""
        return (*NODE_FILES, "Head") if through.has_heads(self) else NODE_FILES

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of weighted relationship that this build has."""
        return WEIGHTED if through.has_heads(self) else ALWAYS

    def rows(self, prefix: str) -> int:
        """Rows of all files whose name begins with ``prefix``."""
        return sum(entry["rows"] for name, entry in self.manifest["files"].items() if name.startswith(prefix))

    def keys(self, label: str) -> pa.ChunkedArray:
        """Keys of one label, by row number. Computed from the manifest; only the model's node file is read."""
        cache = self.__dict__.setdefault("_keys", {})
        if label not in cache:
            if label == "Feature":
                prefixes = [str(FeatureKey(self.model, layer, self.set, 0))[:-1] for layer in self.layers]
                cache[label] = _numbered(prefixes, self.features_per_layer)
            elif label == "Token":
                cache[label] = _numbered([str(TokenKey(self.vocabulary, 0))[:-1]], [self.n_tokens])
            else:
                cache[label] = pa.array([{"Model": self.model, "TranscoderSet": self.set_key, "Run": self.run}[label]])
        return pa.chunked_array([cache[label]])

    def nodes(self, label: str) -> pa.Table:
        """All nodes of one label; columns as in :data:`atlas.schema.NODES`."""
        name = f"nodes/{label}.parquet"
        table = self.read(name, schema.NODE[label].arrow)
        if label == "Head":
            self._require(name, table, model=[self.model] * len(table))
            return table
        if not table["key"].equals(self.keys(label)):
            raise self.broken(
                name, f"its keys are not those of {self.set_key} run {self.run}, in order and without gaps"
            )
        if label == "TranscoderSet":
            self._require(name, table, model=[self.model], name=[self.set], run=[self.run])
        elif label == "Token":
            self._require(name, table, vocabulary=[self.vocabulary] * len(table), token_id=np.arange(len(table)))
        elif label == "Feature":
            idx = np.concatenate([np.arange(size) for size in self.features_per_layer])
            same = {"model": [self.model] * len(table), "set": [self.set_key] * len(table)}
            self._require(name, table, **same, layer=self.layer_of, idx=idx)
        return table

    def stats(self, kind: str) -> pa.Table:
        """Row statistics; columns as in :data:`STATS_COLUMNS`."""
        name, columns = f"stats/{kind}.parquet", STATS_COLUMNS[kind]
        table = self.read(name, columns)
        if kind == "FEEDS":
            ahead = np.searchsorted(self.layers, self.layer_of)  # how many layers lie before each feature's
            earlier = [np.tile(self.layers[:n], size) for n, size in enumerate(self.features_per_layer)]
            self._require(
                name, table, target=np.repeat(np.arange(self.n_features), ahead), layer=np.concatenate(earlier)
            )
        else:
            rows = self.n_tokens if kind == "logits" else self.n_features
            self._require(name, table, **{columns.names[0]: np.arange(rows)})
        numbers = [field.name for field in columns if pa.types.is_floating(field.type)]
        if not all(np.isfinite(table[column].to_numpy()).all() for column in numbers):
            raise self.broken(name, "a number is not finite")
        return table

    def edge_files(self, kind: str) -> list[str]:
        """Names of the files of one kind of weighted relationship, in order."""
        return sorted(name for name in self.manifest["files"] if name.startswith(f"edges/{kind}/"))

    def edges(self, kind: str) -> Iterator[pa.Table]:
        """Weighted relationships of one kind, a table a file: ``source, target`` (row numbers), weight, z, share."""
        if kind in through.KINDS:
            yield from through.edges(self, kind)
            return
        last = -1
        for name in self.edge_files(kind):
            table = self.read(name, EDGE_COLUMNS)
            last = self.check_edges(name, kind, table, last)
            yield self.derive(kind, table)

    def derive(self, kind: str, edges: pa.Table) -> pa.Table:
        """Add ``z`` and ``share`` (float32) to a table of ``source, target, weight``."""
        source = edges["source"].to_numpy()
        target = edges["target"].to_numpy()
        weight = edges["weight"].to_numpy().astype(np.float64)
        mean, std = self._moments(kind, source, target)
        total = self.total_into(schema.EDGE[kind].target)[target]
        z = np.divide(weight - mean, std, out=np.zeros_like(weight), where=std > 0)
        share = np.divide(np.abs(weight), total, out=np.zeros_like(weight), where=total > 0)
        edges = edges.append_column("z", pa.array(z.astype(np.float32)))
        return edges.append_column("share", pa.array(share.astype(np.float32)))

    def total_into(self, label: str) -> np.ndarray:
        """L1 of all that reaches each feature or logit past heads, kept or not; float64, by row number."""
        return self._stats("logits")["l1"] if label == "Token" else self._total_features

    @property
    def edge_columns(self) -> pa.Schema:
        return EDGE_COLUMNS

    def verify(self) -> None:
        """Compare every file with the manifest's hashes."""
        for name, entry in self.manifest["files"].items():
            if sha256(self.path / name) != entry["sha256"]:
                raise self.broken(name, "it is not the file that the manifest names")

    def read(self, name: str, columns: pa.Schema) -> pa.Table:
        """One file, held to its columns and to the manifest."""
        try:
            # not read_table, which takes a folder called a=b for a column
            table = pq.ParquetFile(self.path / name).read()
        except (OSError, pa.ArrowException) as error:
            raise self.broken(name, f"it cannot be read ({error})") from error
        if not table.schema.equals(columns):
            raise self.broken(name, f"it has columns {table.schema.names}, expected {columns.names} of format {FORMAT}")
        if len(table) != self.manifest["files"][name]["rows"]:
            raise self.broken(name, f"it has {len(table)} rows, not those that the manifest counts")
        if any(column.null_count for column in table.columns):
            raise self.broken(name, "it holds nulls")
        return table

    def _require(self, file: str, table: pa.Table, **columns: Any) -> None:
        """Refuse a file whose columns are not these values."""
        for column, values in columns.items():
            if not table[column].equals(pa.chunked_array([pa.array(values, table[column].type)])):
                raise self.broken(file, f"its column {column} is not what the manifest makes it")

    def check_edges(self, name: str, kind: str, edges: pa.Table, last: int = -1) -> int:
        """Refuse edges that break the specification; returns the place of the last one, for the next file."""
        source, target, weight = (column.to_numpy() for column in edges.columns)
        if not len(weight):
            return last
        n_nodes = {"Token": self.n_tokens, "Feature": self.n_features}
        for numbers, label in ((source, schema.EDGE[kind].source), (target, schema.EDGE[kind].target)):
            if numbers.min() < 0 or numbers.max() >= n_nodes[label]:
                raise self.broken(name, f"an edge leads to a row that nodes/{label}.parquet does not have")
        by_source = kind == "PROMOTES" or kind in through.OUT_OF
        major, minor = (source, target) if by_source else (target, source)
        place = major.astype(np.int64) << 32 | minor
        if place[0] <= last or (place[1:] <= place[:-1]).any():
            raise self.broken(name, "its edges are out of order, or one is there twice")
        if not (np.isfinite(weight) & (weight != 0)).all():
            raise self.broken(name, "a weight is zero or not finite")
        if kind in ("FEEDS", "FEEDS_VIA") and (self.layer_of[source] >= self.layer_of[target]).any():
            raise self.broken(name, "an edge does not lead to a later layer")
        return int(place[-1])

    def _moments(self, kind: str, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stats = self._stats(kind)
        if kind == "FEEDS":
            # rows are in the order (target, source layer), and every earlier layer has one
            row = self._first_feeds[target] + np.searchsorted(self.layers, self.layer_of[source])
        else:
            row = source if kind == "PROMOTES" else target
        return stats["mean"][row], stats["std"][row]

    @cached_property
    def _first_feeds(self) -> np.ndarray:
        """First row of stats/FEEDS of every feature."""
        ahead = np.searchsorted(self.layers, self.layer_of)
        return np.cumsum(ahead) - ahead

    @cached_property
    def _total_features(self) -> np.ndarray:
        """L1 of everything into each feature: all tokens and all features of earlier layers."""
        total = self._stats("ACTIVATES")["l1"].copy()
        feeds = self._stats("FEEDS")
        np.add.at(total, feeds["target"], feeds["l1"])
        return total

    def _stats(self, kind: str) -> dict[str, np.ndarray]:
        cache = self.__dict__.setdefault("_stats_cache", {})
        if kind not in cache:
            table = self.stats(kind)
            cache[kind] = {name: table[name].to_numpy() for name in table.column_names}
        return cache[kind]

    def broken(self, name: str, why: str) -> BadBuild:
        """What to raise where a file breaks the specification."""
        return BadBuild(f"{self.path / name}: {why}; build it again")


def open_build(path: str | Path) -> Build:
    """Open a finished build. Raises :class:`atlas.errors.BadBuild` where the folder is not one."""
    path = Path(path)
    return Build(path, read_manifest(path, _FILES))


def _numbered(prefixes: list[str], sizes: list[int]) -> pa.Array:
    """``PREFIX0, PREFIX1, …`` for each prefix and its size."""
    numbers = [pa.array(np.arange(size)).cast(pa.string()) for size in sizes]
    join = pc.binary_join_element_wise  # pyright: ignore[reportAttributeAccessIssue] - made on import
    return pa.concat_arrays([join(prefix, n, "") for prefix, n in zip(prefixes, numbers, strict=True)])


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
