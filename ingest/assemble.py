"""From the parts of all units to the files of a build.

First the columns' rules are decided, over all units; then each unit's rows are written with what columns keep of them.
Both go a span at a time, so memory is that of the widest layer however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from atlas.staging import STATS_COLUMNS
from ingest import labels, nodes
from ingest.edges import Keep, Pool, merge, rules, union
from ingest.labels import Outstanding
from ingest.parts import Parts, Unit
from ingest.plan import Sizes
from ingest.writer import Writer

_SPAN = 1 << 16
"""columns of all units that a thread merges at once, each with a few dozen candidates"""
_SHORTEST_SPAN = 1 << 10


def decide_columns(
    parts: Parts,
    units: list[Unit],
    sizes: Sizes,
    keep: Keep,
    min_z: float | None,
    pool: Pool,
    tick: Callable[[int], None],
) -> None:
    """Settle what columns keep, kind by kind, and note it in the parts, with the cuts of FEEDS by source layer."""
    parts.forget_kept()
    tokens = list(rules("ACTIVATES", keep).col)
    for kind in ("ACTIVATES", "PROMOTES"):
        of_kind = [unit for unit in units if unit.kind == kind]
        _decide(parts, of_kind, 0, sizes.n_vocab, 0, sizes, tokens, [], None, pool, tick)
    for source, n in enumerate(sizes.n_features):
        later = [unit for unit in units if unit.kind == "FEEDS" and unit.layer > source]
        overall, by_layer = [("z", keep.z)], [("abs", keep.per_layer)]
        none = {"z": np.zeros(n, np.float32), "abs": np.zeros((n, len(sizes.layers)), np.float32)}
        cuts = _decide(parts, later, source, n, sizes.first[source], sizes, overall, by_layer, min_z, pool, tick)
        parts.save_cuts(source, none | cuts)


def _decide(
    parts: Parts,
    units: list[Unit],
    group: int,
    n_cols: int,
    first_col: int,
    sizes: Sizes,
    overall: list[tuple[str, int]],
    by_layer: list[tuple[str, int]],
    min_z: float | None,
    pool: Pool,
    tick: Callable[[int], None],
) -> dict[str, np.ndarray]:
    if not units or not n_cols:
        return {}
    step = max(_SHORTEST_SPAN, _SPAN // len(units))

    def span(first: int) -> dict[str, np.ndarray]:
        last = min(first + step, n_cols)
        found = [(unit.layer, parts.candidates(unit, group, first, last)) for unit in units]
        kept = merge(found, last - first, len(sizes.layers), overall, by_layer, min_z)
        col = kept.col + np.int32(first + first_col)
        parts.save_kept(units[0].kind, group, first // step, kept.row, col, kept.weight)
        return kept.cuts

    cuts = pool.map(span, range(0, n_cols, step))
    tick(n_cols)
    return {order: np.concatenate([piece[order] for piece in cuts]) for order in cuts[0]}


@dataclass
class Layer:
    """What all units say of one layer's features; arrays by feature, blocks in order."""

    activates: dict[str, np.ndarray]
    feeds: dict[str, np.ndarray] | None
    promotes: dict[str, np.ndarray]
    tokens: Outstanding
    logits: Outstanding


