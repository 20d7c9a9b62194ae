"""A small random atlas one can check by hand: a staged build, and the same graph as plain Python rows.

Every axis has another size, so that a transposed matrix cannot pass. The files are written with pyarrow from the
specification in :mod:`atlas.staging` and not by the writer in ``ingest``: two writers of one format keep it honest. ::

    toy = write(tmp_path / "a-build")                       # 5 layers, 40 features, 17 tokens
    toy.build                                               # what a store loads
    toy.edges["FEEDS"]                                      # [(source key, target key, weight, z, share), ...]

A weight is kept when it is among the strongest of its row or of its column; the cuts on the features are the largest
values that were left out, computed from the left-out values themselves.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.staging import Build, open_build
from tests.toy_weights import WeightedRow, Weights

SIZES = (7, 11, 13, 6, 3)
N_TOKENS = 17
WORDS = (
    "<|bos|>",
    " rabbit",
    "rabbit",
    "'",
    '"',
    "\\",
    "\n",
    " don't",
    " naïve",
    "兔子",
    "\ufffd",
    "\ufffd",  # two ids, one text: halves of a character decode alike
    ' say "',
    " ",
    "%_*",
    " Ä",
    "a\\nb",
    "🐇",
    "--",
    "{$x}",
)
"""Texts of the first tokens: what vocabularies really hold. Later tokens are made-up words."""

Row = dict[str, Any]
WeightedEdge = tuple[str, str, float, float, float]


@dataclass(frozen=True)
class Toy:
    """A staged build and what is in it."""

    path: Path
    model: str
    set: str
    vocabulary: str
    layers: tuple[int, ...]
    sizes: tuple[int, ...]
    run: str
    nodes: dict[str, list[Row]]
    """rows of every node file, by label"""
    tables: dict[str, list[WeightedRow]] = field(repr=False)
    """weighted relationships by row number: source, target, weight, z, share"""

    @property
    def set_key(self) -> str:
        return f"{self.model}/{self.set}"

    @cached_property
    def build(self) -> Build:
        return open_build(self.path)

    @cached_property
    def edges(self) -> dict[str, list[WeightedEdge]]:
        """Weighted relationships by key: source, target, weight, z, share; in the order of the files."""
        ends = {"ACTIVATES": ("Token", "Feature"), "FEEDS": ("Feature", "Feature"), "PROMOTES": ("Feature", "Token")}
        found = {}
        for kind, rows in self.tables.items():
            source, target = (self.keys(label) for label in ends[kind])
            found[kind] = [(source[a], target[b], weight, z, share) for a, b, weight, z, share in rows]
        return found

    @property
    def structure(self) -> dict[str, list[tuple[str, str]]]:
        """Relationships without weights: source and target keys."""
        return {"OF": [(self.set_key, self.model)], "LOADED_BY": [(self.set_key, self.run)]}

    @property
    def n_edges(self) -> int:
        return sum(map(len, self.tables.values()))

    def keys(self, label: str) -> list[str]:
        return [row["key"] for row in self.nodes[label]]


def write(
    path: Path,
    *,
    model: str = "toy",
    set: str = "tc-40",
    vocabulary: str = "toy-words",
    sizes: tuple[int, ...] = SIZES,
    layers: tuple[int, ...] | None = None,
    n_tokens: int = N_TOKENS,
    density: float = 0.4,
    seed: int = 0,
    neuronpedia_id: str = "",
    copied: tuple[int, tuple[float, ...]] | None = None,
    vectors: bool = False,
) -> Toy:
    """Write a build into a new folder and return it with its truth; the same arguments give the same bytes.

    ``sizes``: features of each layer. ``layers``: their numbers, 0, 1, … if not said. ``density``: the part of each row
    and of each column that is kept, strongest first; 1.0 keeps all but exact zeros. ``copied``: (seed, noise) for the
    set of the same other arguments with the features of each layer in another order (:func:`within_layers`), and noise
    of so many deviations, by layer, on the weights from and to tokens. ``vectors``: with random vectors of float16, in
    which row 9 is row 2 again and row 3 is zeros; the run is the same.
    """
    layers = tuple(range(len(sizes))) if layers is None else layers
    settings = {"density": density, "seed": seed, "sizes": sizes, "layers": layers, "n_tokens": n_tokens}
    if copied:
        settings["copied"] = copied
    inputs = {"model": model, "set": set, "vocabulary": vocabulary}
    run = _hash(_json({"inputs": inputs, "settings": settings}).encode())[:12]
    graph = Weights(np.random.default_rng(seed), sizes, n_tokens, density, copied)
    tokens = [
        {"key": f"tok:{vocabulary}/{i}", "vocabulary": vocabulary, "token_id": i, "text": text}
        for i, text in enumerate(_texts(n_tokens))
    ]
    nodes: dict[str, list[Row]] = {
        "Model": [
            {
                "key": model,
                "name": model,
                "family": "toy",
                "n_layers": max(layers) + 1,
                "d_model": 19,
                "n_vocab": n_tokens,
                "tokenizer": vocabulary,
                "repo": f"example/{model}",
                "revision": f"seed-{seed}",
            }
        ],
        "TranscoderSet": [
            {
                "key": f"{model}/{set}",
                "model": model,
                "name": set,
                "kind": "transcoder",
                "read_site": "norm_post_gain",
                "write_site": "mlp_raw",
                "activation": "relu",
                "n_layers": len(sizes),
                "n_features": sum(sizes),
                "n_edges": sum(map(len, graph.edges.values())),
                "repo": f"example/{set}",
                "revision": f"seed-{seed}",
                "saelens_release": f"{model}-{set}-release",
                "neuronpedia_id": neuronpedia_id,
                "label_source": "tokens",
                "cut": _json({"density": density, "features_per_token": int(np.ceil(density * sum(sizes)))}),
                "run": run,
            }
        ],
        "Run": [{"key": run, "code": "0.0.toy", "inputs": _json(inputs), "settings": _json(settings)}],
        "Token": tokens,
        "Feature": _features(graph, model, set, layers, sizes, [token["text"] for token in tokens]),
    }
    toy = Toy(path, model, set, vocabulary, layers, sizes, run, nodes, graph.edges)
    _write(toy, graph, seed if vectors else None)
    return toy


def _largest(values: np.ndarray) -> float:
    return abs(float(values.max()))


def _features(
    graph: Weights, model: str, set: str, layers: tuple[int, ...], sizes: tuple[int, ...], texts: list[str]
) -> list[Row]:
    rows = []
    lost_activates = np.where(graph.keeps_activates, 0, graph.activates)
    lost_promotes = np.where(graph.keeps_promotes, 0, graph.promotes)
    lost_feeds = np.where(graph.keeps_feeds, 0, graph.feeds)
    lost_z = np.where(graph.keeps_feeds | (graph.feeds == 0), 0, np.abs(graph.feeds_z))
    out = np.abs(graph.feeds.astype(np.float64)).sum(1) + graph.promotes_moments[2]
    for row, position in enumerate(graph.layer.tolist()):
        layer, idx = layers[position], row - int(graph.first[position])
        strongest = np.argsort(-graph.activates[:, row], kind="stable")[:3]
        moments = [graph.feeds_moments.get((row, source), (0.0, 0.0, 0.0)) for source in range(len(sizes))]
        rows.append(
            {
                "key": f"{model}/{layer}-{set}/{idx}",
                "model": model,
                "set": f"{model}/{set}",
                "layer": layer,
                "idx": idx,
                "label": ", ".join(texts[token].strip() for token in strongest),
                "label_source": "tokens",
                **dict(
                    zip(("bias", "threshold", "norm_enc", "norm_dec", "constant"), graph.norms[:, row], strict=True)
                ),
                "l1_in": graph.into_features[row],
                "l1_out": out[row],
                "mean_tokens": graph.activates_moments[0, row],
                "std_tokens": graph.activates_moments[1, row],
                "mean_logits": graph.promotes_moments[0, row],
                "std_logits": graph.promotes_moments[1, row],
                "means_in_by_layer": [mean for mean, _, _ in moments],
                "stds_in_by_layer": [std for _, std, _ in moments],
                "cut_in_z": _largest(lost_z[:, row]),
                "cut_out_z": _largest(lost_z[row]),
                "cuts_in_by_layer": [_largest(np.abs(lost_feeds[span, row])) for span in graph.spans],
                "cuts_out_by_layer": [_largest(np.abs(lost_feeds[row, span])) for span in graph.spans],
                "cut_token_pos": _largest(lost_activates[:, row].clip(min=0)),
                "cut_token_neg": _largest(-lost_activates[:, row].clip(max=0)),
                "cut_logit_pos": _largest(lost_promotes[row].clip(min=0)),
                "cut_logit_neg": _largest(-lost_promotes[row].clip(max=0)),
            }
        )
    return [{name: _stored(value) for name, value in row.items()} for row in rows]


def _stored(value: Any) -> Any:
    """A property as a reader gets it back: floats go through float32."""
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float | np.floating) else value


def _texts(n_tokens: int) -> list[str]:
    syllables = ("ba", "che", "di", "fo", "gru", "he", "jo")
    made_up = (
        (" " if i % 3 else "") + "".join(syllables[(i // 7**place) % 7] for place in range(3)) for i in range(n_tokens)
    )
    return [*WORDS[:n_tokens], *made_up][:n_tokens]


_COLUMNS = {
    "edges": ("source", "target", "weight"),
    "ACTIVATES": ("target", "mean", "std", "l1"),
    "FEEDS": ("target", "layer", "mean", "std", "l1"),
    "PROMOTES": ("source", "mean", "std", "l1"),
    "logits": ("target", "l1"),
}
_TYPES = dict.fromkeys(("source", "target", "layer"), pa.int32()) | {
    "weight": pa.float32(),
    **dict.fromkeys(("mean", "std", "l1"), pa.float64()),
}


def _write(toy: Toy, graph: Weights, vectors: int | None = None) -> None:
    files: dict[str, pa.Table] = {}
    for label, rows in toy.nodes.items():
        files[f"nodes/{label}.parquet"] = _node_table(rows)
    for kind, rows in toy.tables.items():
        for number, part in enumerate(_parts(kind, rows, graph)):
            files[f"edges/{kind}/{number:03}.parquet"] = _table("edges", [row[:3] for row in part])
    n_features = len(graph.layer)
    for kind, moments in (("ACTIVATES", graph.activates_moments), ("PROMOTES", graph.promotes_moments)):
        files[f"stats/{kind}.parquet"] = _table(kind, [(row, *moments[:, row].tolist()) for row in range(n_features)])
    feeds = [(target, toy.layers[source], *moments) for (target, source), moments in graph.feeds_moments.items()]
    files["stats/FEEDS.parquet"] = _table("FEEDS", sorted(feeds))
    files["stats/logits.parquet"] = _table("logits", list(enumerate(graph.into_logits.tolist())))

    entries = {}
    for name, table in sorted(files.items()):
        file = toy.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, compression="zstd")
        entries[name] = {"rows": table.num_rows, "bytes": file.stat().st_size, "sha256": _hash(file.read_bytes())}
    if vectors is not None:
        for number, name in enumerate(("encoder", "decoder")):
            entries[f"vectors/{name}.npy"] = _write_vectors(toy, name, np.random.default_rng([vectors, number]))
    manifest = {
        "format": 1,
        "run": toy.run,
        "model": {"name": toy.model},
        "set": {"name": toy.set},
        "layers": list(toy.layers),
        "features_per_layer": list(toy.sizes),
        "files": entries,
    }
    (toy.path / "run.json").write_text('{"started": "2026-11-21T12:00:00Z", "finished": "2026-11-21T12:00:01Z"}\n')
    (toy.path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _write_vectors(toy: Toy, name: str, random: np.random.Generator) -> Row:
    unit = random.normal(size=(sum(toy.sizes), toy.nodes["Model"][0]["d_model"]))
    unit[9], unit[3] = unit[2], 0
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    file = toy.path / "vectors" / f"{name}.npy"
    file.parent.mkdir(exist_ok=True)
    np.save(file, unit.astype("<f2"))
    return {"rows": len(unit), "bytes": file.stat().st_size, "sha256": _hash(file.read_bytes())}


def _parts(kind: str, rows: list[Any], graph: Weights) -> list[list[Any]]:
    """Several files a kind: FEEDS by target layer, PROMOTES in two, ACTIVATES in one."""
    if kind == "FEEDS":
        return [[row for row in rows if span.start <= row[1] < span.stop] for span in graph.spans[1:]]
    half = len(rows) // 2 if kind == "PROMOTES" else len(rows)
    return [part for part in (rows[:half], rows[half:]) if part or not rows]


def _table(name: str, rows: list[Any]) -> pa.Table:
    names = _COLUMNS[name]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return pa.table({name: pa.array(column, _TYPES[name]) for name, column in zip(names, columns, strict=True)})


def _node_table(rows: list[Row]) -> pa.Table:
    """Text, int64, float32 and lists of float32: what node files hold."""

    types = {str: pa.string(), int: pa.int64(), float: pa.float32(), list: pa.list_(pa.float32())}
    return pa.table({name: pa.array([row[name] for row in rows], types[type(rows[0][name])]) for name in rows[0]})


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
