"""Sums over positions, for a block of features: what each does, with which tokens and which earlier features.

A row is one feature, the target of its edges; the columns of its pair sums are all features of earlier layers, of its
token sums the vocabulary. Only pairs that fire together are visited; what they add is kept dense, so a block's memory
is fixed before the text is read (:meth:`Shape.row_bytes`) and does not grow with it. Counts are int64, sums float64.
A row sees positions in the order of the text whatever the batches and threads, so any division gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from ingest.evidence.capture import Batch

BINS = 512
"""of the histogram: sixteen to an octave, from 2**-16 to 2**16"""
BEFORE, AFTER = 24, 8
"""positions of an example's own activations that are kept"""
_WIDTH = BEFORE + 1 + AFTER
_LOWEST = (127 - 16) << 4


@dataclass(frozen=True)
class Shape:
    """What decides how large a row is."""

    first: Int[np.ndarray, " n_layers_plus_1"]
    """first row of each layer"""
    n_vocab: int
    n_examples: int
    """of each kind: the strongest, and a sample"""

    @property
    def n_features(self) -> int:
        return int(self.first[-1])

    def sources(self, row: int) -> int:
        """How many features lie in layers before that of ``row``."""
        return int(self.first[np.searchsorted(self.first, row, side="right") - 1])

    def row_bytes(self, row: int) -> int:
        """Memory of one row."""
        return self.sources(row) * 24 + self.n_vocab * 16 + BINS * 8 + 2 * self.n_examples * (24 + 4 * _WIDTH)

    def blocks(self, memory: int) -> list[range]:
        """All rows in blocks of at most ``memory`` bytes, and of one row at least."""
        sizes = np.concatenate(
            [
                np.full(int(end - start), self.row_bytes(int(start)), np.int64)
                for start, end in zip(self.first[:-1], self.first[1:], strict=True)
            ]
        )
        found, start, used = [], 0, 0
        for row, size in enumerate(sizes.tolist()):
            if used + size > memory and row > start:
                found.append(range(start, row))
                start, used = row, 0
            used += size
        return [*found, range(start, len(sizes))]


