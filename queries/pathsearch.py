"""Paths of one set: from its adjacency and the connections of tokens to :mod:`queries.kbest`, and back to keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atlas.errors import BadSetting
from queries import kbest, through
from queries.answers import choice
from queries.catalog import ask
from queries.counted import STATED, numbers
from queries.cuts import EVIDENCE
from queries.layered import Graph, Links
from queries.resolve import Node
from queries.routes import Route, conditions

if TYPE_CHECKING:
    from atlas.stores import Store

SCORES = {"product": "weight", "share": "share", "bottleneck": "z"}
"""How a path is scored, and the number on its connections that the score is made of."""
BY = (*STATED, *EVIDENCE)
"""Numbers of connections that a product or a bottleneck may be made of instead."""
_ALL = 1_000_000


@dataclass(frozen=True)
class Step:
    """One connection of a path."""

    source: str
    target: str
    type: str
    """of the relationship; through a head with the head behind it, FEEDS_VIA:L5H3"""
    weight: float
    z: float
    share: float
    size: float
    """what the score is made of, not negative"""


@dataclass(frozen=True)
class Measure:
    """What a path's score is made of, and which connections count."""

    score: str = "product"
    by: str | None = None
    """one of :data:`BY` instead of the score's own number"""
    least: float = 0.0
    """smallest size of a connection: of ``by``, of abs(z) without it"""
    live: bool = False
    """only connections whose ends are active together on the observed text"""

    @property
    def number(self) -> str:
        return self.by or SCORES[self.score]

    @property
    def evidence(self) -> bool:
        """Whether an observed text is needed."""
        return self.live or self.by in EVIDENCE


def measured(score: str, by: str | None, least: float, live: bool) -> Measure:
    """What was asked for, checked. Raises BadSetting."""
    choice("score", score, tuple(SCORES))
    if by is not None and score == "share":
        raise BadSetting(f"a product of shares is not by {choice('by', by, BY)}; ask for product or bottleneck")
    return Measure(score, by and choice("by", by, BY), least, live)


@dataclass(frozen=True)
class Path:
    """One path: a connection at least; ``score`` is signed by the product of the weights' signs."""

    score: float
    steps: tuple[Step, ...]

    @property
    def keys(self) -> list[str]:
        return [self.steps[0].source, *(step.target for step in self.steps)]


