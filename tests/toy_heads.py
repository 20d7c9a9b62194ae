"""Edges through heads for the toy atlas, random and hand-checkable: written from the specification in atlas/through.py.

``add(toy)`` puts them into a toy's folder and returns the build with the truth as plain rows. Two heads a layer.
``see(made)`` puts an observation of them beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas import observations, schema
from atlas.staging import ALWAYS, Build, open_build
from atlas.through import VIA
from tests.toy import Toy

N_HEADS = 2
KEEP = 3
Row = tuple[str, str, float, float, float, int, int]
"""source and target keys, weight, z, share, layer, head (-1 both for PREDICTS)"""


@dataclass(frozen=True)
class WithHeads:
    toy: Toy
    build: Build
    edges: dict[str, list[Row]]
    heads: list[str]
    features: list[tuple[list[str], list[float]]]
    """by row number: the heads that a feature names, and their norms"""


def add(toy: Toy, seed: int = 5) -> WithHeads:
    """Put heads into a toy's folder, which becomes another build of the same set."""
    rng = np.random.default_rng(seed)
    layer_of, n_tokens = toy.build.layer_of, toy.build.n_tokens
    totals = {label: toy.build.total_into(label) for label in ("Token", "Feature")}
    files: dict[str, pa.Table] = {}
    edges: dict[str, list[Row]] = {"ACTIVATES_VIA": [], "FEEDS_VIA": [], "PROMOTES_VIA": [], "PREDICTS": []}
    keys = {label: toy.keys(label) for label in ("Token", "Feature")}
    tokens, features = np.arange(n_tokens), np.arange(len(layer_of))

    def put(kind: str, name: str, sources: np.ndarray, targets: np.ndarray, ends: tuple[str, str], at: tuple) -> None:
        if not len(sources) or not len(targets):
            return
        weights = rng.normal(0.2, 1.0, (len(sources), len(targets))).astype(np.float32)
        by_source = kind in ("PROMOTES_VIA", "PREDICTS")
        axis = 1 if by_source else 0
        wide = weights.astype(np.float64)
        moments = [m.astype(np.float32) for m in (wide.mean(axis), wide.std(axis), np.abs(wide).sum(axis))]
        order = np.argsort(-np.abs(weights), axis=axis, kind="stable")
        kept = np.zeros(weights.shape, bool)
        np.put_along_axis(kept, order.take(range(min(KEEP, weights.shape[axis])), axis=axis), True, axis=axis)
        a, b = np.nonzero(kept) if by_source else np.nonzero(kept.T)[::-1]
        table = [pa.array(c) for c in (sources[a].astype(np.int32), targets[b].astype(np.int32), weights[a, b])]
        files[f"edges/{kind}/{name}.parquet"] = pa.table(table, names=["source", "target", "weight"])
        rows = sources if by_source else targets
        columns = [pa.array(rows.astype(np.int32)), *map(pa.array, moments)]
        files[f"stats/{kind}-{name}.parquet"] = pa.table(columns, names=["row", "mean", "std", "l1"])
        own = a if by_source else b
        z = (wide[a, b] - moments[0][own]) / moments[1][own]
        share = np.abs(wide[a, b]) / totals[ends[1]][targets[b]]
        edges[kind] += [
            (keys[ends[0]][sources[i]], keys[ends[1]][targets[j]], float(weights[i, j]), float(zz), float(ss), *at)
            for i, j, zz, ss in zip(a.tolist(), b.tolist(), z.tolist(), share.tolist(), strict=True)
        ]

    heads = []
    for layer in toy.layers:
        for head in range(N_HEADS):
            name = f"L{layer:04}H{head:03}"
            before, behind = features[layer_of < layer], features[layer_of >= layer]
            put("ACTIVATES_VIA", name, tokens, behind, ("Token", "Feature"), (layer, head))
            put("FEEDS_VIA", name, before, behind, ("Feature", "Feature"), (layer, head))
            put("PROMOTES_VIA", name, before, tokens, ("Feature", "Token"), (layer, head))
            heads.append({"key": f"{toy.model}/L{layer}H{head}", "model": toy.model, "layer": layer, "head": head})
    put("PREDICTS", "tokens", tokens, tokens, ("Token", "Token"), (-1, -1))
    nodes = [row | {"value_group": 0, "norm_ov": float(np.float32(1.5 + i))} for i, row in enumerate(heads)]
    table = pa.Table.from_pylist(nodes)
    files["nodes/Head.parquet"] = table.set_column(5, "norm_ov", table["norm_ov"].cast(pa.float32()))
    named = [
        ([row["key"] for row in heads if row["layer"] <= layer][:8], [round(9.5 - i, 1) for i in range(8)])
        for layer in layer_of.tolist()
    ]
    named = [(some, norms[: len(some)]) for some, norms in named]
    files["stats/features.parquet"] = pa.table(
        {
            "heads": pa.array([some for some, _ in named], pa.list_(pa.string())),
            "head_norms": pa.array([norms for _, norms in named], pa.list_(pa.float32())),
            "positions": pa.array([[3, 1]] * len(named), pa.list_(pa.int64())),
            "position_weights": pa.array([[-2.5, 0.5]] * len(named), pa.list_(pa.float32())),
        }
    )
    _write(toy.path, files, sum(map(len, edges.values())))
    return WithHeads(toy, open_build(toy.path), edges, [row["key"] for row in heads], named)


