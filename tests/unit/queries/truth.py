"""What is true of a toy atlas, kept or not, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tests.toy import N_TOKENS, Toy
from tests.toy_weights import WeightedRow, Weights


@dataclass(frozen=True)
class Edge:
    """A connection as one of its ends sees it: the node at the other end, and the numbers on it."""

    key: str
    type: str
    layer: int | None
    weight: float
    z: float
    share: float

    def size(self, by: str) -> float:
        return abs(getattr(self, by))


@dataclass(frozen=True)
class Truth:
    """All connections of a toy before anything was cut, and those that are kept."""

    toy: Toy
    seed: int
    density: float
    n_tokens: int = N_TOKENS

    @cached_property
    def all_edges(self) -> dict[str, list[tuple[str, str, float, float, float]]]:
        weights = Weights(np.random.default_rng(self.seed), self.toy.sizes, self.n_tokens, self.density)
        weights.keeps_activates = weights.activates != 0
        weights.keeps_feeds = weights.feeds != 0
        weights.keeps_promotes = weights.promotes != 0
        ends = {"ACTIVATES": ("Token", "Feature"), "FEEDS": ("Feature", "Feature"), "PROMOTES": ("Feature", "Token")}
        return {kind: [self._keyed(row, *ends[kind]) for row in rows] for kind, rows in weights.edges.items()}

    def _keyed(self, row: WeightedRow, source: str, target: str) -> tuple[str, str, float, float, float]:
        a, b, *numbers = row
        return self._keys[source][a], self._keys[target][b], *numbers  # type: ignore[return-value]

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        return {label: self.toy.keys(label) for label in ("Token", "Feature")}

    def inputs(self, key: str, *, kept: bool) -> list[Edge]:
        return self._ends(key, 1, 0, kept)

    def outputs(self, key: str, *, kept: bool) -> list[Edge]:
        return self._ends(key, 0, 1, kept)

    def _ends(self, key: str, here: int, there: int, kept: bool) -> list[Edge]:
        edges = self.toy.edges if kept else self.all_edges
        return [_edge(row[there], *row[2:]) for rows in edges.values() for row in rows if row[here] == key]


def _edge(key: str, weight: float, z: float, share: float) -> Edge:
    token = key.startswith("tok:")
    return Edge(key, "Token" if token else "Feature", None if token else layer_of(key), weight, z, share)


def layer_of(key: str) -> int:
    return int(key.split("/")[1].split("-")[0])


def strongest(edges: list[Edge], by: str, k: int) -> list[Edge]:
    return sorted(edges, key=lambda edge: (-edge.size(by), edge.key))[:k]
