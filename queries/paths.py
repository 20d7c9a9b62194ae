"""The exact best paths from one node to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.errors import Ambiguous, BadKey, BadSetting
from queries import kbest
from queries.answers import choice, count, rows, smallest
from queries.catalog import ask, records
from queries.held import Held, envelope, held, one_set
from queries.neighbours import SIGNS
from queries.resolve import Key, Node, resolve

if TYPE_CHECKING:
    from atlas.stores import Store
    from atlas.stores.adjacency import Adjacency

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
SCORES = {"product": "weight", "share": "share", "bottleneck": "z"}
"""How a path is scored, and the number on its connections that the score is made of."""
MOST = 10_000
"""Paths that may be asked for: there are exponentially many."""
_ALL = 1_000_000


@dataclass(frozen=True)
class Step:
    """One connection of a path."""

    source: str
    target: str
    type: str
    weight: float
    z: float
    share: float


@dataclass(frozen=True)
class Path:
    """One path: a connection at least; ``score`` is signed by the product of the weights' signs."""

    score: float
    steps: tuple[Step, ...]

    @property
    def keys(self) -> list[str]:
        return [self.steps[0].source, *(step.target for step in self.steps)]


def paths(
    graph: Store,
    a: Key,
    b: Key,
    *,
    k: int = 10,
    score: str = "product",
    max_hops: int | None = None,
    sign: str = "both",
    min: float | None = None,
    total: bool = False,
    set: str | None = None,
) -> pd.DataFrame:
    """The ``k`` best paths from ``a`` to ``b``, each a feature or a token, exactly, over all connections that are kept.

    ``score``: ``product`` of the weights (units: what ``b`` gains per unit activation of ``a``, or per unit of a
    token's embedding, along this path alone); ``share``, the product of shares; ``bottleneck``, the smallest abs(z).
    ``sign``: only paths whose weights multiply to a positive (``+``) or negative (``-``) number. ``max_hops``: at most
    so many connections. ``min``: only connections of this abs(z) or more. ``set``: where short keys belong, and whose
    features are meant between two tokens. A token is an end, never a middle.

    ``total``: say in ``attrs["total"]`` what all paths of these lengths and connections sum to (``signed``, and
    ``absolute``, the sum of the abs), and the part of either that the rows carry; by product or share only.

    Columns ``rank``, ``score`` (signed), ``score_kind``, ``sign``, ``hops``, and as lists ``keys``, ``types`` (of the
    connections), ``labels``, ``weights``. Ordered by abs(score); equal scores by the layer and index of the last node
    but one, then by how the paths to it are ordered. No rows is an answer: ``attrs["note"]`` says why.
    Raises BadKey, Ambiguous, BadSetting.
    """
    if total and score == "bottleneck":
        raise BadSetting("there is no total of bottlenecks; ask for it by product or share")
    found, sets, note, sums = find(
        graph, a, b, k=k, score=score, max_hops=max_hops, sign=sign, least=min, set=set, total=total
    )
    labels = _labels(graph, found)
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
                [labels[key] for key in path.keys],
                [step.weight for step in path.steps],
            )
            for rank, path in enumerate(found, start=1)
        ),
        COLUMNS,
    )
    frame.attrs = envelope(sets, SCORES[score], False, float("inf"))
    frame.attrs |= {"score": score, "note": note or "exact over the connections that are kept"}
    if sums is not None:
        frame.attrs["total"] = _carried(sums, [path.score for path in found])
    return frame


def _carried(sums: tuple[float, float], scores: list[float]) -> dict[str, float | None]:
    signed, absolute = sums
    return {
        "signed": signed,
        "absolute": absolute,
        "part_of_signed": sum(scores) / signed if signed else None,
        "part_of_absolute": sum(map(abs, scores)) / absolute if absolute else None,
    }


