"""Every path of a small graph, one by one: the slow and obvious way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Walk(Generic[T]):
    nodes: tuple[T, ...]
    weights: tuple[float, ...]

    @property
    def sign(self) -> int:
        return math.prod(1 if weight > 0 else -1 for weight in self.weights)


def walks(edges: Mapping[tuple[T, T], float], start: T, end: T | None = None) -> Iterator[Walk[T]]:
    """All paths from start to end, or to anywhere, in a graph without cycles."""
    leaving: dict[T, list[tuple[T, float]]] = {}
    for (source, target), weight in edges.items():
        leaving.setdefault(source, []).append((target, weight))

    def onward(walk: Walk[T]) -> Iterator[Walk[T]]:
        if walk.weights and end in (None, walk.nodes[-1]):
            yield walk
        if end is None or walk.nodes[-1] != end or not walk.weights:
            for target, weight in leaving.get(walk.nodes[-1], []):
                yield from onward(Walk((*walk.nodes, target), (*walk.weights, weight)))

    yield from onward(Walk((start,), ()))


def best(
    found: Iterator[Walk[T]],
    k: int,
    *,
    combine: Callable[[float, float], float],
    neutral: float,
    number: Callable[[T], int],
    sign: int = 0,
    max_edges: int | None = None,
) -> list[tuple[float, tuple[T, ...]]]:
    """The k best by score; equal scores by the last node before the end, then by the score up to it, and so on back.

    With a limit on the edges, fewer edges go before more among equals.
    """
    ranked = []
    for walk in found:
        scores = [neutral]
        for weight in walk.weights:
            scores.append(combine(scores[-1], abs(weight)))
        if scores[-1] <= 0 or (sign and walk.sign != sign) or (max_edges and len(walk.weights) > max_edges):
            continue
        order: list[float] = []
        for place in range(len(walk.weights) - 1, -1, -1):
            order += [-scores[place + 1], number(walk.nodes[place]), place if max_edges else 0]
        ranked.append((order, scores[-1], walk.nodes))
    ranked.sort(key=lambda row: row[0])
    return [(score, nodes) for _, score, nodes in ranked[:k]]
