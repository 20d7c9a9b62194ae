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
is as likely as any other. Corners are told apart by a hash that is drawn anew in each round: two that fall together are
taken for one and stay where they are, which is as likely forth as back too.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

ROUNDS = 5
"""Each connection is offered about 3/4 of these swaps, so nearly all have moved between two samples."""
_PLACES = 8
"""Places of the hash for each corner."""
_TAKES_PART = 0.75
"""Not all pairs swap at once, or in a small dense group none ever could."""


def rewire(
    source: np.ndarray, target: np.ndarray, groups: np.ndarray, rng: np.random.Generator, rounds: int = ROUNDS
) -> float:
    """Shuffle ``target`` in place; returns the part of the swaps that were made of those offered.

    ``source``, ``target``: whole numbers from 0, by connection, int32 [n]; no connection is in the graph twice.
    ``groups``: where each group of connections begins, and where the last one ends. They come in twos, such as positive
    and negative, that join the same nodes: what one of the two has, the other must not make.
    Memory: about 150 B for each connection of the largest two.
    """
    made = offered = 0
    width = int(target.max(initial=0)) + 1
    spans = [slice(*ends) for ends in pairwise(groups.tolist())]
    for _ in range(rounds):
        for at, span in enumerate(spans):
            if span.stop - span.start > 1:
                beside = spans[at ^ 1]
                taken = source[beside].astype(np.int64) * width + target[beside]
                swaps, pairs = _round(source[span], target[span], taken, width, rng)
                made, offered = made + swaps, offered + pairs
    return made / offered if offered else 0.0


def _round(
    source: np.ndarray, target: np.ndarray, taken: np.ndarray, width: int, rng: np.random.Generator
) -> tuple[int, int]:
    """One round within a group; ``taken`` are the cells of the other group that joins the same nodes."""
    n, half = len(source), len(source) // 2
    order = rng.permutation(n)
    taking = rng.random(half) < _TAKES_PART
    one, other = order[:half][taking], order[half : 2 * half][taking]
    base = source.astype(np.int64) * width
    cells = np.concatenate([base + target, base[one] + target[other], base[other] + target[one], taken])
    meets = _meets(cells, rng)
    free = ~(meets[one] | meets[other] | meets[n : n + len(one)] | meets[n + len(one) : n + 2 * len(one)])
    first, second = one[free], other[free]
    target[first], target[second] = target[second], target[first]
    return len(first), half


def _meets(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which cells fall into one place with another, by a random hash: multiply and shift (Dietzfelbinger et al. 1997,
    https://doi.org/10.1006/jagm.1997.0873)."""
    bits = max(4, int(len(cells) * _PLACES - 1).bit_length())
    factor = rng.integers(0, 1 << 63, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    place = (cells.astype(np.uint64) * factor >> np.uint64(64 - bits)).astype(np.int64)
    last = np.empty(1 << bits, np.int32)
    number = np.arange(len(cells), dtype=np.int32)
    last[place] = number
    crowded = np.zeros(1 << bits, bool)
    crowded[place[last[place] != number]] = True
    return crowded[place]
