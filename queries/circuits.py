"""The bounded subgraph around some nodes, or between them and another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadSetting
from queries import cuts, through
from queries.answers import Envelope, choice, count, rows, smallest
from queries.held import Held, envelope, held, one_or_list, one_set
from queries.neighbours import BY, Filter, around, column, size
from queries.paths import Asked, find
from queries.resolve import Key, Node, resolve, resolve_all

if TYPE_CHECKING:
    from atlas.stores import Store

NODES = {"key": "text", "type": "text", "layer": "int", "label": "text", "depth": "int", "score": "double"}
EDGES = {
    "source": "text",
    "target": "text",
    "type": "text",
    "via": "text",
    "weight": "float",
    "z": "float",
    "share": "float",
}
LARGEST = 2_000
"""Edges a circuit may have; more is refused, since nobody can read it and every step asks the store."""


@dataclass(frozen=True)
class Circuit:
    """A subgraph. ``attrs`` is the envelope of both frames."""

    nodes: pd.DataFrame
    """``key, type, layer, label, depth`` (steps from the keys), ``score`` (see :func:`circuit`)"""
    edges: pd.DataFrame
    """``source, target, type, via, weight, z, share``, and what was asked by, where it was seen on a text"""
    roots: tuple[str, ...] = ()
    """the keys it was asked for"""
    attrs: Envelope = field(default_factory=dict)


@dataclass
class _Found:
    """What is known of a node while a circuit grows."""

    node: Node | None
    type: str
    layer: int | None
    label: str
    depth: int
    score: float


class _Growing:
    def __init__(self, roots: list[Node]) -> None:
        self.nodes = {n.key: _Found(n, n.type, n.layer, n.label, 0, 1.0) for n in roots}
        self.edges: dict[tuple[str, str, str, str], tuple[Any, ...]] = {}
        self.whole = True
        self.bound = 0.0


def circuit(
    graph: Store,
    keys: Key | Iterable[Key],
    *,
    to: Key | None = None,
    depth: int = 2,
    width: int = 5,
    direction: str = "in",
    by: str = "z",
    live: bool = False,
    min: float | None = None,
    via: str | None = None,
    set: str | None = None,
) -> Circuit:
    """The strongest connections around one node or several: what leads to them, what they lead to, or both.

    Grows step by step, ``depth`` steps. A step takes every feature that the step before reached and keeps ``width``
    edges for each of them *on average*: the best of all their edges by the product of abs(z) along the way from the
    keys, so that a strong branch gets more of them than a weak one. ``min``: only edges of this abs(z) or more.
    Tokens are ends, nothing grows through them. A node that is reached twice is one node, with its fewest steps and its
    best product.
    ``by``: what is multiplied instead of abs(z): weight or share, or, where a text was observed, drive, TWERA or
    coactivation, how often both ends are active. ``live``: only edges whose ends are active together on that text.
    ``min`` is in the unit of ``by``. By these three, edges have a column of that name; ``attrs["observation"]`` names
    the text.
    ``via``: ``heads`` lets edges pass through attention heads too, or one head such as ``L5H3``; they are at attention
    1, and the column ``via`` names the head. By coactivation they count attention to firings of the source; with
    ``to``, they go by z, weight or share alone.
    ``direction``: ``in`` (what leads to the keys), ``out``, or ``both`` (inwards and outwards, never zigzag).
    ``set``: where short keys belong; what a token excites is followed into this set only.
    ``to``: instead, the union of the ``depth * width`` best paths (:func:`queries.paths`, by product) of at most
    ``depth`` steps from the keys to this node.

    ``nodes["score"]`` is the product of abs(z) along the best way found (1 for the keys); with ``to``, the best path's
    abs(product) of weights. ``attrs["complete"]`` says that no edge that was cut belongs among those kept at any step.
    Raises BadKey, Ambiguous, BadSetting; a request for more than 2,000 edges is refused with its size.
    """
    count("depth", depth)
    count("width", width)
    choice("direction", direction, ("in", "out", "both"))
    asked, heads = Filter(by=choice("by", by, BY), live=live), through.wanted(via)
    least = smallest("min", min)
    roots, _ = resolve_all(graph, keys, set=set)
    sides = {"in": ("inputs",), "out": ("outputs",), "both": ("inputs", "outputs")}[direction]
    if to is not None:
        return _between(graph, roots, resolve(graph, to, set=set), depth, width, least, asked, via)
    _refuse_explosion(len(roots) * len(sides), depth, width)
    sets = _scope(held(graph), roots, set)
    growing = _Growing(roots)
    used = [one for one in sets if any(one in node.sets(sets) for node in roots)]
    for one in used if asked.evidence else ():
        cuts.require_observed(one.key, one.observation, heads=via is not None)
    for side in sides:
        _grow(
            graph, growing, [n.key for n in roots], side, depth, width, replace(asked, min=least), sets, heads and via
        )
    attrs = envelope(used, by, growing.whole, growing.bound)
    if asked.evidence:
        attrs["observation"] = one_or_list([one.observation for one in used])
    score = f"product of {by if by in ('share', 'coactivation') else f'abs({by})'}"
    attrs |= {"score": score, "depth": depth, "width": width, "direction": direction, **_home(used)}
    if not growing.edges:
        attrs["note"] = f"no connection passes min {least:g}" if least else "nothing of this direction is kept"
    elif not growing.whole:
        attrs["note"] = "the best of what is kept; weaker connections were cut and might belong here"
    return _finished(growing, roots, attrs)


def _scope(sets: list[Held], roots: list[Node], set: str | None) -> list[Held]:
    """All sets; where one was named and a key is a token, that one and those of the keys that are features."""
    if set is None or all(node.type == "Feature" for node in roots):
        return sets
    chosen = one_set(sets, set, None, "the token's features are of")
    own = {chosen.key, *(node.set for node in roots if node.type == "Feature")}
    return [one for one in sets if one.key in own]


def _grow(
    graph: Store,
    growing: _Growing,
    roots: list[str],
    side: str,
    depth: int,
    width: int,
    asked: Filter,
    sets: list[Held],
    via: str | None,
) -> None:
    frontier, seen = list(roots), {*roots}
    for step in range(1, depth + 1):
        budget = width * len(frontier)
        candidates: list[tuple[float, str, str, Any]] = []
        bound = 0.0
        for key in frontier:
            at = growing.nodes[key]
            node = at.node or resolve(graph, key)
            found, left_out = around(graph, node, side, replace(asked, k=budget), node.sets(sets))
            if via:
                more, unknown = around(graph, node, side, replace(asked, k=budget, of=via), node.sets(sets))
                found, left_out = found + more, max(left_out, unknown)
            bound = max(bound, at.score * left_out if left_out >= asked.min else 0.0)
            candidates += [(at.score * size(row, asked.by), key, row["key"], row) for row in found]
        candidates.sort(key=lambda candidate: (-candidate[0], candidate[1], candidate[2], candidate[3]["via"]))
        kept = candidates[:budget]
        growing.bound = max(growing.bound, bound)
        growing.whole &= cuts.complete([score for score, *_ in kept], budget, 0.0, bound)
        reached = {}
        for score, key, other, row in kept:
            ends = (other, key) if side == "inputs" else (key, other)
            kind = _edge_type(growing.nodes[key].type, row["type"], side) + ("_VIA" if row["via"] else "")
            evidence = (row[column(asked.by, row["via"])],) if asked.by in cuts.EVIDENCE else ()
            growing.edges[*ends, kind, row["via"]] = (row["weight"], row["z"], row["share"], *evidence)
            known = growing.nodes.get(other)
            if known is None:
                growing.nodes[other] = _Found(None, row["type"], row["layer"], row["label"], step, score)
            else:
                known.score, known.depth = max(known.score, score), min(known.depth, step)
            if row["type"] == "Feature" and other not in seen:
                reached[other] = None
        seen |= reached.keys()
        frontier = list(reached)


def _edge_type(at: str, other: str, side: str) -> str:
    source, target = (other, at) if side == "inputs" else (at, other)
    return {("Token", "Feature"): "ACTIVATES", ("Feature", "Token"): "PROMOTES"}.get((source, target), "FEEDS")


def _refuse_explosion(starts: int, depth: int, width: int) -> None:
    size, step = 0, starts
    for _ in range(depth):
        step *= width
        size += step
        if size > 10**15:
            break
    if size > LARGEST:
        shown = f"up to {size:,} edges" if size <= 10**15 else "room for more than a quadrillion edges"
        raise BadSetting(
            f"a circuit of depth {depth:,} and width {width:,} from here has {shown}, and {LARGEST:,} is the limit; "
            "take a smaller depth or width, or name an end with to"
        )


def _between(
    graph: Store,
    roots: list[Node],
    end: Node,
    depth: int,
    width: int,
    least: float,
    asked: Filter,
    via: str | None,
) -> Circuit:
    """The union of the best paths from each root to the end."""
    if depth * width * depth * len(roots) > LARGEST:
        times = f"{len(roots):,} times " if len(roots) > 1 else ""
        raise BadSetting(
            f"{times}{depth * width:,} paths of {depth:,} steps are up to "
            f"{depth * width * depth * len(roots):,} edges, and {LARGEST:,} is the limit; take a smaller depth or width"
        )
    growing = _Growing(roots)
    notes: list[str] = []
    used: list[Held] = []
    by = None if asked.by == "z" else asked.by
    conditions = Asked(depth * width, by=by, live=asked.live, max_hops=depth, least=least, via=via)
    for root in roots:
        answer = find(graph, root.key, end.key, conditions)
        used += answer.sets
        notes += [answer.note] if answer.note else []
        for path in answer.paths:
            for step in path.steps:
                kind, _, head = step.type.partition(":")
                signed = step.size if by == "coactivation" else math.copysign(step.size, step.weight)
                evidence = (signed,) if by in cuts.EVIDENCE else ()
                growing.edges[step.source, step.target, kind, head] = (step.weight, step.z, step.share, *evidence)
            for place, key in enumerate(path.keys):
                node = resolve(graph, key) if key not in growing.nodes else None
                known = (
                    growing.nodes[key] if node is None else _Found(node, node.type, node.layer, node.label, place, 0.0)
                )
                growing.nodes[key] = known
                known.depth, known.score = min(known.depth, place), max(known.score, abs(path.score))
    used = list({one.key: one for one in used}.values())
    attrs = envelope(used, by or "weight", False, cuts.UNKNOWN)
    if asked.evidence:
        attrs["observation"] = one_or_list([one.observation for one in used])
    attrs |= {"score": "abs(product) of the best path", "depth": depth, "width": width, "direction": "between"}
    attrs |= _home(used)
    attrs["note"] = "; ".join(dict.fromkeys(notes)) or "the best paths over the connections that are kept"
    return _finished(growing, roots, attrs)


def _home(sets: list[Held]) -> Envelope:
    """Layers of the model and the set's name on Neuronpedia, where all features are of one set."""
    keys = {one.key for one in sets}
    return {"layers": sets[0].model_layers, "neuronpedia": sets[0].neuronpedia_id or None} if len(keys) == 1 else {}


def _finished(growing: _Growing, roots: list[Node], attrs: Envelope) -> Circuit:
    nodes = sorted(
        ((key, n.type, n.layer, n.label, n.depth, n.score) for key, n in growing.nodes.items()),
        key=lambda row: (row[4], -row[5], row[0]),
    )
    edges = [(*ends, *numbers) for ends, numbers in growing.edges.items()]
    evidence = {attrs["weight"]: "float"} if attrs["weight"] in cuts.EVIDENCE else {}
    circuit = Circuit(rows(nodes, NODES), rows(edges, EDGES | evidence), tuple(node.key for node in roots), attrs)
    circuit.nodes.attrs = {**attrs}
    circuit.edges.attrs = {**attrs}
    return circuit
