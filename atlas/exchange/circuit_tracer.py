"""Graph JSON of circuit-tracer and Neuronpedia: what people wrote on the features of a graph.

A graph is about one prompt, and its activations and links stay where they are. What is said of its features holds
beyond it: a feature node's ``clerp``, and the names of ``qParams.supernodes`` (``[name, node id, …]``), with which a
person groups nodes on the page. Each becomes a description of every feature that it is said of. The format is that of
https://github.com/safety-research/circuit-tracer (``frontend/graph_models.py``, MIT) and of
https://www.neuronpedia.org/graph/schema; :mod:`queries.present_graph` writes it.

Nodes are told apart by ``feature_type``, never by their id: an old id of an error node reads like that of a feature.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.descriptions import Descriptions
from atlas.descriptions.staging import Staging, scores
from atlas.errors import BadDescriptions
from atlas.provenance import Run
from atlas.staging import Build, sha256

METHOD = "circuit-tracer"
_FEATURE = "cross layer transcoder"
"""The type of every feature node, those of per-layer sets included."""
_INDEX = "graph-metadata.json"
"""Beside graphs lies a list of them, which is none."""
_DETAILS = pa.schema([("feature", pa.int32()), ("graph", pa.string()), ("said_as", pa.string())])


def read(build: Build, place: Path) -> Descriptions:
    """Take in one graph or a folder of them; all or nothing. The same text on the same feature counts once.

    Raises :class:`atlas.errors.BadDescriptions` for a file that is no graph or of another model or set, for a feature
    that this one does not have, and where nothing is said of any.
    """
    files = _files(place)
    run = Run(
        {"build": build.run, "set": build.set_key, "files": {path.name: sha256(path) for path in files}},
        {"import": METHOD},
    )
    staging = Staging(build, METHOD, run)
    if found := staging.finished():
        return found
    said: dict[tuple[int, str], tuple[str, str]] = {}
    for path in files:
        graph = _graph(path)
        _demand(build, graph["metadata"], path)
        for feature, text, said_as in _said(build, graph, path):
            said.setdefault((feature, text), (str(graph["metadata"].get("slug") or path.stem), said_as))
    if not said:
        raise BadDescriptions(
            f"{place} says nothing of any feature: no node has a clerp, and no supernode holds a feature"
        )
    order = sorted(said, key=lambda pair: pair[0])  # within a feature as they were found
    features = pa.array([feature for feature, _ in order], pa.int32())
    about = [said[pair] for pair in order]
    nothing = pa.array([""] * len(order), pa.string())
    columns = {
        "feature": features,
        "text": pa.array([text for _, text in order], pa.string()),
        "explainer": nothing,
        "scores": pa.array([scores(graph=graph, said_as=said_as) for graph, said_as in about], pa.string()),
        "created": nothing,
    }
    details = pa.table(
        {"feature": features, "graph": [graph for graph, _ in about], "said_as": [said_as for _, said_as in about]},
        schema=_DETAILS,
    )
    return staging.finish(pa.table(columns), details, {"settings": run.settings, "imported_from": place.name})


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BadDescriptions(f"{place} is not there; give a graph's JSON or a folder of them")
    found = sorted(path for path in place.glob("*.json") if path.name != _INDEX)
    if not found:
        raise BadDescriptions(f"{place} holds no graph; circuit-tracer writes each as SLUG.json")
    return found


def _graph(path: Path) -> dict[str, Any]:
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadDescriptions(f"{path} cannot be read as JSON ({' '.join(str(error).split())})") from error
    parts = {"metadata": dict, "qParams": dict, "nodes": list}
    wrong = [
        name for name, kind in parts.items() if not isinstance(graph, dict) or not isinstance(graph.get(name), kind)
    ]
    if wrong:
        raise BadDescriptions(f"{path} has no {', '.join(wrong)}; a graph has metadata, qParams, nodes and links")
    return graph


def _demand(build: Build, metadata: dict[str, Any], path: Path) -> None:
    """Refuse a graph of another model or set, as far as it says which it is of."""
    stated = build.nodes("TranscoderSet").to_pylist()[0]
    owner, _, source = str(stated["neuronpedia_id"]).rpartition("/")
    sources = {build.set, build.set_key, source, stated["repo"], stated["saelens_release"]} - {""}
    models = {build.model, owner} - {""}
    scan = str(metadata.get("scan") or "")
    details = metadata.get("feature_details")
    of_set = str(details.get("neuronpedia_source_set") or "") if isinstance(details, dict) else ""
    if scan not in models | sources or (of_set and of_set not in sources):
        known, found = ", ".join(sorted(models | sources)), "/".join(filter(None, (scan, of_set)))
        raise BadDescriptions(
            f"{path} is of {found or 'no scan'}, not {build.set_key}; name its set with "
            f"--set, or, if it is this one, write one of {known} as metadata.scan"
        )


def _said(build: Build, graph: dict[str, Any], path: Path) -> Iterator[tuple[int, str, str]]:
    """Feature, text, and where it stands."""
    first = dict(zip(build.layers, [0, *_sums(build.features_per_layer)], strict=False))
    sizes = dict(zip(build.layers, build.features_per_layer, strict=True))
    rows: dict[str, int] = {}
    for node in graph["nodes"]:
        if not isinstance(node, dict) or not isinstance(node.get("node_id"), str):
            raise BadDescriptions(f"{path} has a node without a node_id")
        if node.get("feature_type") != _FEATURE:
            continue
        layer, idx = _place(node, path)
        if idx >= sizes.get(layer, 0):
            raise BadDescriptions(f"{path} has feature {layer}/{idx}, which {build.set_key} does not have")
        rows[node["node_id"]] = first[layer] + idx
        if isinstance(node.get("clerp"), str) and node["clerp"].strip():
            yield rows[node["node_id"]], node["clerp"].strip(), "clerp"
    groups = graph["qParams"].get("supernodes") or []
    for group in groups:
        if not isinstance(group, list) or not all(isinstance(part, str) for part in group):
            raise BadDescriptions(f"{path} has a supernode that is no list of a name and node ids")
        for node_id in group[1:]:
            if node_id in rows and group[0].strip():
                yield rows[node_id], group[0].strip(), "supernode"


def _place(node: dict[str, Any], path: Path) -> tuple[int, int]:
    """Layer and index: of Cantor's pairing, which is how a node states them; its layer must be the same."""
    pair, layer = node.get("feature"), str(node.get("layer"))
    if isinstance(pair, int) and not isinstance(pair, bool) and 0 <= pair < 1 << 62:
        diagonal = (math.isqrt(8 * pair + 1) - 1) // 2
        idx = pair - diagonal * (diagonal + 1) // 2
        if layer == str(diagonal - idx):
            return diagonal - idx, idx
    raise BadDescriptions(
        f"{path}: node {ascii(node['node_id'])[:60]} is of layer {ascii(layer)[:20]} and feature {ascii(pair)[:30]}, "
        "which is no pair of layer and index"
    )


def _sums(sizes: list[int]) -> list[int]:
    return [sum(sizes[: at + 1]) for at in range(len(sizes))]
