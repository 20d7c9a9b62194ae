"""The strongest instances of a shape, exactly, without listing the others.

Each connection in each place of the shape has a bound: the best score that any instance with it there could have, from
the strongest connections of the features at its ends. Those whose bound reaches a threshold are joined, and every
instance of that score or more is found so. Where fewer than ``k`` are, the threshold goes down until enough are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from atlas.errors import BadSetting
from queries.shapes import Links

_FIRST = 1_000
"""Connections that the first threshold lets through."""
_GROWTH = 4
_JOINED_AT_ONCE = 2_000_000
_MOST_PAIRS = 60_000_000
PLACES = {
    "chain": ("AB", "BC"),
    "fan-in": ("AC", "BC"),
    "fan-out": ("AB", "AC"),
    "feed-forward-loop": ("AB", "BC", "AC"),
    "bi-fan": ("AC", "AD", "BC", "BD"),
}
"""Connections of each shape, by the letters of its features, in the order in which an instance lists them."""


@dataclass(frozen=True)
class Instance:
    """One occurrence: features in the order of their letters, connections in the order of :data:`PLACES`."""

    score: float
    features: tuple[int, ...]
    connections: tuple[int, ...]
    """places in the arrays of the links"""


@dataclass
class _Best:
    """The best instances so far, equal scores by the numbers of their features."""

    k: int
    n_features: int
    score: np.ndarray = field(default_factory=lambda: np.zeros(0))
    connections: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    features: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def add(self, score: np.ndarray, features: np.ndarray, connections: np.ndarray) -> None:
        if self.connections.size:
            score = np.concatenate([self.score, score])
            features = np.concatenate([self.features, features])
            connections = np.concatenate([self.connections, connections])
        order = np.lexsort((*features.T[::-1], -score))[: self.k]
        self.score, self.features, self.connections = score[order], features[order], connections[order]

    def least(self, threshold: float) -> float:
        """What an instance must reach to belong among them."""
        return max(threshold, float(self.score[-1])) if len(self.score) == self.k else threshold


def strongest(links: Links, strength: np.ndarray, shape: str, k: int, *, product: bool, sign: int) -> list[Instance]:
    """The ``k`` instances of largest score: the product of their strengths, or the smallest of them.

    ``links``: ordered by target, then source. ``strength``: float64, one for each connection, 0 or more.
    ``sign``: of the product of all weights, 1 or -1, or 0 for both.
    """
    if not len(strength):
        return []
    search = _Search(links, strength, shape, product, sign)
    wanted = max(_FIRST, _GROWTH * k)
    while True:
        threshold = search.threshold(wanted)
        best = search.above(threshold, k)
        if len(best.score) == k or threshold <= 0:
            rows = zip(best.score.tolist(), best.features.tolist(), best.connections.tolist(), strict=True)
            return [Instance(score, tuple(features), tuple(places)) for score, features, places in rows]
        wanted *= _GROWTH


class _Search:
    def __init__(self, links: Links, strength: np.ndarray, shape: str, product: bool, sign: int) -> None:
        self.links, self.strength, self.shape, self.sign = links, strength, shape, sign
        self.combine = np.multiply if product else np.minimum
        self.cell = links.target.astype(np.int64) * links.n_features + links.source
        self.out_max, self.in_max = np.zeros(links.n_features), np.zeros(links.n_features)
        np.maximum.at(self.out_max, links.source, strength)
        np.maximum.at(self.in_max, links.target, strength)
        self.bounds = self._bounds()

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds for the two connections that are joined first."""
        source, target, s, c = self.links.source, self.links.target, self.strength, self.combine
        out_of, into = self.out_max, self.in_max
        match self.shape:
            case "chain":
                return c(s, out_of[target]), c(s, into[source])
            case "fan-in":
                bound = c(s, into[target])
                return bound, bound
            case "fan-out":
                bound = c(s, out_of[source])
                return bound, bound
            case "feed-forward-loop":
                return c(c(s, out_of[target]), out_of[source]), c(c(s, into[source]), into[target])
            case _:
                bound = c(c(c(s, out_of[source]), into[target]), s.max())
                return bound, bound

    def threshold(self, wanted: int) -> float:
        """The bound that so many connections reach; 0 where there are not so many."""
        bound = self.bounds[0]
        return 0.0 if wanted >= len(bound) else float(np.partition(bound, -wanted)[-wanted])

    def above(self, threshold: float, k: int) -> _Best:
        """The best instances of this score or more."""
        best = _Best(k, self.links.n_features)
        first, second = (np.flatnonzero(bound >= threshold) for bound in self.bounds)
        source, target = self.links.source, self.links.target
        at = {"chain": (target, source), "fan-in": (target, target), "feed-forward-loop": (target, source)}
        here, there = at.get(self.shape, (source, source))
        joined = _joined(first, here[first], second, there[second])
        if self.shape == "bi-fan":
            self._bi_fans(joined, threshold, best)
            return best
        for a, b in joined:
            if self.shape in ("fan-in", "fan-out"):
                outer = source if self.shape == "fan-in" else target
                ordered = outer[a] < outer[b]
                a, b = a[ordered], b[ordered]
            score = self.combine(self.strength[a], self.strength[b])
            if self.shape != "feed-forward-loop":
                good = score >= best.least(threshold)
                a, b, score = a[good], b[good], score[good]
            self._triads(a, b, score, threshold, best)
        return best

    def _triads(self, a: np.ndarray, b: np.ndarray, score: np.ndarray, threshold: float, best: _Best) -> None:
        source, target = self.links.source, self.links.target
        if self.shape == "feed-forward-loop":
            least = best.least(threshold)
            hope = self.combine(score, np.minimum(self.out_max[source[a]], self.in_max[target[b]])) >= least
            a, b, score = a[hope], b[hope], score[hope]
            third = self._place(source[a], target[b])
            there = third >= 0
            a, b, third = a[there], b[there], third[there]
            score = self.combine(score[there], self.strength[third])
            self._keep(score, (source[a], target[a], target[b]), (a, b, third), least, best)
            return
        nodes = {
            "chain": (source[a], target[a], target[b]),
            "fan-in": (source[a], source[b], target[a]),
            "fan-out": (source[a], target[a], target[b]),
        }[self.shape]
        outer = {"chain": (nodes[0], nodes[2]), "fan-in": nodes[:2], "fan-out": nodes[1:]}[self.shape]
        open_ = self._place(*outer) < 0
        self._keep(score[open_], tuple(n[open_] for n in nodes), (a[open_], b[open_]), threshold, best)

    def _bi_fans(self, joined: Iterator[tuple[np.ndarray, np.ndarray]], threshold: float, best: _Best) -> None:
        source, target = self.links.source, self.links.target
        pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for c, d in joined:
            score = self.combine(self.strength[c], self.strength[d])
            rest = self.combine(self.in_max[target[c]], self.in_max[target[d]])
            good = (target[c] < target[d]) & (self.combine(score, rest) >= threshold)
            pairs.append((c[good], d[good], score[good]))
            if sum(len(one[0]) for one in pairs) > _MOST_PAIRS:
                raise BadSetting(
                    "too many connections are about equally strong to name the strongest bi-fans among them; "
                    "raise min or ask for fewer"
                )
        c, d, score = (
            (np.concatenate(column) for column in zip(*pairs, strict=True)) if pairs else (np.zeros(0, int),) * 3
        )
        both = target[c].astype(np.int64) * self.links.n_features + target[d]
        every = np.arange(len(c))
        for one, other in _joined(every, both, every, both):
            ordered = source[c[one]] < source[c[other]]
            one, other = one[ordered], other[ordered]
            nodes = (source[c[one]], source[c[other]], target[c[one]], target[d[one]])
            connections = (c[one], d[one], c[other], d[other])
            self._keep(self.combine(score[one], score[other]), nodes, connections, threshold, best)

    def _keep(
        self,
        score: np.ndarray,
        nodes: tuple[np.ndarray, ...],
        connections: tuple[np.ndarray, ...],
        threshold: float,
        best: _Best,
    ) -> None:
        good = score >= best.least(threshold)
        if self.sign:
            odd = np.logical_xor.reduce([self.links.negative[at] for at in connections])
            good &= odd == (self.sign < 0)
        if good.any():
            best.add(
                score[good].astype(np.float64),
                np.stack([n[good] for n in nodes], axis=1).astype(np.int64),
                np.stack([at[good] for at in connections], axis=1).astype(np.int64),
            )

    def _place(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Where the connection between two features is; -1 where there is none."""
        wanted = target.astype(np.int64) * self.links.n_features + source
        at = np.minimum(np.searchsorted(self.cell, wanted), len(self.cell) - 1)
        return np.where(self.cell[at] == wanted, at, -1)


def _joined(
    left: np.ndarray, left_key: np.ndarray, right: np.ndarray, right_key: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of equal keys, some millions at a time."""
    order = np.argsort(right_key, kind="stable")
    right, right_key = right[order], right_key[order]
    begins = np.searchsorted(right_key, left_key, side="left")
    counts = np.searchsorted(right_key, left_key, side="right") - begins
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(left):
        done = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _JOINED_AT_ONCE, side="right")))
        n = counts[begin:stop]
        total = int(n.sum())
        if total:
            within = np.arange(total) - np.repeat(np.cumsum(n) - n, n)
            yield np.repeat(left[begin:stop], n), right[np.repeat(begins[begin:stop], n) + within]
        begin = stop