class Sums:
    """The sums of one block. Everything is in :attr:`arrays`, so a block is saved and restored as it is."""

    def __init__(self, shape: Shape, rows: range) -> None:
        self.shape, self.rows = shape, rows
        sources = np.array([shape.sources(row) for row in rows], np.int64)
        self.n_sources = sources
        self.offset: Int[np.ndarray, " n_rows"] = np.concatenate([[0], np.cumsum(sources)])[:-1]
        """where each row's pair sums begin"""
        n, pairs, k = len(rows), int(sources.sum()), shape.n_examples
        self.arrays: dict[str, np.ndarray] = {
            "n": np.zeros(n, np.int64),
            "sum": np.zeros(n),
            "square": np.zeros(n),
            "max": np.zeros(n, np.float32),
            "histogram": np.zeros((n, BINS), np.int64),
            "token_n": np.zeros((n, shape.n_vocab), np.int64),
            "token_sum": np.zeros((n, shape.n_vocab)),
            "pair_n": np.zeros(pairs, np.int64),
            "pair_source": np.zeros(pairs),  # sum of the source's activation where the target is active
            "pair_product": np.zeros(pairs),
            "top_value": np.zeros((n, k), np.float32),
            "top_window": np.full((n, k), -1, np.int64),
            "top_position": np.zeros((n, k), np.int32),
            "top_around": np.zeros((n, k, _WIDTH), np.float32),
            "some_value": np.zeros((n, k), np.float32),
            "some_window": np.full((n, k), -1, np.int64),
            "some_position": np.zeros((n, k), np.int32),
            "some_around": np.zeros((n, k, _WIDTH), np.float32),
            "some_rank": np.full((n, k), np.iinfo(np.uint64).max, np.uint64),
        }

    def add(self, batch: Batch) -> None:
        """Count some positions; windows must be whole, and come in the order of the text."""
        n_positions = len(batch.token)
        shape = (n_positions, self.shape.n_features)
        by_feature = csr_array((batch.value, batch.feature, batch.start), shape=shape).tocsc()
        a = self.arrays
        start, position, value = by_feature.indptr.astype(np.int64), by_feature.indices, by_feature.data
        row0 = self.rows.start
        order = np.concatenate([np.arange(i, len(self.rows), 64) for i in range(64)])  # every thread meets every layer
        _singles(
            order, row0, start, position, value, value.view(np.int32), batch.token, a["n"], a["sum"], a["square"],
            a["max"], a["histogram"], a["token_n"], a["token_sum"],
        )  # fmt: skip
        _pairs(
            order, row0, start, position, value, batch.start, batch.feature, batch.value, self.offset, self.n_sources,
            a["pair_n"], a["pair_source"], a["pair_product"],
        )  # fmt: skip
        _examples(
            order, row0, start, position, value, batch.window, batch.position, a["top_value"], a["top_window"],
            a["top_position"], a["top_around"], a["some_value"], a["some_window"], a["some_position"],
            a["some_around"], a["some_rank"],
        )  # fmt: skip

    def pairs(self, source: Int[np.ndarray, " n"], target: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
        """``n_both``, sum of the source where the target fires, sum of the product, for pairs of row numbers."""
        at = self.offset[target - self.rows.start] + source
        return tuple(self.arrays[name][at] for name in ("pair_n", "pair_source", "pair_product"))

    def products(self, row: int) -> Float[np.ndarray, " n_sources"]:
        """Sum of the product of activations with every earlier feature, for one row."""
        start = int(self.offset[row - self.rows.start])
        return self.arrays["pair_product"][start : start + int(self.n_sources[row - self.rows.start])]


def edges_of_bins() -> Float[np.ndarray, " n_bins_plus_1"]:
    """Activations at which the histogram's bins begin and end."""
    bits = (np.arange(BINS + 1, dtype=np.int32) + _LOWEST) << 19
    return bits.view(np.float32).astype(np.float64)


@numba.njit(parallel=True, cache=True)
def _singles(
    order, row0, start, position, value, bits, token, n, total, square, largest, histogram, token_n, token_sum
):
    for k in numba.prange(len(order)):
        row = order[k]
        for i in range(start[row0 + row], start[row0 + row + 1]):
            v = value[i]
            wide = np.float64(v)
            n[row] += 1
            total[row] += wide
            square[row] += wide * wide
            largest[row] = max(largest[row], v)
            histogram[row, min(max((bits[i] >> 19) - _LOWEST, 0), BINS - 1)] += 1
            token_n[row, token[position[i]]] += 1
            token_sum[row, token[position[i]]] += wide


@numba.njit(parallel=True, cache=True)
def _pairs(
    order, row0, start, position, value, at_start, at_feature, at_value, offset, n_sources, pair_n, pair_source, product
):
    for k in numba.prange(len(order)):
        row = order[k]
        end, base = n_sources[row], offset[row]
        if end == 0:
            continue
        for i in range(start[row0 + row], start[row0 + row + 1]):
            here, v = position[i], np.float64(value[i])
            for j in range(at_start[here], at_start[here + 1]):
                source = at_feature[j]
                if source >= end:
                    break
                other = np.float64(at_value[j])
                pair_n[base + source] += 1
                pair_source[base + source] += other
                product[base + source] += other * v


@numba.njit(parallel=True, cache=True)
def _examples(
    order, row0, start, position, value, window, within, top_value, top_window, top_position, top_around, some_value,
    some_window, some_position, some_around, some_rank,
):  # fmt: skip
    """The strongest firings, one a window, and a uniform sample of all: those whose hashed place ranks lowest."""
    count = top_value.shape[1]
    for k in numba.prange(len(order)):
        row = order[k]
        first, last = start[row0 + row], start[row0 + row + 1]
        i = first
        while i < last:
            here = window[position[i]]
            best, behind = i, i
            while behind < last and window[position[behind]] == here:
                if value[behind] > value[best]:
                    best = behind
                place = np.uint64(here) << np.uint64(20) | np.uint64(within[position[behind]])
                rank = _hash(place ^ np.uint64(row0 + row) << np.uint64(40))
                if rank < some_rank[row, count - 1]:
                    slot = count - 1
                    while slot > 0 and some_rank[row, slot - 1] > rank:
                        slot -= 1
                    _shift(some_value[row], some_window[row], some_position[row], some_around[row], slot)
                    for other in range(count - 1, slot, -1):
                        some_rank[row, other] = some_rank[row, other - 1]
                    some_rank[row, slot] = rank
                    some_value[row, slot], some_window[row, slot] = value[behind], here
                    some_position[row, slot] = within[position[behind]]
                    _around(first, last, behind, position, value, window, within, some_around[row, slot])
                behind += 1
            # An earlier window wins a tie, and windows come in order: only a larger value moves in.
            if value[best] > top_value[row, count - 1]:
                slot = count - 1
                while slot > 0 and top_value[row, slot - 1] < value[best]:
                    slot -= 1
                _shift(top_value[row], top_window[row], top_position[row], top_around[row], slot)
                top_value[row, slot], top_window[row, slot] = value[best], here
                top_position[row, slot] = within[position[best]]
                _around(first, last, best, position, value, window, within, top_around[row, slot])
            i = behind


@numba.njit(cache=True)
def _hash(x):
    """Stafford's mix 13 (https://zimbry.blogspot.com/2011/09/better-bit-mixing-improving-on.html)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True)
def _shift(values, windows, positions, around, slot):
    for other in range(len(values) - 1, slot, -1):
        values[other], windows[other], positions[other] = values[other - 1], windows[other - 1], positions[other - 1]
        around[other] = around[other - 1]


@numba.njit(cache=True)
def _around(first, last, i, position, value, window, within, found):
    """The feature's own activations from BEFORE positions before firing i to AFTER behind it, within its window."""
    found[:] = 0
    here, centre = window[position[i]], within[position[i]]
    j = i
    while j >= first and window[position[j]] == here and centre - within[position[j]] <= BEFORE:
        found[BEFORE + within[position[j]] - centre] = value[j]
        j -= 1
    j = i + 1
    while j < last and window[position[j]] == here and within[position[j]] - centre <= AFTER:
        found[BEFORE + within[position[j]] - centre] = value[j]
        j += 1
