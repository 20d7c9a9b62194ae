"""The path search against every path there is, on random graphs of layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from queries import kbest
from tests.unit.queries.walks import best, walks

START, END = -1, 10_000
WEIGHTS = st.sampled_from([1.0, -1.0, 2.0, -0.5, 0.25]) | st.floats(-3, 3).filter(lambda w: abs(w) > 1e-3)


@dataclass(frozen=True)
class Case:
    sizes: list[int]
    edges: dict[tuple[int, int], float]
    """between nodes, and from START or to END"""
    start: int

    @property
    def first(self) -> list[int]:
        return [0, *accumulate(self.sizes)]

    def graph(self) -> kbest.Graph:
        n_nodes = self.first[-1]
        inside = sorted((target, source) for source, target in self.edges if source != START and target != END)
        weight = np.array([self.edges[source, target] for target, source in inside])
        offsets = np.searchsorted([target for target, _ in inside], np.arange(n_nodes + 1))
        source = np.array([source for _, source in inside], np.int32)
        return kbest.Graph(
            offsets.astype(np.int64), source, lambda at: np.abs(weight[at]), lambda at: weight[at] < 0, self.first
        )

    def links(self, place: int) -> kbest.Links:
        pairs = sorted((a if b == place else b, w) for (a, b), w in self.edges.items() if place in (a, b))
        weights = np.array([weight for _, weight in pairs])
        return kbest.Links(np.array([node for node, _ in pairs], np.int64), np.abs(weights), weights < 0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(sum))
    layer = [at for at, size in enumerate(sizes) for _ in range(size)]
    nodes = range(len(layer))
    pairs = [(a, b) for a in nodes for b in nodes if layer[a] < layer[b]]
    start = draw(st.sampled_from([START, *nodes]))
    pairs += [(START, b) for b in nodes] if start == START else []
    pairs += [(a, END) for a in nodes]
    weights = draw(st.lists(st.none() | WEIGHTS, min_size=len(pairs), max_size=len(pairs)))
    return Case(sizes, {pair: w for pair, w in zip(pairs, weights, strict=True) if w is not None}, start)


@settings(max_examples=250, deadline=None)
@given(
    case=cases(),
    k=st.integers(1, 9),
    bottleneck=st.booleans(),
    sign=st.sampled_from([0, 1, -1]),
    max_edges=st.none() | st.integers(1, 6),
    dense=st.sampled_from([0.0, 0.3, 2.0]),
    rows=st.sampled_from([1, 2, 2048]),
)
@example(Case([1, 1], {(0, 1): 1.0, (1, END): 1.0, (0, END): 1.0}, 0), 5, True, 0, None, 0.3, 2048)
def test_the_k_best_paths_are_those_of_brute_force_in_the_same_order(case, k, bottleneck, sign, max_edges, dense, rows):
    combine, neutral = (np.minimum, np.inf) if bottleneck else (np.multiply, 1.0)
    begin = case.links(START) if case.start == START else case.start

    with pytest.MonkeyPatch.context() as patch:
        # How much of a layer is read at once must not matter.
        patch.setattr(kbest, "_DENSE", dense)
        patch.setattr(kbest, "_ROWS_AT_ONCE", rows)
        found = kbest.best_paths(
            case.graph(), begin, case.links(END), k, combine=combine, neutral=neutral, sign=sign, max_edges=max_edges
        )

    every = walks(case.edges, case.start, END)
    truth = best(
        every,
        k,
        combine=lambda a, b: float(combine(a, b)),
        neutral=neutral,
        number=int,
        sign=sign,
        max_edges=max_edges,
    )
    assert [(one.score, (*one.nodes, END)) for one in found] == truth


def test_equal_scores_do_not_explode():
    layers, size = 30, 12
    edges = {
        (a, b): 1.0
        for at in range(layers - 1)
        for a in range(at * size, at * size + size)
        for b in range(a - a % size + size, a - a % size + 2 * size)
    }
    case = Case([size] * layers, edges | {((layers - 1) * size, END): 1.0}, 0)

    found = kbest.best_paths(case.graph(), 0, case.links(END), 50, combine=np.minimum, neutral=np.inf)

    assert len({one.nodes for one in found}) == 50
    assert {one.score for one in found} == {1.0}
    assert found == kbest.best_paths(case.graph(), 0, case.links(END), 100, combine=np.minimum, neutral=np.inf)[:50]


@settings(max_examples=150, deadline=None)
@given(case=cases(), max_edges=st.none() | st.integers(1, 6))
def test_the_total_is_the_sum_over_every_path(case: Case, max_edges: int | None):
    begin = case.links(START) if case.start == START else case.start

    signed, absolute = kbest.total(case.graph(), begin, case.links(END), max_edges)

    products = [
        math.prod(walk.weights)
        for walk in walks(case.edges, case.start, END)
        if max_edges is None or len(walk.weights) <= max_edges
    ]
    assert signed == pytest.approx(sum(products), rel=1e-9, abs=1e-9)
    assert absolute == pytest.approx(sum(map(abs, products)), rel=1e-9, abs=1e-9)
