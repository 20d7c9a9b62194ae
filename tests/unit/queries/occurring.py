"""Every instance of a shape in a small graph, one by one: the slow and obvious way."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from queries import shapes

Edges = dict[tuple[int, int], float]


@dataclass(frozen=True)
class Case:
    sizes: list[int]
    edges: Edges
    """signed strengths by source and target; a source has the lower number"""

    @property
    def n(self) -> int:
        return sum(self.sizes)

    def links(self) -> tuple[shapes.Links, np.ndarray]:
        ordered = sorted(self.edges, key=lambda ends: (ends[1], ends[0]))
        source, target = (np.array([ends[at] for ends in ordered], np.int32) for at in (0, 1))
        weights = np.array([self.edges[ends] for ends in ordered], np.float64)
        return shapes.Links(source, target, weights < 0, self.n), np.abs(weights)


def occurrences(case: Case, shape: str) -> list[tuple[tuple[int, ...], tuple[tuple[int, int], ...]]]:
    """Every instance: features A, B, C (, D), and its connections in the order in which they are listed."""
    e = case.edges
    readers: dict[int, set[int]] = defaultdict(set)
    sources: dict[int, set[int]] = defaultdict(set)
    for a, b in e:
        readers[a].add(b)
        sources[b].add(a)
    joined = {
        "chain": [((a, b, c), ((a, b), (b, c))) for a, b in e for c in readers[b] if (a, c) not in e],
        "feed-forward-loop": [((a, b, c), ((a, b), (b, c), (a, c))) for a, b in e for c in readers[b] & readers[a]],
        "fan-in": [
            ((a, b, c), ((a, c), (b, c)))
            for c in list(sources)
            for a, b in combinations(sorted(sources[c]), 2)
            if (a, b) not in e
        ],
        "fan-out": [
            ((a, b, c), ((a, b), (a, c)))
            for a in list(readers)
            for b, c in combinations(sorted(readers[a]), 2)
            if (b, c) not in e
        ],
        "bi-fan": [
            ((a, b, c, d), ((a, c), (a, d), (b, c), (b, d)))
            for a, b in combinations(sorted(readers), 2)
            for c, d in combinations(sorted(readers[a] & readers[b]), 2)
        ],
    }
    return joined[shape]  # type: ignore[return-value]