class Assembly:
    """Writes edges, statistics and nodes of features, layer by layer."""

    def __init__(self, parts: Parts, units: list[Unit], sizes: Sizes, writer: Writer, pool: Pool) -> None:
        self.parts, self.units, self.sizes, self.writer, self.pool = parts, units, sizes, writer, pool
        self.l1_out = [np.zeros(n) for n in sizes.n_features]
        self.logit_l1 = np.zeros(sizes.n_vocab)
        for unit in units:
            if unit.kind == "FEEDS":
                for source in range(unit.layer):
                    self.l1_out[source] += parts.column_l1(unit, source)
            elif unit.kind == "PROMOTES":
                self.logit_l1 += parts.column_l1(unit, 0)
            elif unit.kind == "logits":
                self.logit_l1[unit.first : unit.last] += parts.statistics(unit)["l1"][:, 0]

    def layer(self, position: int) -> Layer:
        """Write the edges of one layer's units and collect what they say of its features."""
        found = {}
        outstanding = {}
        for kind in ("ACTIVATES", "FEEDS", "PROMOTES"):
            units = [unit for unit in self.units if unit.kind == kind and unit.layer == position]
            stored = [self.parts.statistics(unit) for unit in units]
            pieces = self.pool.map(lambda of: self._edges(*of), zip(units, stored, strict=True))
            if not units:
                found[kind] = None
                continue
            found[kind] = {name: np.concatenate([own[name] for own in stored]) for name in stored[0]}
            if kind != "FEEDS":
                outstanding[kind] = Outstanding(
                    *(np.concatenate([getattr(p, name) for p in pieces]) for name in ("row", "token", "z"))
                )
        return Layer(
            found["ACTIVATES"], found["FEEDS"], found["PROMOTES"], outstanding["ACTIVATES"], outstanding["PROMOTES"]
        )

    def _edges(self, unit: Unit, statistics: dict[str, np.ndarray]) -> Outstanding:
        first = self.sizes.first[unit.layer] + unit.first
        last = self.sizes.first[unit.layer] + unit.last
        pieces = [self.parts.edges(unit), *self.parts.kept(unit.kind, first, last)]
        row, col, weight = union(*((piece["row"], piece["col"], piece["weight"]) for piece in pieces))
        name = f"edges/{unit.kind}/{self.sizes.layers[unit.layer]:04}-{unit.first:09}.parquet"
        source, target = (row, col) if unit.kind == "PROMOTES" else (col, row)
        self.writer.edges(name, source, target, weight)
        if unit.kind == "FEEDS":
            return Outstanding(*(np.empty(0),) * 3)
        return labels.strongest_positive(row, col, weight, statistics["mean"][:, 0], statistics["std"][:, 0], first)

    def rows(self, position: int, layer: Layer, texts: list[str], bos: int | None) -> nodes.LayerRows:
        """The properties of one layer's features."""
        n, n_layers = self.sizes.n_features[position], len(self.sizes.layers)
        first = self.sizes.first[position]
        names, sources = labels.labels(n, first, layer.tokens, layer.logits, texts, bos)

        def widen(values: np.ndarray | None) -> np.ndarray:
            wide = np.zeros((n, n_layers), np.float32)  # as it is stored: these grow with the number of layers
            if values is not None:
                wide[:, : values.shape[1]] = values
            return wide

        feeds = layer.feeds or {}
        out = self.parts.cuts(position)
        into = layer.activates["l1"][:, 0] + (feeds["l1"].sum(axis=1) if feeds else 0.0)
        return nodes.LayerRows(
            label=names,
            label_source=sources,
            l1_in=into,
            l1_out=self.l1_out[position] + layer.promotes["l1"][:, 0],
            tokens=np.stack([layer.activates["mean"][:, 0], layer.activates["std"][:, 0]]),
            logits=np.stack([layer.promotes["mean"][:, 0], layer.promotes["std"][:, 0]]),
            means_in=widen(feeds.get("mean")),
            stds_in=widen(feeds.get("std")),
            cut_in_z=feeds.get("cut_z", np.zeros(n)),
            cut_out_z=out["z"],
            cuts_in=widen(feeds.get("cut_abs")),
            cuts_out=out["abs"],
            cut_tokens=np.stack([layer.activates["cut_pos"][:, 0], layer.activates["cut_neg"][:, 0]]),
            cut_logits=np.stack([layer.promotes["cut_pos"][:, 0], layer.promotes["cut_neg"][:, 0]]),
        )

    def statistics(self, kind: str, position: int, layer: Layer) -> pa.Table:
        """One layer's rows of ``stats/KIND``."""
        found = {"ACTIVATES": layer.activates, "FEEDS": layer.feeds, "PROMOTES": layer.promotes}[kind]
        columns = STATS_COLUMNS[kind]
        if found is None:
            return columns.empty_table()
        n, width = found["mean"].shape
        numbers = np.repeat(self.sizes.first[position] + np.arange(n, dtype=np.int32), width)
        ids = [numbers]
        if kind == "FEEDS":
            ids.append(np.tile(np.asarray(self.sizes.layers[:width], np.int32), n))
        values = [found[name].ravel() for name in ("mean", "std", "l1")]
        return pa.table([pa.array(column) for column in (*(i.astype(np.int32) for i in ids), *values)], schema=columns)
