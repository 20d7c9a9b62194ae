"""The exact best paths from one node to another, or to any of several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from atlas.errors import Ambiguous, BadKey, BadSetting
from queries import cuts, routes
from queries.answers import choice, count, rows, smallest
from queries.held import Held, envelope, held, one_or_list, one_set
from queries.labels import called
from queries.neighbours import SIGNS
from queries.pathsearch import SCORES, Path, PathSearch, measured
from queries.resolve import Key, Node, resolve, resolve_all
from queries.routes import Place, Route
from queries.through import refuse_evidence, wanted

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = {
    "rank": "int",
    "score": "double",
    "score_kind": "text",
    "sign": "text",
    "hops": "int",
    "keys": "texts",
    "types": "texts",
    "labels": "texts",
    "weights": "floats",
}
MOST = 10_000
"""Paths that may be asked for: there are exponentially many."""


@dataclass(frozen=True)
class Asked:
    """Which paths, between ends that are given apart."""

    k: int = 10
    score: str = "product"
    by: str | None = None
    live: bool = False
    sign: int = 0
    min_hops: int = 1
    max_hops: int | None = None
    least: float = 0.0
    through: Place | Iterable[Place] | None = None
    avoid: Place | Iterable[Place] | None = None
    set: str | None = None
    total: bool = False
    via: str | None = None

    def conditions(self, route: Route) -> str:
        """In words, behind "no path"."""
        said = [f"at most {self.max_hops} hops"] if self.max_hops else []
        said += [f"at least {self.min_hops} hops"] if self.min_hops > 1 else []
        said += [f"abs({self.by or 'z'}) of {self.least:g} or more"] if self.least else []
        said += ["its ends active together"] if self.live else []
        said += [f"sign {'+' if self.sign > 0 else '-'}"] if self.sign else []
        under = f" with {' and '.join(said)}" if said else ""
        return under + "".join(f" {part}" for part in route.said)


@dataclass(frozen=True)
class Answer:
    """Some paths and what they rest on."""

    paths: list[Path]
    sets: list[Held]
    note: str = ""
    """why there are none"""
    total: tuple[float, float] | None = None
    """what all paths sum to: signed, absolute"""


def paths(
    graph: Store,
    a: Key,
    b: Key | Iterable[Key],
    *,
    k: int = 10,
    score: str = "product",
    by: str | None = None,
    live: bool = False,
    min_hops: int = 1,
    max_hops: int | None = None,
    through: Place | Iterable[Place] | None = None,
    avoid: Place | Iterable[Place] | None = None,
    via: str | None = None,
    sign: str = "both",
    min: float | None = None,
    total: bool = False,
    set: str | None = None,
) -> pd.DataFrame:
    """The ``k`` best paths from ``a`` to ``b``, each a feature or a token, exactly, over all connections that are kept.

    ``b`` may be many keys: then the best paths to any of them, all of one set.
    ``score``: ``product`` of the weights (units: what ``b`` gains per unit activation of ``a``, or per unit of a
    token's embedding, along this path alone); ``share``, the product of shares; ``bottleneck``, the smallest abs(z).
    ``by``: of what the product or the bottleneck is instead: weight, z, share, or, where a text was observed, drive,
    TWERA or coactivation (how often both ends are active); it adds a column of that name, what each connection has.
    ``live``: only connections whose ends are active together on that text, into a logit those of features that fire.
    ``sign``: only paths whose weights multiply to a positive (``+``) or negative (``-``) number. ``min_hops``,
    ``max_hops``: at least and at most so many connections. ``min``: only connections of this abs(z) or more; with
    ``by``, of this size.
    ``through``: features and layers (``2``, ``"0-3"``) that every path visits, all of them; a path visits one feature
    of a layer at most. ``avoid``: features and layers that no path visits between its ends. ``set``: where short keys
    belong, and whose features are meant between two tokens. A token is an end, never a middle.
    ``via``: ``heads`` lets every connection pass through an attention head instead, or one head such as ``L5H3``; its
    type is then ``FEEDS_VIA:L5H3``, and its weight is at attention 1 without the norms around attention.

    ``total``: say in ``attrs["total"]`` what all paths under these conditions (but ``sign``) sum to (``signed``, and
    ``absolute``, the sum of the abs), and the part of either that the rows carry; by product or share only.

    Columns ``rank``, ``score`` (signed), ``score_kind``, ``sign``, ``hops``, and as lists ``keys``, ``types`` (of the
    connections), ``labels``, ``weights``. Ordered by abs(score); equal scores by the layer and index of the last node
    but one (of the end, where there are several), then by how the paths to it are ordered. No rows is an answer:
    ``attrs["note"]`` says why. Raises BadKey, Ambiguous, BadSetting.
    """
    if total and score == "bottleneck":
        raise BadSetting("there is no total of bottlenecks; ask for it by product or share")
    parity = SIGNS[choice("sign", sign, tuple(SIGNS))]
    asked = Asked(k, score, by, live, parity, min_hops, max_hops, smallest("min", min), through, avoid, set, total, via)
    answer = find(graph, a, b, asked)
    names = called(graph, (key for path in answer.paths for key in path.keys))
    frame = rows(
        (
            (
                rank,
                path.score,
                score,
                "+" if path.score > 0 else "-",
                len(path.steps),
                path.keys,
                [step.type for step in path.steps],
                [names[key].label for key in path.keys],
                [step.weight for step in path.steps],
                *([[step.size for step in path.steps]] if by in cuts.EVIDENCE else []),
            )
            for rank, path in enumerate(answer.paths, start=1)
        ),
        COLUMNS | ({by: "floats"} if by in cuts.EVIDENCE else {}),
    )
    frame.attrs = envelope(answer.sets, by or SCORES[score], False, float("inf"))
    if live or by in cuts.EVIDENCE:
        frame.attrs["observation"] = one_or_list([one.observation for one in answer.sets])
    frame.attrs |= {"score": score, "note": answer.note or "exact over the connections that are kept"}
    if answer.total is not None:
        frame.attrs["total"] = _carried(answer.total, [path.score for path in answer.paths])
    return frame


def _carried(sums: tuple[float, float], scores: list[float]) -> dict[str, float | None]:
    signed, absolute = sums
    return {
        "signed": signed,
        "absolute": absolute,
        "part_of_signed": sum(scores) / signed if signed else None,
        "part_of_absolute": sum(map(abs, scores)) / absolute if absolute else None,
    }


def find(graph: Store, a: Key, b: Key | Iterable[Key], asked: Asked) -> Answer:
    """The paths of :func:`paths`."""
    if count("k", asked.k) > MOST:
        raise BadSetting(f"k is {asked.k:,}; paths are exponentially many, ask for {MOST:,} at most")
    measure = measured(asked.score, asked.by, asked.least, asked.live)
    most = None if asked.max_hops is None else count("max_hops", asked.max_hops)
    if count("min_hops", asked.min_hops) > (asked.min_hops if most is None else most):
        raise BadSetting(f"min_hops is {asked.min_hops} and max_hops {most}; no path is like that")
    start, (ends, many) = resolve(graph, a, set=asked.set), resolve_all(graph, b, set=asked.set)
    if start.type == "Feature" and start.key in [end.key for end in ends]:
        raise BadKey(f"{start.key} is both ends; a path needs two different features, or a token")
    sets = held(graph)
    reasons = {end.key: _apart(start, end) for end in ends}
    possible = [end for end in ends if not reasons[end.key]]
    if not possible:
        own = [one for one in sets if one.key in (start.set, *(end.set for end in ends))]
        return Answer([], own, reasons[ends[0].key] + (f", and so on for all {len(ends)} ends" if many else ""))
    own = _set_of(start, possible, asked.set, sets)
    for node in (start, *possible):
        if node.type == "Token" and node.properties["vocabulary"] != own.vocabulary:
            return Answer([], [own], f"{node.key} is no token of {own.model}")
    if measure.evidence:
        cuts.require_observed(own.key, own.observation)
    if asked.by in ("twera", "coactivation") and any(end.type == "Token" for end in possible):
        raise BadSetting(f"{asked.by} into a token is not defined, since a logit does not fire; ask by drive")
    route = routes.read(graph, own, asked.through, asked.avoid)
    for node in (start, *possible):
        if node in route.avoid:
            raise BadKey(f"{node.key} is an end of these paths; avoid names what may not lie between")
    if contradiction := route.contradiction((start, *possible)):
        return Answer([], [own], contradiction)
    refuse_evidence(asked.via, measure.evidence)
    search = PathSearch(graph, own.key, measure, start, route, wanted(asked.via))
    groups = [[end for end in possible if end.type == kind] for kind in ("Feature", "Token")]
    found: list[Path] = []
    signed, absolute = 0.0, 0.0
    for group in filter(None, groups):
        found += search.best(group, asked.k, asked.sign, asked.min_hops, most)
        if asked.total:
            sums = search.total(group, asked.min_hops, most)
            signed, absolute = signed + sums[0], absolute + sums[1]
    found.sort(key=lambda path: -abs(path.score))
    to = possible[0].key if len(possible) == 1 else f"any of {len(possible)} ends"
    none = f"no path{asked.conditions(route)} leads from {start.key} to {to} over the connections that are kept"
    return Answer(found[: asked.k], [own], "" if found else none, (signed, absolute) if asked.total else None)


def _apart(start: Node, end: Node) -> str:
    """Why two features cannot be connected, if they cannot."""
    if start.type == end.type == "Feature":
        assert start.layer is not None
        assert end.layer is not None
        if start.set != end.set:
            return f"{start.key} and {end.key} are of different sets; connections are kept within a set"
        if start.layer > end.layer:
            return f"{start.key} lies in a later layer than {end.key}; turn them round"
        if start.layer == end.layer:
            return f"{start.key} and {end.key} lie in the same layer; features connect to later layers only"
    return ""


def _set_of(start: Node, ends: Sequence[Node], set: str | None, sets: list[Held]) -> Held:
    """The set whose features lie between: an end's own, else the one that is named, else the only one there is."""
    owners = {node.set for node in (start, *ends) if node.type == "Feature"}
    if len(owners) > 1:
        raise Ambiguous(f"the ends are of several sets, {' and '.join(sorted(owners))}: ask for one set at a time")
    if owners:
        return next(one for one in sets if one.key in owners)
    if set is not None:
        return one_set(sets, set, None, "the features between are of")
    able = start.sets(sets)
    if len(able) == 1:
        return able[0]
    names = " or ".join(one.key for one in able)
    raise Ambiguous(f"a path between two tokens runs through the features of one set: name {names} with set")