def find(
    graph: Store,
    a: Key,
    b: Key,
    *,
    k: int,
    score: str,
    max_hops: int | None,
    sign: str,
    least: float | None,
    set: str | None,
    total: bool = False,
) -> tuple[list[Path], list[Held], str, tuple[float, float] | None]:
    """The paths of :func:`paths`, the set (or sets) behind them, why there are none, and what all paths sum to."""
    if count("k", k) > MOST:
        raise BadSetting(f"k is {k:,}; paths are exponentially many, ask for {MOST:,} at most")
    choice("score", score, tuple(SCORES))
    parity = SIGNS[choice("sign", sign, tuple(SIGNS))]
    limit = None if max_hops is None else count("max_hops", max_hops)
    threshold = smallest("min", least)
    start, end = resolve(graph, a, set=set), resolve(graph, b, set=set)
    if start.key == end.key and start.type == "Feature":
        raise BadKey(f"{start.key} is both ends; a path needs two different features, or a token")
    sets = held(graph)
    if reason := _apart(start, end):
        return [], [one for one in sets if one.key in (start.set, end.set)], reason, None
    own = _set_of(start, end, set, sets)
    for node in (start, end):
        if node.type == "Token" and node.properties["vocabulary"] != own.vocabulary:
            return [], [own], f"{node.key} is no token of {own.model}", None
    search = _Search(graph, graph.adjacency(own.key), own.key, score, threshold, start, end)
    found = search.best(k, parity, limit)
    sums = search.total(limit) if total else None
    if found:
        return found, [own], "", sums
    conditions = [f"at most {limit} hops"] if limit else []
    conditions += [f"abs(z) of {threshold:g} or more"] if threshold else []
    conditions += [f"sign {sign}"] if parity else []
    under = f" with {' and '.join(conditions)}" if conditions else ""
    none = f"no path{under} leads from {start.key} to {end.key} over the connections that are kept"
    return [], [own], none, sums


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


def _set_of(start: Node, end: Node, set: str | None, sets: list[Held]) -> Held:
    """The set whose features lie between: an end's own, else the one that is named, else the only one there is."""
    for node in (start, end):
        if node.type == "Feature":
            return node.sets(sets)[0]
    if set is not None:
        return one_set(sets, set, None, "the features between are of")
    able = start.sets(sets)
    if len(able) == 1:
        return able[0]
    names = " or ".join(one.key for one in able)
    raise Ambiguous(f"a path between two tokens runs through the features of one set: name {names} with set")