class PathSearch:
    def __init__(
        self,
        graph: Store,
        set_key: str,
        measure: Measure,
        start: Node,
        route: Route,
        via: tuple[int, int] | None = None,
    ) -> None:
        self._store, self._set, self._measure, self._via = graph, set_key, measure, via
        adjacency = graph.adjacency(set_key, heads=True) if via else graph.adjacency(set_key)
        self._head = None if adjacency.head is None else np.asarray(adjacency.head)
        self._numbers = numbers(adjacency, set_key, evidence=measure.evidence)
        self._source = np.asarray(adjacency.source)
        self.first = np.concatenate([[0], np.cumsum(adjacency.features_per_layer)]).tolist()
        self.layers = list(adjacency.layers)
        self.combine = np.minimum if measure.score == "bottleneck" else np.multiply
        self.neutral = np.inf if measure.score == "bottleneck" else 1.0
        self._start = start
        number = self.number(start.key) if start.type == "Feature" else None
        self._allowed = conditions(route, adjacency, self.first, number) if route else None
        self.graph = Graph(
            np.asarray(adjacency.offsets),
            self._source,
            self._strength,
            lambda at: self._numbers["weight"][at] < 0,
            self.first,
            self._allowed.inner if self._allowed else None,
            self._allowed.nearest if self._allowed else None,
        )
        self._entering = pd.DataFrame() if number is not None else self._token_links(start.key, "token_features")
        self.begin: int | Links = number if number is not None else self._links(self._entering, self._enters)

    def best(self, ends: Sequence[Node], k: int, sign: int, least: int, most: int | None) -> list[Path]:
        """The ``k`` best paths to any of some ends, all features or all tokens, of ``least`` to ``most`` steps."""
        links, leaving, extra = self._ends(ends)
        found = kbest.best_paths(
            self.graph,
            self.begin,
            links,
            k,
            combine=self.combine,
            neutral=self.neutral,
            sign=sign,
            min_edges=_at_least(least, extra),
            max_edges=None if most is None else most + extra,
        )
        return [self._path(one, leaving) for one in found]

    def total(self, ends: Sequence[Node], least: int, most: int | None) -> tuple[float, float]:
        """What all of these paths sum to: with their signs, and of their sizes."""
        links, _, extra = self._ends(ends)
        most = None if most is None else most + extra
        return kbest.total(self.graph, self.begin, links, most, _at_least(least, extra))

    def from_start(self, gather: np.ufunc, most: int | None) -> np.ndarray:
        """What every feature is reached by, see :func:`queries.kbest.from_one`."""
        return kbest.from_one(
            self.graph, self.begin, combine=self.combine, neutral=self.neutral, gather=gather, max_edges=most
        )

    def number(self, key: str) -> int:
        """A feature's place among all of the set, by layer and index."""
        _, place, idx = key.rsplit("/", 2)
        return self.first[self.layers.index(int(place.partition("-")[0]))] + int(idx)

    def key(self, number: int) -> str:
        at = self.graph.layer_of(number)
        model, _, name = self._set.partition("/")
        return f"{model}/{self.layers[at]}-{name}/{number - self.first[at]}"

    def _ends(self, ends: Sequence[Node]) -> tuple[Links, pd.DataFrame | None, int]:
        """Links to the ends, the connections of tokens, and how many links more a path has than connections."""
        if ends[0].type == "Feature":
            numbers = np.array(sorted(self.number(end.key) for end in ends))
            strength = np.full(len(numbers), self.neutral)
            if self._allowed is not None:
                strength[~self._allowed.last[numbers]] = 0
            return Links(numbers, strength, np.zeros(len(numbers), bool)), None, 1
        leaving = pd.concat(
            [self._token_links(end.key, "promoting_features").assign(token=end.key) for end in ends]
        ).sort_index(kind="stable")
        return self._links(leaving, self._leaves), leaving, 0

    def _strength(self, at: slice | np.ndarray) -> np.ndarray:
        """What the score is made of, for some connections; 0 where one does not count or it is undefined."""
        measure = self._measure
        values = np.abs(self._numbers[measure.number][at])
        if measure.by in EVIDENCE:
            values = np.nan_to_num(values)
        if self._head is not None and self._via is not None and self._via[0] >= 0:
            head = self._head[at]
            values = np.where((head < 0) | (head == self._via[0] << 16 | self._via[1]), values, 0)
        if measure.least:
            bounded = values if measure.by else np.abs(self._numbers["z"][at])
            values = np.where(bounded >= measure.least, values, 0)
        return np.where(self._numbers["coactivation"][at] > 0, values, 0) if measure.live else values

    def _token_links(self, token: str, query: str) -> pd.DataFrame:
        """A token's kept connections with the set, by the number of the feature."""
        measure = self._measure
        asked = {"key": token, "set": self._set, "limit": _ALL, "by": measure.by or "z", "min": measure.least}
        found = ask(self._store, query, live=int(measure.live), **asked).assign(via="")
        if self._via is not None:
            layer, number = self._via
            more = ask(self._store, f"{query}_via", head_layer=layer, head_number=number, **asked)
            named = [through.via(row) for row in more.loc[:, ["head_layer", "head"]].to_dict("records")]
            found = pd.concat([found, more.assign(via=named)])[["key", "weight", "z", "share", "via"]]
        return found.assign(node=[self.number(key) for key in found["key"]]).set_index("node").sort_index(kind="stable")

    def _links(self, frame: pd.DataFrame, allowed: Callable[[np.ndarray], np.ndarray]) -> Links:
        node = frame.index.to_numpy(np.int64)
        strength = frame[_column(self._measure)].abs().to_numpy(np.float64, na_value=0.0)
        return Links(node, np.where(allowed(node), strength, 0), (frame["weight"] < 0).to_numpy())

    def _enters(self, node: np.ndarray) -> np.ndarray:
        if self._allowed is None:
            return np.ones(len(node), bool)
        begin, stop = self._allowed.entered
        return (node >= begin) & (node < stop)

    def _leaves(self, node: np.ndarray) -> np.ndarray:
        return np.ones(len(node), bool) if self._allowed is None else (self._allowed.inner & self._allowed.last)[node]

    def _path(self, found: kbest.Found, leaving: pd.DataFrame | None) -> Path:
        steps, numbers, links = [], list(found.nodes), list(found.links)
        if self._start.type == "Token":
            row = self._entering.iloc[links.pop(0)]
            numbers.pop(0)
            steps.append(self._token_step(self._start.key, self.key(numbers[0]), "ACTIVATES", row))
        last = links.pop()
        steps += [self._step(*ends, at) for ends, at in zip(pairwise(numbers), links, strict=True)]
        if leaving is not None:
            row = leaving.iloc[last]
            steps.append(self._token_step(self.key(numbers[-1]), str(row["token"]), "PROMOTES", row))
        negative = sum(step.weight < 0 for step in steps) % 2
        return Path(-found.score if negative else found.score, tuple(steps))

    def _step(self, source: int, target: int, at: int) -> Step:
        numbers = [float(self._numbers[name][at]) for name in STATED]
        size = float(self._strength(np.array([at]))[0])
        head = -1 if self._head is None else int(self._head[at])
        kind = "FEEDS" if head < 0 else f"FEEDS_VIA:L{head >> 16}H{head & 0xFFFF}"
        return Step(self.key(source), self.key(target), kind, *numbers, size=size)

    def _token_step(self, source: str, target: str, kind: str, row: Any) -> Step:
        numbers = [float(row[name]) for name in STATED]
        kind = f"{kind}_VIA:{row['via']}" if row["via"] else kind
        return Step(source, target, kind, *numbers, size=abs(float(row[_column(self._measure)])))


def _column(measure: Measure) -> str:
    """What the measure's number is called in the answers about tokens."""
    return {"coactivation": "n_both"}.get(measure.number, measure.number)


def _at_least(hops: int, extra: int) -> int:
    return hops + extra if hops > 1 else 1
