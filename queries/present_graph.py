"""A circuit as the graph JSON that Neuronpedia and circuit-tracer show.

The format is that of https://www.neuronpedia.org/graph/schema (and of circuit-tracer's ``graph_models.py``, MIT): root
``metadata, qParams, nodes, links``. It was made for one prompt; a circuit of weights has none. So nothing that only a
prompt gives is written: no ``activation``, no ``influence``, and a logit's probability is ``nan``. What takes the place
of the prompt is said in ``metadata.info.description``: each input token stands at a position of its own, every feature
and logit at the last one, and a link's weight is the connection's raw weight.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from atlas.errors import BadSetting
from queries.circuits import Circuit

_PLACE = "(weights)"
"""What stands where the last token of a prompt would: features and logits hang there."""
_DESCRIPTION = (
    "Weights, not a prompt: what these features read and write with norms and attention held still. Each input token "
    "has a position of its own; features and logits stand at the last one. Link weights are raw virtual weights "
    "(pre-activation, or centred logit, per unit activation). There are no activations, influences or probabilities."
)


def graph_json(circuit: Circuit) -> str:
    """A circuit of one set as graph JSON, ready to upload to Neuronpedia or to serve with circuit-tracer.

    Raises BadSetting where its features are of several sets: the format knows one.
    """
    set_key = circuit.attrs.get("set")
    if not isinstance(set_key, str):
        raise BadSetting(
            "graph JSON holds features of one set, and this circuit's are of "
            + (", ".join(set_key) if set_key else "none")
            + "; name one with set, or begin at a feature"
        )
    known = {row["key"]: row for row in circuit.nodes.to_dict("records")}
    edges = circuit.edges.to_dict("records")
    inputs = list(dict.fromkeys(edge["source"] for edge in edges if edge["type"] == "ACTIVATES"))
    inputs += [key for key in known if key.startswith("tok:") and not _touched(key, edges)]
    logits = list(dict.fromkeys(edge["target"] for edge in edges if edge["type"] == "PROMOTES"))
    features = [key for key, row in known.items() if row["type"] == "Feature"]
    last, deepest = len(inputs), int(circuit.attrs["layers"]) + 1
    nodes = {("in", key): _embedding(key, known[key]["label"], at) for at, key in enumerate(inputs)}
    nodes |= {("", key): _feature(key, known[key], last) for key in features}
    nodes |= {("out", key): _logit(key, known[key]["label"], deepest, last) for key in logits}
    at = {place: node["node_id"] for place, node in nodes.items()}
    links = [
        {
            "source": at["in" if edge["type"] == "ACTIVATES" else "", edge["source"]],
            "target": at["out" if edge["type"] == "PROMOTES" else "", edge["target"]],
            "weight": float(str(weight)),  # the digits that a float32 has
        }
        for edge, weight in zip(edges, circuit.edges["weight"].to_numpy(), strict=True)
    ]
    content = {
        "metadata": _metadata(circuit, set_key, [known[key]["label"] for key in inputs]),
        "qParams": {
            "pinnedIds": [at[side, key] for key in circuit.roots for side in ("in", "", "out") if (side, key) in at],
            "supernodes": [],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": list(nodes.values()),
        "links": links,
    }
    return json.dumps(content, ensure_ascii=True, indent=1)


def _metadata(circuit: Circuit, set_key: str, texts: list[str]) -> dict[str, Any]:
    model, _, source = str(circuit.attrs.get("neuronpedia") or "").rpartition("/")
    name = re.sub(r"[^a-z0-9]+", "-", f"{set_key} {' '.join(circuit.roots[:3])}".lower()).strip("-")
    metadata: dict[str, Any] = {
        "slug": f"weights-{name}"[:100].strip("-"),
        "scan": model or set_key.partition("/")[0],
        # A page hides what occurs at most of a prompt's positions, so there are two at least.
        "prompt_tokens": [*texts, _PLACE] if texts else ["(no token)", _PLACE],
        "prompt": "".join(texts),
        "info": {
            "description": f"{_DESCRIPTION} Set {set_key}, run {circuit.attrs.get('run')}.",
            "creator_name": "feature-atlas",
            "generator": {"name": "feature-atlas", "version": _version()},
        },
    }
    if source:
        metadata["feature_details"] = {"neuronpedia_source_set": source}
    return metadata


def _feature(key: str, row: dict[Any, Any], at: int) -> dict[str, Any]:
    layer, idx = int(row["layer"]), int(key.rpartition("/")[2])
    return {
        "node_id": f"{layer}_{idx}_{at}",
        # Cantor's pairing of layer and index, by which pages look a feature up.
        "feature": (layer + idx) * (layer + idx + 1) // 2 + idx,
        "layer": str(layer),
        "ctx_idx": at,
        "feature_type": "cross layer transcoder",
        "jsNodeId": f"{layer}_{idx}-0",
        "clerp": str(row["label"]),
    }


def _embedding(key: str, text: str, at: int) -> dict[str, Any]:
    token = key.rpartition("/")[2]
    return {
        "node_id": f"E_{token}_{at}",
        "feature": at,
        "layer": "E",
        "ctx_idx": at,
        "feature_type": "embedding",
        "jsNodeId": f"E_{token}-{at}",
        "clerp": f'Emb: "{text}"',
    }


def _logit(key: str, text: str, layer: int, at: int) -> dict[str, Any]:
    token = key.rpartition("/")[2]
    return {
        "node_id": f"{layer}_{token}_{at}",
        "feature": int(token),
        "layer": str(layer),
        "ctx_idx": at,
        "feature_type": "logit",
        "jsNodeId": f"L_{token}-{at}",
        # Pages read a probability out of this text; nan is what they make of none.
        "clerp": f'Output "{text}" (p=nan)',
    }


def _touched(key: str, edges: list[dict[Any, Any]]) -> bool:
    return any(key in (edge["source"], edge["target"]) for edge in edges)


def _version() -> str:
    try:
        return version("feature-atlas")
    except PackageNotFoundError:
        return "unknown"
