"""The exact k best paths through a graph of layers.

Two parts. First **bounds**: one pass in the order of the layers finds, for every node that can matter, the score of the
best path to it from the start: numpy over whole layers, and only over those nodes from which the end can be reached.
Then **enumeration**: the k best paths to the end are unfolded backwards, each node's n-th best path being computed only
when a better-placed path asks for it (the recursive enumeration of Jiménez and Marzal 1999,
https://doi.org/10.1007/3-540-48318-7_4). It touches the rows of the nodes on those paths and nothing else.

A score is built from the start by one monotone operation - a product of factors, or a minimum - so a better path to a
node never makes a worse path beyond it. Equal scores are ordered by the number of the last node before the end, then by
how that node's own best paths are ordered; so the same graph always gives the same paths.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from queries.layered import START, Graph, Links

_DENSE = 0.3
"""From this part of a layer on, all of it is read in one go instead of row by row."""
_ROWS_AT_ONCE = 2048
"""Rows of one step over a layer: what they gather stays in the processor's cache."""


@dataclass(frozen=True)
class Found:
    """One path: its score (not negative) and its nodes; the first is START where the start is no node."""

    score: float
    nodes: tuple[int, ...]
    links: tuple[int, ...]
    """where each connection stands: among the links from the start, the edges of the graph, the links to the end"""


def best_paths(
    graph: Graph,
    start: int | Links,
    end: Links,
    k: int,
    *,
    combine: np.ufunc = np.multiply,
    neutral: float = 1.0,
    sign: int = 0,
    max_edges: int | None = None,
    min_edges: int = 1,
) -> list[Found]:
    """The ``k`` best paths from a node, or from a start outside with these links into the graph, to an end.

    ``end``: the links that lead to it. ``combine``: np.multiply or np.minimum, with its ``neutral`` element.
    ``sign``: 1 or -1 for paths with an even or an odd number of negative connections, 0 for all. ``max_edges``,
    ``min_edges``: at most and at least so many connections. Paths of score 0 are none. Best first, ties as the module
    says.
    """
    return _Search(graph, start, end, k, combine, neutral, sign, max_edges, min_edges).run()


def total(
    graph: Graph, start: int | Links, end: Links, max_edges: int | None = None, min_edges: int = 1
) -> tuple[float, float]:
    """The sum of the products over *all* paths, by the same pass: with their signs, and of their absolute values."""
    search = _Search(graph, start, end, 1, np.multiply, 1.0, 1, max_edges, min_edges, gather=np.add)
    if not search.reaches:
        return 0.0, 0.0
    search.bound()
    even, odd = (float(sum(search.at_end(level, parity).sum() for level in search.levels)) for parity in (0, 1))
    return even - odd, even + odd


def from_one(
    graph: Graph,
    start: int | Links,
    *,
    combine: np.ufunc = np.multiply,
    neutral: float = 1.0,
    gather: np.ufunc = np.maximum,
    max_edges: int | None = None,
) -> np.ndarray:
    """What one node reaches: for every node, from paths with an even and with an odd number of negative connections.

    float64 [2, n_nodes]; the score of the best such path (``gather`` np.maximum), or the sum over all (np.add);
    0 where none leads. Conditions on the graph hold for what lies between.
    """
    everything = np.arange(graph.first[-1])
    end = Links(everything, np.full(len(everything), neutral), np.zeros(len(everything), bool))
    limit = None if max_edges is None else max_edges + 1
    search = _Search(graph, start, end, 1, combine, neutral, 1, limit, gather=gather)
    if search.reaches:
        search.bound()
        if limit is not None:
            return gather.reduce(search.best[1:])
        reached = search.best[0]
        if search.outside is None:
            reached[0, search.start] = 0
        return reached
    return np.zeros((2, graph.first[-1]))


@dataclass
class _Ranking:
    """A state's paths so far, best first, and the heap of candidates for the next."""

    found: list[tuple[float, State | None, int, int]] = field(default_factory=list)
    """score, the state before, which of its paths, and where the connection stands"""
    waiting: list[tuple[float, int, int, int, int]] = field(default_factory=list)
    """minus the score, the node before, its edges so far, which of the links, the rank of the path before it"""
    links: Links | None = None
    """what leads here from other nodes"""


State = tuple[int, int, int]
"""A node, the parity of its negative connections (0 where signs do not matter), its edges so far (0 if unlimited)."""
_END: State = (-2, 0, 0)