def _write(path: Path, files: dict[str, pa.Table], extra: int) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    of_set = pq.read_table(path / "nodes/TranscoderSet.parquet")
    n_edges = pa.array([of_set["n_edges"][0].as_py() + extra], pa.int64())
    at = of_set.schema.get_field_index("n_edges")
    files["nodes/TranscoderSet.parquet"] = of_set.set_column(at, "n_edges", n_edges)
    for name, table in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        content = file.read_bytes()
        manifest["files"][name] = {
            "rows": table.num_rows,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


Seen = dict[str, dict[tuple[str, str, int, int], tuple[float | None, ...]]]
"""by kind: source and target keys, layer and head, and evidence in the order of the schema"""


def see(made: WithHeads, seed: int = 11, *, heads: bool = True) -> Seen:
    """Put an observation beside the build, from the specification in atlas/observations.py, and return what it says of
    edges through heads; with ``heads`` false it says nothing of them, as those that were made without heads."""
    rng = np.random.default_rng(seed)
    build, path = made.build, made.build.path / "observations" / "seen"
    n, keys = build.n_features, {label: made.toy.keys(label) for label in ("Token", "Feature")}
    files: dict[str, pa.Table] = {"features.parquet": _nothing(observations.FEATURE, n)}
    files["extra/FEEDS.parquet"] = observations.EXTRA.empty_table()
    for kind in ALWAYS:
        ends = pa.concat_tables(table.select(["source", "target"]) for table in build.edges(kind))
        table = _nothing(observations.EDGE, len(ends))
        for at, name in enumerate(("source", "target")):
            table = table.set_column(at, observations.EDGE.field(name), ends[name])
        ones = {"n_both": np.ones(len(ends), np.int64), "kept_by": np.ones(len(ends), np.int8)}
        for name, column in ones.items():
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
        files[f"edges/{kind}.parquet"] = table
    said: Seen = {kind: {} for kind in VIA}
    for kind in VIA:
        source, target = (keys[label] for label in (schema.EDGE[kind].source, schema.EDGE[kind].target))
        for file, edges in zip(build.edge_files(kind), build.edges(kind), strict=True):
            numbers = rng.normal(0, 1, (len(edges), len(observations.EVIDENCE_VIA))).astype(np.float32)
            undefined = rng.random(numbers.shape) < 0.2
            undefined |= [kind == "PROMOTES_VIA" and not p.name.startswith("drive") for p in observations.EVIDENCE_VIA]
            columns = [pa.array(numbers[:, i], mask=undefined[:, i]) for i in range(numbers.shape[1])]
            ends = [edges[name] for name in ("source", "target")]
            files[file] = pa.table([*ends, *columns], schema=observations.EDGE_VIA)
            places = edges.select(["source", "target", "layer", "head"]).to_pylist()
            for place, row in zip(places, zip(*(c.to_pylist() for c in columns), strict=True), strict=True):
                ends = source[place["source"]], target[place["target"]]
                said[kind][(*ends, place["layer"], place["head"])] = row if heads else (None,) * len(row)
    if not heads:
        files = {name: table for name, table in files.items() if "_VIA" not in name}
    entries = {}
    for name, table in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path / name)
        entries[name] = {"rows": len(table), "bytes": (path / name).stat().st_size}
    manifest = {"format": 1, "build": build.run, "run": f"seen-{seed}-{heads}", "corpus": {"name": "text"}}
    manifest |= {"positions": 9, "strongest": 1, "files": entries} | ({"heads": True} if heads else {})
    (path / "manifest.json").write_text(json.dumps(manifest))
    return said


def _nothing(columns: pa.Schema, n: int) -> pa.Table:
    return pa.table([pa.nulls(n, field.type) for field in columns], schema=columns)
