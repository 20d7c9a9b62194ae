"""What fires: examples of a feature, and the features of a sentence.

Examples live beside the staged build that a set was loaded from (:mod:`atlas.observations`), so these questions need it
on this machine; everything else about evidence is in the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas import builds, observations
from atlas.errors import BadBuild, BadKey
from atlas.observations import Observation
from atlas.staging import Build
from queries.answers import choice, count, empty, rows
from queries.catalog import records
from queries.held import Held, held, one_set
from queries.labels import called
from queries.resolve import Key, Node, resolve

if TYPE_CHECKING:
    from atlas.stores import Store
    from atlas.stores.adjacency import Adjacency

KINDS = ("strongest", "sample")
BEFORE = 24
"""positions before the firing one whose activations are stored"""

EXAMPLES = {
    "rank": "int",
    "value": "float",
    "text": "text",
    "window": "int",
    "position": "int",
    "tokens": "texts",
    "activations": "floats",
}
FIRED = {
    "position": "int",
    "token": "text",
    "key": "text",
    "layer": "int",
    "label": "text",
    "value": "float",
}
FIRED_EDGES = {
    "position": "int",
    "token": "text",
    "source": "text",
    "target": "text",
    "source_label": "text",
    "target_label": "text",
    "weight": "float",
    "contribution": "float",
}


def run_of(graph: Store, set: str | None = None) -> str:
    """The run of one set: what its staged build is called by. Raises BadKey, Ambiguous."""
    return one_set(held(graph), set, None, "the sentence is for").run


def examples(
    graph: Store,
    key: Key,
    *,
    set: str | None = None,
    k: int = 8,
    kind: str = "strongest",
    observation: str | None = None,
) -> pd.DataFrame:
    """Contexts in which a feature fires, strongest first.

    ``kind``: ``strongest``, the largest activations, one a window; or ``sample``, drawn evenly from all firings, so the
    weak ones are there too. ``observation``: another text than the default one.
    Columns: ``rank``; ``value``, the activation; ``text``, the context with the firing token in brackets; ``window``
    and ``position`` in the observed text; ``tokens`` and the feature's ``activations`` on them (0 where it is silent).
    ``attrs`` name the text. Raises BadKey for a token and BadBuild where nothing was observed, or the build is gone.
    """
    choice("kind", kind, KINDS)
    count("k", k)
    node = resolve(graph, key, set=set)
    if node.type != "Feature":
        raise BadKey(f"{node.key} is a token; only features fire (`atlas outputs {node.key}` lists what it excites)")
    build = builds.find(run_of(graph, node.set))
    seen = observations.find(build, observation)
    found = seen.examples(_row(build, int(node.layer or 0), int(node.properties["idx"]))).to_pylist()
    wanted = observations.STRONGEST if kind == "strongest" else observations.SAMPLE
    texts = build.nodes("Token")["text"].to_pylist()
    chosen = sorted((example for example in found if example["kind"] == wanted), key=lambda example: example["rank"])
    frame = rows([_example(example, texts) for example in chosen[:k]], EXAMPLES)
    frame.attrs = {**_rests_on(build, seen, "activation")}
    if frame.empty:
        frame.attrs["note"] = f"{node.key} fires nowhere in the {seen.positions:,} positions of this text"
    return frame


def summary(graph: Store, node: Node, own: Held) -> dict[str, Any] | None:
    """What a card shows of a feature on the default text; None where no text was observed.

    ``n_fires, density, mean_active, max_active, token_share, inv_sigma, live`` from the graph; where the staged
    observation is on this machine also ``histogram`` (``edges`` and ``counts``), ``top_tokens`` (``text``, and the
    ``share`` of all its activation that falls on that token) and ``examples`` (``value, text``), else empty.
    """
    if not own.observation:
        return None
    rests_on = own.observation
    found = records(graph, "feature_evidence", key=node.key)[0]
    numbers: dict[str, Any] = {name: None if pd.isna(found[name]) else found[name] for name in found if name != "key"}
    said: dict[str, Any] = {
        **numbers,
        "n_fires": int(numbers["n_fires"]),
        "live": numbers["live"] == 1,
        **rests_on,
        "histogram": {},
        "top_tokens": [],
    }
    said["examples"] = []
    try:
        build = builds.find(own.run)
        seen = observations.find(build, rests_on["name"])
    except BadBuild:
        return said
    row = _row(build, int(node.layer or 0), int(node.properties["idx"]))
    feature = seen.features().slice(row, 1).to_pylist()[0]
    said["histogram"] = {"edges": feature["bin_edges"], "counts": feature["bin_counts"]}
    texts = build.nodes("Token")["text"]
    said["top_tokens"] = [
        {"text": texts[token].as_py(), "share": share}
        for token, share in zip(feature["top_tokens"], feature["top_token_shares"], strict=True)
    ]
    shown = examples(graph, node.key, k=3, observation=rests_on["name"])
    said["examples"] = [
        {"value": float(value), "text": _marked(list(tokens), min(int(position), BEFORE), 8)}
        for value, tokens, position in zip(shown["value"], shown["tokens"], shown["position"], strict=True)
    ]
    return said


def fired(graph: Store, fires: pd.DataFrame, *, set: str | None = None, k: int = 5) -> pd.DataFrame:
    """The strongest features of each token of a sentence, by activation.

    ``fires``: what :func:`ingest.evidence.surface.fires` gives. Columns ``position, token, key, layer, label, value``.
    """
    build = builds.find(run_of(graph, set))
    texts, keys = build.nodes("Token")["text"], build.keys("Feature")
    ordered = fires.sort_values(["position", "value", "feature"], ascending=[True, False, True], kind="stable")
    shown = ordered.groupby("position").head(k)
    about = called(graph, (keys[int(row)].as_py() for row in shown["feature"].unique()))
    found = []
    for fire in shown.to_dict("records"):
        key, token = keys[int(fire["feature"])].as_py(), texts[int(fire["token"])].as_py()
        node = about[key]
        found.append((int(fire["position"]), token, key, node.layer, node.label, float(fire["value"])))
    if not found:
        return empty(FIRED, note="no feature fires on this sentence", set=build.set_key, run=build.run)
    frame = rows(found, FIRED)
    frame.attrs = {"weight": "value", "model": build.model, "set": build.set_key, "run": build.run, "complete": True}
    return frame


def fired_edges(graph: Store, fires: pd.DataFrame, *, set: str | None = None, k: int = 5) -> pd.DataFrame:
    """Stored connections between features that fire at one token, strongest first; at most ``k`` a token.

    ``contribution``: the source's activation times the weight, in the unit of weight (the norm's denominator left out).
    Columns ``position, token, source, target, source_label, target_label, weight, contribution``.
    """
    build = builds.find(run_of(graph, set))
    texts, keys = build.nodes("Token")["text"], build.keys("Feature")
    adjacency = graph.adjacency(build.set_key)
    value = np.zeros(build.n_features)
    found: list[tuple[Any, ...]] = []
    for position, group in fires.groupby("position"):
        features = np.sort(group["feature"].to_numpy())
        value[group["feature"]] = group["value"]
        at, target = _into(adjacency, features)
        source = np.asarray(adjacency.source[at])
        both = value[source] > 0
        at, source, target = at[both], source[both], target[both]
        weight = np.asarray(adjacency.weight[at], np.float64)
        effect = weight * value[source]
        token = texts[int(group["token"].iloc[0])].as_py()
        for edge in np.lexsort((target, source, -np.abs(effect)))[:k].tolist():
            ends = keys[int(source[edge])].as_py(), keys[int(target[edge])].as_py()
            found.append((int(str(position)), token, *ends, float(weight[edge]), float(effect[edge])))
        value[features] = 0
    if not found:
        return empty(
            FIRED_EDGES, note="no stored connection joins features of one token", set=build.set_key, run=build.run
        )
    about = called(graph, (end for row in found for end in row[2:4]))
    named = [(*row[:4], about[row[2]].label, about[row[3]].label, *row[4:]) for row in found]
    frame = rows(named, FIRED_EDGES)
    frame.attrs = {"weight": "contribution", "model": build.model, "set": build.set_key, "run": build.run}
    return frame


def _into(adjacency: Adjacency, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all edges into some features, and which feature each leads into."""
    begins, ends = adjacency.offsets[targets], adjacency.offsets[targets + 1]
    places = [np.arange(begin, end) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    return np.concatenate([np.empty(0, np.int64), *places]), np.repeat(targets, ends - begins)


def _example(example: dict[str, Any], texts: list[str]) -> tuple[Any, ...]:
    position, ids = example["position"], example["ids"]
    first = max(0, position - BEFORE)
    last = min(len(ids), position + len(example["around"]) - BEFORE)
    tokens = [texts[token] for token in ids[first:last]]
    offset = first - (position - BEFORE)
    activations = example["around"][offset : offset + len(tokens)]
    text = _marked(tokens, position - first, len(tokens))
    return example["rank"] + 1, example["value"], text, example["window"], position, tokens, activations


def _marked(tokens: list[str], at: int, around: int) -> str:
    """The text of some tokens with the one at ``at`` in brackets and ``around`` others on either side."""
    before, behind = tokens[max(0, at - around) : at], tokens[at + 1 : at + 1 + around]
    return "".join((*before, "[", tokens[at], "]", *behind))


def _row(build: Build, layer: int, idx: int) -> int:
    return sum(build.features_per_layer[: build.layers.index(layer)]) + idx


def _rests_on(build: Build, seen: Observation, weight: str) -> dict[str, Any]:
    return {
        "weight": weight,
        "complete": True,
        "model": build.model,
        "set": build.set_key,
        "run": build.run,
        "observation": {
            "name": seen.name,
            "text": seen.manifest["corpus"]["name"],
            "positions": seen.positions,
            "run": seen.manifest["run"],
        },
    }