class _Search:
    def __init__(
        self,
        graph: Graph,
        start: int | Links,
        end: Links,
        k: int,
        combine: np.ufunc,
        neutral: float,
        sign: int,
        max_edges: int | None,
        min_edges: int = 1,
        gather: np.ufunc = np.maximum,
    ) -> None:
        self.graph, self.end, self.k, self.combine, self.neutral = graph, end, k, combine, neutral
        self.gather = gather
        """what makes one number of all that lead to a node: the best, or their sum"""
        self.outside = start if isinstance(start, Links) else None
        self.start = START if isinstance(start, Links) else start
        self.parities = 2 if sign else 1
        self.wanted = 1 if sign < 0 else 0
        self.limit = len(graph.first) if max_edges is None and min_edges > 1 else max_edges
        """a path to the end has at most so many edges, or any number; no path has more than a step to each layer, and
        one from the last"""
        self.least = min_edges
        self.entry: dict[int, list[int]] = {}
        """the links from outside into each node"""
        if self.outside is not None:
            for at in np.flatnonzero(self.outside.strength > 0):
                self.entry.setdefault(int(self.outside.node[at]), []).append(int(at))
        self.best: list[np.ndarray] = []
        """by edges so far (one entry, if unlimited): float64 [n_parities, n_nodes]; 0 where no path leads"""
        self.rankings: dict[State, _Ranking] = {}

    def run(self) -> list[Found]:
        if not self.reaches:
            return []
        self.bound()
        found = []
        while len(found) < self.k and self._nth(_END, len(found)):
            score = self.rankings[_END].found[len(found)][0]
            found.append(Found(score, *self._trace(len(found))))
        return found

    @property
    def reaches(self) -> bool:
        """Whether anything leads from the start and to the end at all."""
        return len(self.end.node) > 0 and (self.outside is None or bool(self.entry))

    @property
    def levels(self) -> Sequence[int]:
        """Numbers of edges that the last node before the end may be away from the start; 0 if unlimited."""
        return range(self.least - 1, len(self.best)) if self.limit is not None else (0,)

    def at_end(self, level: int, parity: int) -> np.ndarray:
        """Scores at the end through each of the links that lead to it."""
        return self._through(self.end, level, parity)

    # Bounds

    def bound(self) -> None:
        """Fill ``best``."""
        graph = self.graph
        n_nodes = graph.first[-1]
        low = 0 if self.outside is not None else graph.layer_of(self.start) + 1
        empty = np.zeros((self.parities, n_nodes))
        if self.limit is None:
            self.best = [empty]
            if self.outside is None:
                empty[0, self.start] = self.neutral
            for layer, nodes in self._needed(low, None)[0]:
                self._advance(empty, empty, layer, nodes, entering=True)
            return
        self.best = [empty]
        if self.outside is None:
            empty[0, self.start] = self.neutral
        # After e edges a node matters only if the end is at most limit - e edges away.
        levels = self._needed(low, self.limit - 1)
        for edges in range(1, self.limit):
            reached = np.zeros_like(empty)
            for layer, nodes in levels[min(self.limit - edges, len(levels)) - 1]:
                self._advance(self.best[-1], reached, layer, nodes, entering=edges == 1)
            self.best.append(reached)

    def _needed(self, low: int, steps: int | None) -> list[list[tuple[int, np.ndarray | None]]]:
        """Nodes from which the end can be reached, as (layer, nodes or None for all of it), low layers first.

        Unlimited: one list. With ``steps``: a list for 1, 2, … steps to the end.
        """
        graph = self.graph
        mark = np.zeros(graph.first[-1], bool)
        mark[self.end.node] = True
        layers = range(len(graph.first) - 1)
        if steps is None:
            chosen: list[tuple[int, np.ndarray | None]] = []
            for layer in reversed([layer for layer in layers if layer >= low]):
                if chosen and chosen[-1][1] is None:
                    chosen.append((layer, None))  # below a layer that is read whole, nearly everything is needed
                    continue
                for nodes in self._marked(mark, layer):
                    chosen.append((layer, nodes))
                    if nodes is not None:
                        mark[graph.source[graph.edges_of(nodes)]] = True
            return [chosen[::-1]]
        levels, fresh = [], np.flatnonzero(mark)
        for _ in range(max(1, steps)):
            levels.append([(layer, nodes) for layer in layers if layer >= low for nodes in self._marked(mark, layer)])
            fresh = fresh[fresh >= graph.first[low]]
            if not len(fresh):
                break
            seen = mark.copy()
            mark[graph.source[graph.edges_of(fresh)]] = True
            fresh = np.flatnonzero(mark & ~seen)
        return levels

    def _marked(self, mark: np.ndarray, layer: int) -> list[np.ndarray | None]:
        """The marked nodes of a layer: none, some, or all of it where they are so many that it makes no difference."""
        begin, stop = self.graph.first[layer], self.graph.first[layer + 1]
        nodes = np.flatnonzero(mark[begin:stop]) + begin
        if not len(nodes):
            return []
        return [None] if len(nodes) > _DENSE * (stop - begin) else [nodes]

    def _advance(
        self, before: np.ndarray, after: np.ndarray, layer: int, nodes: np.ndarray | None, entering: bool
    ) -> None:
        """Best scores of some nodes of a layer (None: all) from those of their sources."""
        if nodes is not None:
            for begin in range(0, len(nodes), _ROWS_AT_ONCE):
                some = nodes[begin : begin + _ROWS_AT_ONCE]
                counts = self.graph.offsets[some + 1] - self.graph.offsets[some]
                self._reduce(before, after, layer, some, self.graph.edges_of(some), counts)
        else:
            begin, stop = self.graph.first[layer], self.graph.first[layer + 1]
            for low in range(begin, stop, _ROWS_AT_ONCE):
                some = np.arange(low, min(low + _ROWS_AT_ONCE, stop))
                span = slice(int(self.graph.offsets[low]), int(self.graph.offsets[some[-1] + 1]))
                self._reduce(before, after, layer, some, span, np.diff(self.graph.offsets[low : some[-1] + 2]))
        if entering and self.outside is not None:
            first, last = self.graph.first[layer], self.graph.first[layer + 1]
            inside = (self.outside.node >= first) & (self.outside.node < last)
            for parity in range(self.parities):
                mine = inside & (self.outside.negative == bool(parity)) if self.parities == 2 else inside
                entered = self.combine(self.neutral, self.outside.strength[mine])
                self.gather.at(after[parity], self.outside.node[mine], entered)

    def _reduce(
        self,
        before: np.ndarray,
        after: np.ndarray,
        layer: int,
        nodes: np.ndarray,
        edges: slice | np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """The best of each row. ``counts``: edges of each of the nodes, whose rows lie one after another."""
        filled = counts > 0
        if not filled.any():
            return
        begins = (np.cumsum(counts) - counts)[filled]
        source = self.graph.source[edges]
        strength = self.graph.permitted(source, self.graph.strength(edges), layer)
        if self.parities == 1:
            scores = self.combine(before[0].take(source, mode="clip"), strength)
            after[0, nodes[filled]] = self.gather.reduceat(scores, begins)
            return
        even, odd = (before[parity].take(source, mode="clip") for parity in (0, 1))
        negative = self.graph.negative(edges)
        for parity, (same, other) in enumerate(((even, odd), (odd, even))):
            scores = self.combine(np.where(negative, other, same), strength)
            after[parity, nodes[filled]] = self.gather.reduceat(scores, begins)

    # Enumeration

    def _nth(self, state: State, n: int) -> bool:
        """Make sure that a state's n-th best path (from 0) is known; False where it has no more."""
        ranking = self.rankings.get(state)
        if ranking is None:
            ranking = self.rankings[state] = self._first(state)
        while len(ranking.found) <= n:
            if not ranking.waiting:
                return False
            score, node, edges, at, rank = heapq.heappop(ranking.waiting)
            if node == START:
                ranking.found.append((-score, None, 0, at))
                continue
            assert ranking.links is not None
            parity = self.wanted if state == _END else state[1]
            if self.parities == 2 and ranking.links.negative[at]:
                parity = 1 - parity
            before = (node, parity, edges)
            ranking.found.append((-score, before, rank, at))
            if self._nth(before, rank + 1):
                strength = float(ranking.links.strength[at])
                following = float(self.combine(self.rankings[before].found[rank + 1][0], strength))
                if following > 0:
                    heapq.heappush(ranking.waiting, (-following, node, edges, at, rank + 1))
        return True

    def _first(self, state: State) -> _Ranking:
        """A state's ranking with the best path through each of its best links waiting."""
        node, parity, edges = state
        if node == self.start and (self.limit is None or edges == 0):
            return _Ranking(found=[(self.neutral, None, 0, -1)] if parity == 0 else [])
        ranking = _Ranking()
        if state == _END:
            parity, links, levels = self.wanted, self.end, self.levels
        else:
            links = self.graph.row(node)
            levels = (edges - 1,) if self.limit is not None else (0,)
            if self.limit is None or edges == 1:
                ranking.waiting = [self._entering(at) for at in self.entry.get(node, ()) if self._enters(at, parity)]
        ranking.links = links
        for level in levels:
            scores = self._through(links, level, parity)
            # Of these, only the k best can be part of the k best paths; the sort is stable, so ties go by node.
            order = np.argsort(-scores, kind="stable")[: self.k]
            for at in order[scores[order] > 0]:
                ranking.waiting.append((-float(scores[at]), int(links.node[at]), level, int(at), 0))
        heapq.heapify(ranking.waiting)
        return ranking

    def _enters(self, at: int, parity: int) -> bool:
        assert self.outside is not None
        return self.parities == 1 or bool(self.outside.negative[at]) == bool(parity)

    def _entering(self, at: int) -> tuple[float, int, int, int, int]:
        assert self.outside is not None
        return -float(self.combine(self.neutral, self.outside.strength[at])), START, 0, at, 0

    def _through(self, links: Links, level: int, parity: int) -> np.ndarray:
        """Scores by each of some links, with one parity of negative connections, from nodes of one level."""
        values = self.best[level][0 if self.parities == 1 else parity][links.node]
        if self.parities == 2:
            values = np.where(links.negative, self.best[level][1 - parity][links.node], values)
        return self.combine(values, links.strength)

    def _trace(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The nodes of a found path, from the start (the end itself is not among them), and its connections."""
        nodes: list[int] = []
        links: list[int] = []
        state: State | None = _END
        while state is not None:
            _, before, rank, at = self.rankings[state].found[rank]
            if state != _END:
                nodes.append(state[0])
            if before is not None or self.outside is not None:
                row = 0 if state == _END or before is None else int(self.graph.offsets[state[0]])
                links.append(row + at)
            state = before
        if self.outside is not None:
            nodes.append(START)
        return tuple(reversed(nodes)), tuple(reversed(links))