class _Search:
    """Paths between two nodes over the adjacency of one set, by one score."""

    def __init__(
        self, graph: Store, adjacency: Adjacency, set_key: str, score: str, least: float, start: Node, end: Node
    ) -> None:
        self._store, self._adjacency, self._set, self._score, self._least = graph, adjacency, set_key, score, least
        self._start, self._end = start, end
        # Plain arrays over the mapped files: each slice of a memmap would cost microseconds.
        self._numbers = {name: np.asarray(getattr(adjacency, name)) for name in ("weight", "z", "share")}
        self._offsets, self._source = np.asarray(adjacency.offsets), np.asarray(adjacency.source)
        sizes = np.concatenate([[0], np.cumsum(adjacency.features_per_layer)])
        self._first = [int(number) for number in sizes]
        self._graph = kbest.Graph(
            self._offsets, self._source, self._strength, lambda at: self._numbers["weight"][at] < 0, self._first
        )
        self._neutral = np.inf if score == "bottleneck" else 1.0
        self._entering = self._token_links(start, "token_features") if start.type == "Token" else pd.DataFrame()
        self._leaving = self._token_links(end, "promoting_features") if end.type == "Token" else pd.DataFrame()

    def best(self, k: int, sign: int, limit: int | None) -> list[Path]:
        combine = np.minimum if self._score == "bottleneck" else np.multiply
        found = kbest.best_paths(
            self._graph,
            self._begin,
            self._finish,
            k,
            combine=combine,
            neutral=self._neutral,
            sign=sign,
            max_edges=self._edges(limit),
        )
        return [self._path(one) for one in found]

    def total(self, limit: int | None) -> tuple[float, float]:
        return kbest.total(self._graph, self._begin, self._finish, self._edges(limit))

    @property
    def _begin(self) -> int | kbest.Links:
        return self._links(self._entering) if self._start.type == "Token" else self._number(self._start.key)

    @property
    def _finish(self) -> kbest.Links:
        """The links to the end; for a feature one connection more, of no effect, from itself."""
        if self._end.type == "Token":
            return self._links(self._leaving)
        return kbest.Links(np.array([self._number(self._end.key)]), np.array([self._neutral]), np.array([False]))

    def _edges(self, limit: int | None) -> int | None:
        return None if limit is None else limit + (self._end.type == "Feature")

    def _strength(self, at: slice | np.ndarray) -> np.ndarray:
        """What the score is made of, for some connections; 0 where abs(z) is too small."""
        values = np.abs(self._numbers[SCORES[self._score]][at])
        return np.where(np.abs(self._numbers["z"][at]) >= self._least, values, 0) if self._least else values

    def _token_links(self, token: Node, query: str) -> pd.DataFrame:
        """A token's kept connections with the set, by the number of the feature."""
        found = ask(self._store, query, key=token.key, set=self._set, by="z", min=self._least, limit=_ALL)
        return found.assign(node=[self._number(key) for key in found["key"]]).set_index("node").sort_index()

    def _links(self, frame: pd.DataFrame) -> kbest.Links:
        strength = frame[SCORES[self._score]].abs().to_numpy(np.float64)
        return kbest.Links(frame.index.to_numpy(np.int64), strength, (frame["weight"] < 0).to_numpy())

    def _number(self, key: str) -> int:
        """A feature's place among all of the set, by layer and index."""
        _, place, idx = key.rsplit("/", 2)
        return self._first[self._adjacency.layers.index(int(place.partition("-")[0]))] + int(idx)

    def _key(self, number: int) -> str:
        at = self._graph.layer_of(number)
        model, _, name = self._set.partition("/")
        return f"{model}/{self._adjacency.layers[at]}-{name}/{number - self._first[at]}"

    def _path(self, found: kbest.Found) -> Path:
        steps = []
        numbers = found.nodes
        if self._start.type == "Token":
            row = self._entering.loc[numbers[1]]
            steps.append(_token_step(self._start.key, self._key(numbers[1]), "ACTIVATES", row))
            numbers = numbers[1:]
        steps += [self._step(*ends) for ends in pairwise(numbers)]
        if self._end.type == "Token":
            row = self._leaving.loc[numbers[-1]]
            steps.append(_token_step(self._key(numbers[-1]), self._end.key, "PROMOTES", row))
        negative = sum(step.weight < 0 for step in steps) % 2
        return Path(-found.score if negative else found.score, tuple(steps))

    def _step(self, source: int, target: int) -> Step:
        begin, stop = int(self._offsets[target]), int(self._offsets[target + 1])
        at = begin + int(np.searchsorted(self._source[begin:stop], source))
        numbers = (float(column[at]) for column in self._numbers.values())
        return Step(self._key(source), self._key(target), "FEEDS", *numbers)


def _token_step(source: str, target: str, kind: str, row: Any) -> Step:
    return Step(source, target, kind, float(row["weight"]), float(row["z"]), float(row["share"]))


def _labels(graph: Store, found: Sequence[Path]) -> dict[str, str]:
    """Labels of all nodes on some paths: a feature's label, a token's text."""
    keys = dict.fromkeys(key for path in found for key in path.keys)
    return {
        key: str(
            records(graph, "token", key=key)[0]["text"]
            if key.startswith("tok:")
            else records(graph, "label", key=key)[0]["label"]
        )
        for key in keys
    }
