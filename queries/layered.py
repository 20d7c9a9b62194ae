"""A graph of layers as flat arrays: what the path search runs over.

Connections lead from a layer to any later one, so a path visits a layer once at most. That makes conditions cheap: to
pass through a node is to pass no other node of its layer and to take no connection across that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

START = -1
"""Stands for a start that is no node of the graph, such as a token."""


@dataclass(frozen=True)
class Links:
    """Connections that begin or end at one place: node numbers ascending, strengths, and which are negative."""

    node: np.ndarray
    """int [n]; the same more than once where several connections lead there"""
    strength: np.ndarray
    """float64 [n], not negative; 0 is no connection"""
    negative: np.ndarray
    """bool [n]"""


@dataclass(frozen=True)
class Graph:
    """Connections into each node, by rows. Nodes are numbered layer by layer; sources of a row ascend."""

    offsets: np.ndarray
    """int64 [n_nodes + 1]"""
    source: np.ndarray
    """int32 [n_edges]"""
    strength: Callable[[slice | np.ndarray], np.ndarray]
    """of some edges: float64, not negative; 0 is no connection"""
    negative: Callable[[slice | np.ndarray], np.ndarray]
    """of some edges: bool"""
    first: Sequence[int]
    """number of the first node of each layer, and the number of nodes"""
    inner: np.ndarray | None = None
    """bool [n_nodes]: which may have something behind them on a path; None for all"""
    nearest: Sequence[int] | None = None
    """for each layer, the first node that an edge into it may come from; None for any"""

    def row(self, node: int) -> Links:
        """What leads into one node."""
        span = slice(int(self.offsets[node]), int(self.offsets[node + 1]))
        source = self.source[span]
        return Links(source, self.permitted(source, self.strength(span), self.layer_of(node)), self.negative(span))

    def permitted(self, source: np.ndarray, strength: np.ndarray, layer: int) -> np.ndarray:
        """Strengths of edges into one layer, 0 where a condition forbids the edge."""
        if self.inner is not None:
            strength = np.where(self.inner.take(source, mode="clip"), strength, 0)
        if self.nearest is not None and self.nearest[layer]:
            strength = np.where(source >= self.nearest[layer], strength, 0)
        return strength

    def edges_of(self, nodes: np.ndarray) -> np.ndarray:
        """Positions of the edges into some nodes, row after row; int64."""
        begins = self.offsets[nodes]
        counts = self.offsets[nodes + 1] - begins
        ends = np.cumsum(counts)
        return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(begins - (ends - counts), counts)

    def layer_of(self, node: int) -> int:
        return int(np.searchsorted(self.first, node, side="right")) - 1
