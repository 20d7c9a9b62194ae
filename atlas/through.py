"""The part of a staged build that ``--heads`` adds: what goes through attention's heads, and past all features.

Specification, an optional part of :mod:`atlas.staging`'s format 1. A build has all of it or none. ::

    nodes/Head.parquet                      one row a head of the model
    edges/KIND/L0005H003.parquet            KIND_VIA of one head, which the file's name says
    edges/PREDICTS/tokens.parquet           the direct path from token to logit
    stats/KIND-L0005H003.parquet            row int32, mean, std, l1 float32: one row a row of the file's matrix
    stats/PREDICTS-tokens.parquet           the same
    stats/features.parquet                  one row a feature, columns of :data:`atlas.schema.THROUGH`

* Edge files MUST have the columns of every other edge file. Within a file they MUST be sorted by (target, source) -
  PROMOTES_VIA and PREDICTS by (source, target) - with no pair twice; weights MUST be finite and not zero. FEEDS_VIA
  MUST lead to a later layer than its source's.
* The rows of a statistics file MUST ascend without gaps: the features (or tokens) that the head can reach or be reached
  from. ``z`` is taken within its row, over all that reach it (or that it reaches) through that head; ``share`` is over
  the same L1 as for edges that pass by no head, which heads are not part of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas import schema

if TYPE_CHECKING:
    from atlas.staging import Build

VIA = ("ACTIVATES_VIA", "FEEDS_VIA", "PROMOTES_VIA")
KINDS = (*VIA, "PREDICTS")
"""kinds of relationship that a build may be without"""
OUT_OF = ("PROMOTES_VIA", "PREDICTS")
"""those whose rows are sources"""
HEADS = "nodes/Head.parquet"
FEATURES = "stats/features.parquet"
STATS_COLUMNS = pa.schema([("row", pa.int32()), ("mean", pa.float32()), ("std", pa.float32()), ("l1", pa.float32())])
_NAME = re.compile(r"L(\d{4})H(\d{3})")


def file_name(layer: int, head: int) -> str:
    """What the files of one head are called."""
    return f"L{layer:04}H{head:03}"


def has_heads(build: Build) -> bool:
    return HEADS in build.manifest["files"]


def edges(build: Build, kind: str) -> Iterator[pa.Table]:
    """Relationships of one kind, a table a head: ``source, target, weight, z, share``, then ``layer, head`` (or
    ``run``)."""
    for name in build.edge_files(kind):
        stem = name.rpartition("/")[2].removesuffix(".parquet")
        table = build.read(name, build.edge_columns)
        build.check_edges(name, kind, table)
        statistics = build.read(f"stats/{kind}-{stem}.parquet", STATS_COLUMNS)
        table = _derived(build, kind, table, statistics, name)
        if kind == "PREDICTS":
            yield table.append_column("run", pa.array([build.run] * len(table), pa.string()))
            continue
        found = _NAME.fullmatch(stem)
        if found is None:
            raise build.broken(name, "its name says no head")
        for column, value in zip(("layer", "head"), found.groups(), strict=True):
            table = table.append_column(column, pa.array(np.full(len(table), int(value)), pa.int64()))
        yield table


def features(build: Build) -> pa.Table | None:
    """What is known of each feature's heads and positions; None where the build has no heads."""
    if not has_heads(build):
        return None
    table = pq.read_table(build.path / FEATURES)
    if table.schema.names != [p.name for p in schema.THROUGH] or len(table) != build.n_features:
        raise build.broken(FEATURES, "it is not what the specification says")
    return table


def _derived(build: Build, kind: str, table: pa.Table, statistics: pa.Table, name: str) -> pa.Table:
    source, target = table["source"].to_numpy(), table["target"].to_numpy()
    weight = table["weight"].to_numpy().astype(np.float64)
    rows = statistics["row"].to_numpy()
    if len(rows) and not np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows), dtype=np.int32)):
        raise build.broken(name, "the rows of its statistics have gaps")
    row = (source if kind in OUT_OF else target) - (rows[0] if len(rows) else 0)
    if len(row) and (row.min() < 0 or row.max() >= len(rows)):
        raise build.broken(name, "an edge belongs to a row without statistics")
    mean, std = (statistics[column].to_numpy().astype(np.float64)[row] for column in ("mean", "std"))
    total = build.total_into(schema.EDGE[kind].target)[target]
    z = np.divide(weight - mean, std, out=np.zeros_like(weight), where=std > 0)
    share = np.divide(np.abs(weight), total, out=np.zeros_like(weight), where=total > 0)
    table = table.append_column("z", pa.array(z.astype(np.float32)))
    return table.append_column("share", pa.array(share.astype(np.float32)))
