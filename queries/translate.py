"""The same circuit in another set: which features stand for its own there, and which of its connections are there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadKey, BadSetting
from queries.answers import Envelope, choice, rows
from queries.catalog import records
from queries.circuits import Circuit
from queries.held import Held, envelope, held, one_set
from queries.profiles import BLOCKS

if TYPE_CHECKING:
    from atlas.stores import Store

NODES = {
    "key": "text",
    "type": "text",
    "layer": "int",
    "label": "text",
    "key_there": "text",
    "layer_there": "int",
    "label_there": "text",
    "score": "double",
    "null_p": "double",
}
EDGES = {
    "source": "text",
    "target": "text",
    "type": "text",
    "weight": "float",
    "z": "float",
    "source_there": "text",
    "target_there": "text",
    "there": "text",
    "weight_there": "float",
    "z_there": "float",
}
_LOOKED_UP = {"FEEDS": "edge", "ACTIVATES": "token_edge", "PROMOTES": "logit_edge"}


@dataclass(frozen=True)
class Translation:
    """A circuit beside its image in another set. ``attrs`` is the envelope of both frames."""

    nodes: pd.DataFrame
    """``key, type, layer, label``, and of what stands for it ``key_there, layer_there, label_there, score, null_p``;
    empty and missing where nothing does"""
    edges: pd.DataFrame
    """``source, target, type, weight, z, source_there, target_there, there, weight_there, z_there``; ``there`` is
    ``kept``, ``not kept`` (both ends are there, and the connection is not among those kept), ``no match``, or
    ``not looked up`` (through a head, or from token to token)"""
    attrs: Envelope = field(default_factory=dict)


def translate(graph: Store, circuit: Circuit, to: str, *, by: str | None = None) -> Translation:
    """A circuit looked up in another set, of the same model or of another.

    A feature becomes its match (:func:`queries.compare`, kept with :func:`queries.keep`); of matches by several methods
    the one of the smallest ``null_p`` counts, then the best score, unless ``by`` names the method. A token is itself
    where the vocabulary is shared, else the token of the same text where only one there says it.
    ``attrs`` count ``nodes_there`` and ``edges_there``, and name the comparisons (``compared_by``).
    Raises BadKey, Ambiguous; BadSetting where no matches of the two sets are kept.
    """
    if by is not None:
        choice("by", by, tuple(BLOCKS))
    sets = held(graph)
    there = one_set(sets, to, None, "look it up in")
    own = [one for one in sets if one.key in {_set_of(key) for key, kind in _ends(circuit) if kind == "Feature"}]
    if any(one.key == there.key for one in own):
        raise BadKey(f"the circuit is of {there.key} itself; name another set")
    found = {key: _stand_in(graph, key, kind, own, there, by) for key, kind in _ends(circuit)}
    features = [key for key, kind in _ends(circuit) if kind == "Feature"]
    if features and not any(found[key] for key in features):
        _require_matches(graph, own, there, by)
    nodes = [
        (*row, *(found[row[0]] or ("", None, "", math.nan, math.nan))[:5])
        for row in circuit.nodes[list(NODES)[:4]].itertuples(index=False, name=None)
    ]
    edges = [_edge(graph, row, found) for row in circuit.edges.to_dict("records")]
    attrs = envelope([*own, there], "z", False, math.inf)
    attrs |= {
        "to": there.key,
        "nodes_there": sum(1 for one in found.values() if one),
        "edges_there": sum(1 for edge in edges if edge[7] == "kept"),
        "compared_by": sorted({one[5] for one in found.values() if one and one[5]}),
    }
    attrs["note"] = (
        f"{attrs['nodes_there']:,} of {len(nodes):,} nodes have a match in {there.key}, "
        f"{attrs['edges_there']:,} of {len(edges):,} connections are kept there"
    )
    made = Translation(rows(nodes, NODES), rows(edges, EDGES), attrs)
    made.nodes.attrs, made.edges.attrs = {**attrs}, {**attrs}
    return made


Standing = tuple[str, int | None, str, float, float, str]
"""key, layer, label, score, null_p and run of what stands for a node"""


def _ends(circuit: Circuit) -> list[tuple[str, str]]:
    return list(zip(circuit.nodes["key"], circuit.nodes["type"], strict=True))


def _set_of(key: str) -> str:
    owner, place, _ = key.rsplit("/", 2)
    return f"{owner}/{place.partition('-')[2]}"


def _stand_in(graph: Store, key: str, kind: str, own: list[Held], there: Held, by: str | None) -> Standing | None:
    if kind == "Feature":
        known = [row for row in records(graph, "matches", key=key, set=there.key) if by in (None, row["method"])]
        if not known:
            return None
        best = min(known, key=lambda row: (row["null_p"], -row["score"], row["key"]))
        return best["key"], int(best["layer"]), best["label"], best["score"], best["null_p"], best["run"]
    if kind != "Token":  # a head belongs to its model
        return (key, None, key, 1.0, 0.0, "") if key.startswith(f"{there.model}/") else None
    (token,) = records(graph, "token", key=key)
    if token["vocabulary"] == there.vocabulary:
        return key, None, token["text"], 1.0, 0.0, ""
    same = [
        row for row in records(graph, "tokens_by_text", text=token["text"]) if row["vocabulary"] == there.vocabulary
    ]
    return (same[0]["key"], None, same[0]["text"], 1.0, 0.0, "") if len(same) == 1 else None


def _edge(graph: Store, row: dict[str, Any], found: dict[str, Standing | None]) -> tuple[Any, ...]:
    here = (row["source"], row["target"], row["type"], row["weight"], row["z"])
    source, target = found[row["source"]], found[row["target"]]
    if source is None or target is None or row["type"] not in _LOOKED_UP:
        state = "no match" if source is None or target is None else "not looked up"
        return (*here, source[0] if source else "", target[0] if target else "", state, math.nan, math.nan)
    kept = records(graph, _LOOKED_UP[row["type"]], source=source[0], target=target[0])
    numbers = ("kept", kept[0]["weight"], kept[0]["z"]) if kept else ("not kept", math.nan, math.nan)
    return (*here, source[0], target[0], *numbers)


def _require_matches(graph: Store, own: list[Held], there: Held, by: str | None) -> None:
    for one in own:
        a, b = sorted((one.key, there.key))
        found = records(graph, "matched_sets", a=a, b=b)
        if any(by in (None, row["method"]) for row in found):
            return
    method = f" by {by}" if by else ""
    first = own[0].key
    raise BadSetting(
        f"no matches{method} of {first} and {there.key} are kept; run `atlas compare {first} {there.key} --keep` first"
    )
