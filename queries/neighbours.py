"""What a node reads and what it writes: its direct neighbours, strongest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadSetting
from queries import cuts, through
from queries.answers import EVIDENCE, EVIDENCE_VIA, NEIGHBOURS, choice, count, from_records, smallest
from queries.catalog import records
from queries.held import Held, envelope, held, one_or_list, one_set
from queries.resolve import Key, Node, resolve_all

if TYPE_CHECKING:
    from atlas.stores import Store

OF = ("all", "features", "tokens", "heads")
BY = ("z", "weight", "share", "drive", "twera", "coactivation")
SIGNS = {"+": 1, "-": -1, "both": 0}
LAST_LAYER = 999_999

_QUERIES = {
    ("Feature", "inputs"): {"features": "inputs", "tokens": "input_tokens"},
    ("Feature", "outputs"): {"features": "outputs", "tokens": "output_tokens"},
    ("Token", "inputs"): {"features": "promoting_features"},
    ("Token", "outputs"): {"features": "token_features"},
}


@dataclass(frozen=True)
class Filter:
    """Which neighbours are asked for, how many, and in which order."""

    of: str = "all"
    k: int = 20
    by: str = "z"
    sign: int = 0
    min: float = 0.0
    first: int = 0
    last: int = LAST_LAYER
    live: bool = False

    @property
    def evidence(self) -> bool:
        """Whether the question is about what was seen on a text."""
        return self.live or self.by in cuts.EVIDENCE

    @property
    def columns(self) -> dict[str, str]:
        own = EVIDENCE if self.head is None else EVIDENCE_VIA
        return NEIGHBOURS | own if self.evidence else NEIGHBOURS

    @property
    def head(self) -> tuple[int, int] | None:
        """Which head is asked about: (-1, 0) for any; None where connections that pass by none are."""
        return (-1, 0) if self.of == through.HEADS else through.one_head(self.of)

    @property
    def narrow(self) -> bool:
        """Whether some of what is kept is not asked for."""
        return self.evidence or self.min > 0 or self.sign != 0 or not self.any_layer

    @property
    def any_layer(self) -> bool:
        return (self.first, self.last) == (0, LAST_LAYER)


def inputs(
    graph: Store,
    keys: Key | Iterable[Key],
    *,
    of: str = "all",
    k: int = 20,
    by: str = "z",
    sign: str = "both",
    min: float | None = None,
    layer: str | int | None = None,
    live: bool = False,
    set: str | None = None,
) -> pd.DataFrame:
    """What a node reads, the strongest first: tokens and earlier features; for a token, the features that promote it.

    ``keys``: one key or many. With many, the frame begins with a column ``of``, the node that each row belongs to, and
    holds up to ``k`` rows for each.
    ``of``: ``all`` (features and tokens), ``features``, ``tokens``, or what passes through attention: ``heads``, or one
    head such as ``L5H3``, its name in the column ``via``. Of a token, ``tokens`` are those whose logit it moves (that
    move its logit) past everything else. Heads are apart from all others, since their weights are at attention 1 and
    no bound is known on what was cut. ``by``: the order, abs(z), abs(weight) or share; where a text was
    observed also abs(drive), abs(TWERA) or coactivation, how often both are active. ``live``: only what is active
    together on that text (of logits: those of features that fire). Either adds the columns ``n_both, drive, twera``,
    and ``attrs["observation"]`` names the text; through heads ``attended`` stands for ``n_both``: attention to firings
    of the source, summed where the target is active, and drive is at attention 1. ``sign``: ``+`` or ``-``
    for positive or negative weights only. ``min``: the smallest size, in the unit of ``by``. ``layer``: only features
    of these layers, ``"2"`` or ``"0-3"`` (and so no tokens). ``set``: where short keys belong; for a token, only this
    set's features.

    Columns ``key, type, layer, label, via, weight, z, share``. Units: ``weight`` is pre-activation of the reader per
    unit activation of a source feature (per unit of a token's embedding; for a logit, centred logit); ``z`` deviations
    of the row, see :mod:`atlas.schema`; ``share`` a part of 1.
    ``attrs["complete"]`` says that nothing the build cut away belongs among the rows; ``attrs["bound"]`` is the largest
    size that may have been (None: unknown). Rows above it are certain to be the strongest.
    Raises BadKey, Ambiguous, BadSetting (:mod:`atlas.errors`).
    """
    return _neighbours(graph, "inputs", keys, _filter(of, k, by, sign, min, layer, live), set)


def outputs(
    graph: Store,
    keys: Key | Iterable[Key],
    *,
    of: str = "all",
    k: int = 20,
    by: str = "z",
    sign: str = "both",
    min: float | None = None,
    layer: str | int | None = None,
    live: bool = False,
    set: str | None = None,
) -> pd.DataFrame:
    """What a node writes to, the strongest first: later features and logits; for a token, the features it excites.

    Arguments, columns, ``attrs`` and errors as for :func:`inputs`. ``weight`` is pre-activation of the reading feature,
    or centred logit of the token, per unit activation of the node (per unit of a token's embedding).
    """
    return _neighbours(graph, "outputs", keys, _filter(of, k, by, sign, min, layer, live), set)


def around(
    graph: Store, node: Node, direction: str, asked: Filter, sets: Sequence[Held]
) -> tuple[list[dict[str, Any]], float]:
    """The neighbours of one node (rows with ``asked.columns``) and the bound on what was cut (:mod:`queries.cuts`).

    ``sets``: the node's own set, or the sets whose features a token may have.
    """
    order: dict[str, Any] = {"by": asked.by, "sign": asked.sign, "min": asked.min, "limit": asked.k}
    of_set = sets[0].key if len(sets) == 1 else ""
    if asked.head is not None:
        layers = None if asked.any_layer else (asked.first, asked.last)
        order["live"] = int(asked.live)
        found = through.around(graph, node.key, node.type, direction, asked.head, set=of_set, layers=layers, **order)
        return _strongest(found, asked), cuts.UNKNOWN if found or asked.narrow else 0.0
    if node.type == "Token" and asked.of == "tokens" and asked.any_layer:
        fixed = {"type": "Token", "layer": None, "via": ""}
        found = [row | fixed for row in records(graph, through.TOKENS[direction], key=node.key, set=of_set, **order)]
        return _strongest(found, asked), cuts.UNKNOWN if found else 0.0
    kinds = {
        kind: name
        for kind, name in _QUERIES[node.type, direction].items()
        if asked.of in ("all", kind) and (kind == "features" or asked.any_layer)
    }
    found = []
    bounds = [0.0]
    for kind, name in kinds.items():
        parameters = {**order, "live": int(asked.live)}
        if kind == "features":
            parameters |= {"first": asked.first, "last": asked.last}
        if node.type == "Token":
            parameters["set"] = of_set
        fixed = {"type": "Feature", "via": ""} if kind == "features" else {"type": "Token", "layer": None, "via": ""}
        found += [row | fixed for row in records(graph, name, key=node.key, **parameters)]
        bounds.append(_bound(graph, node, direction, kind, name, asked, sets))
    return _strongest(found, asked), max(bounds)


def _strongest(found: list[dict[str, Any]], asked: Filter) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: (-size(row, asked.by), row["key"], row["via"]))[: asked.k]


def size(row: Mapping[str, Any], by: str) -> float:
    """What rows are ordered by: the absolute z, weight, share, drive or TWERA, or how often both are active."""
    return abs(row[column(by, row.get("via", ""))])


def column(by: str, via: str = "") -> str:
    """The column of the number that an order goes by; ``via``: the head that a connection passes through."""
    return by if by != "coactivation" else "attended" if via else "n_both"


def _neighbours(
    graph: Store, direction: str, keys: Key | Iterable[Key], asked: Filter, set: str | None
) -> pd.DataFrame:
    nodes, many = resolve_all(graph, keys, set=set)
    sets = held(graph)
    token_sets = sets
    if set is not None and any(node.type == "Token" for node in nodes):
        token_sets = [one_set(sets, set, None, "the token's features are of")]
    every: list[dict[str, Any]] = []
    notes: list[str] = []
    bounds: list[float] = []
    used: list[Held] = []
    whole = True
    for node in nodes:
        node_sets = node.sets(token_sets if node.type == "Token" else sets)
        for one in node_sets if asked.evidence else ():
            cuts.require_observed(one.key, one.observation, heads=asked.head is not None)
        found, bound = around(graph, node, direction, asked, node_sets)
        whole &= cuts.complete([size(row, asked.by) for row in found], asked.k, asked.min, bound)
        notes += _notes(node, direction, asked, len(found), bound)
        bounds.append(bound)
        used += [one for one in node_sets if one not in used]
        every += [{"of": node.key, **row} for row in found]
    frame = from_records(every, {"of": "text", **asked.columns} if many else asked.columns)
    frame.attrs = envelope(used, asked.by, whole, max(bounds))
    if asked.evidence:
        frame.attrs["observation"] = one_or_list([one.observation for one in used])
    if not whole and not notes:
        notes = [_incomplete(direction, asked.by, max(bounds))]
    if whole and asked.by in cuts.EVIDENCE and not frame.empty:
        notes = [*notes, cuts.AMONG_LIVE]
    if notes:
        frame.attrs["note"] = "; ".join(dict.fromkeys(notes))
    return frame


def _bound(
    graph: Store, node: Node, direction: str, kind: str, name: str, asked: Filter, sets: Sequence[Held]
) -> float:
    side = "in" if direction == "inputs" else "out"
    if asked.by in cuts.EVIDENCE:
        if (
            node.type == "Feature"
            and _bound(graph, node, direction, kind, name, replace(asked, by="weight"), sets) <= 0
        ):
            return 0.0  # nothing was cut, so there is nothing that evidence could rank higher
        if (node.type, side, kind) != ("Feature", "in", "features") or asked.by == "coactivation":
            return cuts.UNKNOWN
        if records(graph, "feature_evidence", key=node.key)[0]["live"] != 1:
            return cuts.UNKNOWN
        found = sets[0].observation.get("strongest", 1)
        best = [size(row, asked.by) for row in records(graph, name, key=node.key, by=asked.by, limit=found)]
        return cuts.by_evidence(best, found)
    if node.type == "Token":
        bounds = [0.0]
        for one in sets:
            kept = one.cut.get("features_per_token", 0)
            limit = kept if isinstance(kept, int) and 0 < kept < 10**6 else 1
            strongest = records(graph, name, key=node.key, set=one.key, by="weight", limit=limit)
            bounds.append(cuts.features_of_token(strongest, asked.by, direction == "inputs", one.cut))
        return max(bounds)
    own = sets[0]
    if kind == "tokens":
        return cuts.tokens(node.properties, side, asked.by, asked.sign, own.cut)
    layers = range(own.layers) if own.layers == own.model_layers else _layers(graph, own.key)
    assert node.layer is not None
    positions = [
        at
        for at, layer in enumerate(layers)
        if asked.first <= layer <= asked.last and (layer < node.layer if side == "in" else layer > node.layer)
    ]
    return cuts.features(node.properties, side, asked.by, positions, own.cut)


def _layers(graph: Store, set_key: str) -> list[int]:
    return [int(row["layer"]) for row in records(graph, "layers", set=set_key)]


def _notes(node: Node, direction: str, asked: Filter, found: int, bound: float) -> list[str]:
    """Why there is nothing, where there is nothing."""
    if found:
        return []
    noun = direction.removesuffix("s")
    if asked.head is not None and asked.evidence and asked.min <= 0:
        return [f"no {noun} that is kept through attention heads has that on the observed text"]
    if asked.head is not None and asked.min <= 0:
        return ["nothing is kept through attention heads here; `atlas ingest --heads` computes it"]
    if node.type == "Token" and asked.of == "tokens" and asked.min <= 0:
        return [
            f"a token's {direction} are features; its direct path to other tokens is not in this atlas, "
            "`atlas ingest --heads` computes it"
        ]
    if asked.of == "tokens" and not asked.any_layer:
        return ["tokens have no layer: leave out layer, or ask for features"]
    if asked.min > 0:
        return [f"no {noun} passes min {asked.min:g}" + (f"; {_cut(asked.by, bound)}" if bound >= asked.min else "")]
    if bound <= 0:
        return [f"{node.key} has no {noun} of this kind"]
    return [f"no {noun} of this kind is kept; {_cut(asked.by, bound)}"]


def _incomplete(direction: str, by: str, bound: float) -> str:
    if bound == cuts.UNKNOWN:
        return f"the strongest {direction} of those kept; by {by} the cuts do not say whether a stronger one was cut"
    return f"complete only above {bound:.4g}; {_cut(by, bound)}"


def _cut(by: str, bound: float) -> str:
    name = by if by == "share" else f"abs({by})"
    return f"connections of {name} up to {bound:.4g} may have been cut" if bound < cuts.UNKNOWN else "some were cut"


def _filter(of: str, k: int, by: str, sign: str, least: float | None, layer: str | int | None, live: bool) -> Filter:
    first, last = layer_range(layer)
    if through.one_head(of) is None:
        choice("of", of, OF)
    return Filter(
        of,
        count("k", k),
        choice("by", by, BY),
        SIGNS[choice("sign", sign, tuple(SIGNS))],
        smallest("min", least),
        first,
        last,
        live,
    )


def layer_range(layer: str | int | None) -> tuple[int, int]:
    if layer is None:
        return 0, LAST_LAYER
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", str(layer), re.ASCII)
    if match is None:
        raise BadSetting(f"layer is {ascii(layer)[:40]}; write one layer such as 2, or a range such as 0-3")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise BadSetting(f"layer is {layer}; the first layer of a range comes first: {last}-{first}")
    return first, last
