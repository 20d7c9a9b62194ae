"""Writing what goes through heads: :mod:`atlas.through` is the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from atlas import schema
from atlas.schema import MOST_HEADS, MOST_POSITIONS
from atlas.through import FEATURES, HEADS, STATS_COLUMNS, VIA, file_name
from ingest.heads import heads
from ingest.parts import Parts, Unit
from ingest.plan import Sizes
from ingest.through import by_source
from ingest.writer import Writer

if TYPE_CHECKING:
    from ingest.job import Job


def write(job: Job, units: list[Unit], sizes: Sizes, parts: Parts, writer: Writer) -> None:
    """Edges and statistics of every unit, the heads, and what each feature has of heads and positions."""
    n, model = sum(sizes.n_features), job.model
    best, norms = np.full((n, MOST_HEADS), -1, np.int64), np.zeros((n, MOST_HEADS), np.float32)
    for unit in units:
        name = file_name(unit.layer, unit.first) if unit.kind in VIA else "tokens"
        stored, edges = parts.statistics(unit), parts.edges(unit)
        ends = (edges["row"], edges["col"]) if by_source(unit.kind) else (edges["col"], edges["row"])
        writer.edges(f"edges/{unit.kind}/{name}.parquet", *ends, edges["weight"])
        first = int(stored["cut_first"])
        rows = np.arange(first, first + len(stored["mean"]), dtype=np.int32)
        columns = [rows, *(stored[column][:, 0].astype(np.float32) for column in ("mean", "std", "l1"))]
        writer.table(f"stats/{unit.kind}-{name}.parquet", pa.table(columns, schema=STATS_COLUMNS))
        if "cut_norm" in stored:
            _note(best, norms, slice(first, n), unit.layer * model.n_heads + unit.first, stored["cut_norm"])
    writer.table(HEADS, _heads(job))
    with writer.open(FEATURES, schema.NODE["Feature"].through_arrow) as file:
        for layer, first, n_features in zip(sizes.layers, sizes.first, sizes.n_features, strict=True):
            here = slice(first, first + n_features)
            file.write_table(_features(job, layer, best[here], norms[here]))


def _note(best: np.ndarray, norms: np.ndarray, rows: slice, head: int, found: np.ndarray) -> None:
    """Take one head in among the strongest of each feature; of two alike the earlier stays before."""
    size = np.concatenate([norms[rows], found[:, None]], axis=1)
    number = np.concatenate([best[rows], np.full((len(found), 1), head)], axis=1)
    order = np.argsort(-size, axis=1, kind="stable")[:, : norms.shape[1]]
    norms[rows] = np.take_along_axis(size, order, axis=1)
    best[rows] = np.take_along_axis(number, order, axis=1)


def _heads(job: Job) -> pa.Table:
    rows = [
        {
            "key": f"{job.model_name}/L{head.layer}H{head.number}",
            "model": job.model_name,
            "layer": head.layer,
            "head": head.number,
            "value_group": head.group,
            "norm_ov": head.norm(),
        }
        for layer in range(job.model.n_layers)
        for head in heads(job.model, layer)
    ]
    return pa.Table.from_pylist(rows, schema=schema.NODE["Head"].arrow)


def _features(job: Job, layer: int, best: np.ndarray, norms: np.ndarray) -> pa.Table:
    """What the features of one layer have of heads and positions."""
    keys = np.array(
        [f"{job.model_name}/L{at}H{h}" for at in range(job.model.n_layers) for h in range(job.model.n_heads)]
    )
    some = (best >= 0) & (norms > 0)
    columns: dict[str, list] = {
        "heads": [keys[row[keep]].tolist() for row, keep in zip(best, some, strict=True)],
        "head_norms": [row[keep].tolist() for row, keep in zip(norms, some, strict=True)],
    }
    learned = job.model.positions
    if learned is None:
        columns["positions"] = columns["position_weights"] = [[] for _ in best]
    else:
        reads = job.vectors.reads(layer)
        weights = reads @ learned.to(reads.device, reads.dtype).T
        strongest = weights.abs().topk(min(MOST_POSITIONS, weights.shape[1]), dim=1).indices
        columns["positions"] = strongest.tolist()
        columns["position_weights"] = weights.gather(1, strongest).tolist()
    described = schema.NODE["Feature"].through_arrow
    return pa.table([pa.array(columns[field.name], field.type) for field in described], schema=described)
