"""A staged build of any size in seconds: random edges of the right shape, for measuring stores.

Statistics are random too, so z and share mean nothing; keys, order, types and counts are those of a real build.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas import schema, staging
from atlas.staging import Build, open_build


def write(
    path: Path,
    *,
    model: str = "large",
    layers: int = 6,
    features: int = 4_096,
    tokens: int = 10_000,
    fan_in: int = 40,
    tokens_each: int = 20,
    seed: int = 0,
) -> Build:
    """A build with about ``layers * features * (fan_in + 2 * tokens_each)`` edges."""
    rng = np.random.default_rng(seed)
    n = layers * features
    run = hashlib.sha256(f"{model} {layers} {features} {seed}".encode()).hexdigest()[:12]
    targets = np.arange(n)
    files = _nodes(rng, model, run, layers, features, tokens)
    near = np.sort(rng.integers(0, tokens, (n, tokens_each)) // tokens_each * tokens_each, axis=1)
    near = (near + np.arange(tokens_each)) % tokens  # no token twice
    pairs = np.repeat(targets, tokens_each), np.sort(near, axis=1).ravel()
    files["edges/ACTIVATES/000.parquet"] = _edges(rng, pairs[1], pairs[0])
    files["edges/PROMOTES/000.parquet"] = _edges(rng, *pairs)
    for layer in range(1, layers):
        into = targets[layer * features : (layer + 1) * features]
        start = rng.integers(0, layer * features // fan_in, (features, 1))
        step = layer * features // fan_in
        sources = np.sort((start + step * np.arange(fan_in)) % (layer * features), axis=1)
        files[f"edges/FEEDS/{layer:03}.parquet"] = _edges(rng, sources.ravel(), np.repeat(into, fan_in))
    ahead = np.repeat(np.arange(layers), features)
    earlier = [np.tile(np.arange(layer), features) for layer in range(layers)]
    files |= {
        "stats/ACTIVATES.parquet": _stats(rng, target=targets),
        "stats/PROMOTES.parquet": _stats(rng, source=targets),
        "stats/FEEDS.parquet": _stats(rng, target=np.repeat(targets, ahead), layer=np.concatenate(earlier)),
        "stats/logits.parquet": pa.table(
            {"target": pa.array(np.arange(tokens), pa.int32()), "l1": np.full(tokens, 9.0)}
        ),
    }
    entries = {}
    for name, table in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file)
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        entries[name] = {"rows": table.num_rows, "bytes": file.stat().st_size, "sha256": content}
    manifest = {
        "format": staging.FORMAT,
        "run": run,
        "model": {"name": model},
        "set": {"name": "tc"},
        "layers": list(range(layers)),
        "features_per_layer": [features] * layers,
        "files": entries,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return open_build(path)


def _edges(rng: np.random.Generator, source: np.ndarray, target: np.ndarray) -> pa.Table:
    weight = rng.normal(size=len(source)).astype(np.float32)
    weight[weight == 0] = 1
    return pa.table([pa.array(source, pa.int32()), pa.array(target, pa.int32()), weight], schema=staging.EDGE_COLUMNS)


def _stats(rng: np.random.Generator, **columns: np.ndarray) -> pa.Table:
    size = len(next(iter(columns.values())))
    moments = {"mean": rng.normal(size=size), "std": rng.uniform(0.5, 2, size), "l1": rng.uniform(50, 90, size)}
    return pa.table({name: pa.array(values, pa.int32()) for name, values in columns.items()} | moments)


def _nodes(
    rng: np.random.Generator, model: str, run: str, layers: int, features: int, tokens: int
) -> dict[str, pa.Table]:
    layer, idx = np.divmod(np.arange(layers * features), features)
    given = {
        "Model": {"key": [model], "name": [model], "tokenizer": ["large-words"], "n_vocab": [tokens]},
        "TranscoderSet": {"key": [f"{model}/tc"], "model": [model], "name": ["tc"], "run": [run]},
        "Run": {"key": [run]},
        "Token": {
            "key": [f"tok:large-words/{i}" for i in range(tokens)],
            "vocabulary": ["large-words"] * tokens,
            "token_id": np.arange(tokens),
            "text": [f" word{i}" for i in range(tokens)],
        },
        "Feature": {
            "key": [f"{model}/{a}-tc/{b}" for a, b in zip(layer.tolist(), idx.tolist(), strict=True)],
            "model": [model] * len(layer),
            "set": [f"{model}/tc"] * len(layer),
            "layer": layer,
            "idx": idx,
            "label": [f"rabbit, hare, word{i % 997}" for i in range(len(layer))],
        },
    }
    files = {}
    for label, columns in given.items():
        rows = len(columns["key"])
        wanted = schema.NODE[label].arrow
        files[f"nodes/{label}.parquet"] = pa.table(
            [_column(rng, field, columns.get(field.name), rows, layers) for field in wanted], schema=wanted
        )
    return files


def _column(rng: np.random.Generator, field: pa.Field, given: object, rows: int, layers: int) -> pa.Array:
    if given is not None:
        return pa.array(given, field.type)
    if pa.types.is_list(field.type):
        return pa.array(rng.random((rows, layers)).astype(np.float32).tolist(), field.type)
    if pa.types.is_floating(field.type):
        return pa.array(rng.random(rows).astype(np.float32))
    return pa.array(["tokens"] * rows if pa.types.is_string(field.type) else [layers] * rows, field.type)
