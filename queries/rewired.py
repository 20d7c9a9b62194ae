"""The same graph with its ends shuffled: what a count or a score is compared with.

Connections come in groups. In a group, pairs of connections swap their targets, ``a → b, c → d`` to ``a → d, c → b``,
and a swap that would make a connection twice is left out. So every node keeps the number of its connections in every
group and nothing else: with a group for each pair of layers and sign, its readers and sources in each layer, positive
and negative. Rewiring by swaps is that of Maslov and Sneppen 2002 (https://doi.org/10.1126/science.1065103), as
Milo et al. 2002 used it for motifs (https://doi.org/10.1126/science.298.5594.824).

A round pairs up all connections of a group at random and swaps all pairs at once that do not meddle with each other. Of
a pair, the two connections it has and the two it would have are the corners of a rectangle, and a swap leaves the
rectangle as it is. A pair swaps when no corner of its rectangle is a connection or a corner of anything else. That
depends on rectangles alone, so a swap is as likely as its way back, and in the long run every graph with these degrees
is as likely as any other.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

ROUNDS = 10
"""Each connection is offered about 3/4 of these swaps, so most have moved several times between two samples."""
_TAKES_PART = 0.75
"""Not all pairs swap at once, or in a small dense group none ever could."""


def rewire(
    source: np.ndarray, target: np.ndarray, groups: np.ndarray, rng: np.random.Generator, rounds: int = ROUNDS
) -> float:
    """Shuffle ``target`` in place; returns the part of the swaps that were made of those offered.

    ``source``, ``target``: whole numbers from 0, by connection, int32 [n]; no connection is in the graph twice.
    ``groups``: where each group of connections begins, and where the last one ends.
    Memory: about 60 B for each connection of the largest group.
    """
    made = offered = 0
    for begin, stop in pairwise(groups.tolist()):
        ends = target[begin:stop]
        for _ in range(rounds if stop - begin > 1 else 0):
            swaps, pairs = _round(source[begin:stop], ends, rng)
            made, offered = made + swaps, offered + pairs
    return made / offered if offered else 0.0


def _round(source: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    half = len(source) // 2
    order = rng.permutation(len(source))
    taking = rng.random(half) < _TAKES_PART
    one, other = order[:half][taking], order[half : 2 * half][taking]
    width = int(target.max()) + 1
    now = source.astype(np.int64) * width + target
    base = source.astype(np.int64) * width
    corners = base[one] + target[other], base[other] + target[one]
    met = _met_twice(np.concatenate([now, *corners]))
    free = ~np.logical_or.reduce([_among(cells, met) for cells in (*corners, now[one], now[other])])
    first, second = one[free], other[free]
    target[first], target[second] = target[second], target[first]
    return len(first), half


def _met_twice(cells: np.ndarray) -> np.ndarray:
    """Values that occur more than once, ascending."""
    cells.sort()
    return cells[1:][cells[1:] == cells[:-1]]


def _among(cells: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    if not len(ascending):
        return np.zeros(len(cells), bool)
    at = np.searchsorted(ascending, cells)
    return ascending[np.minimum(at, len(ascending) - 1)] == cells
