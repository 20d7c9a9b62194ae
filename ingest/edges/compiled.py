"""Scanning tiles on the CPU: a matrix product of one thread a tile, then one compiled comparison of each product.

Tiles are done in any order by as many threads as there are. A tile holds the locks of its rows' and its columns'
reservoirs while it compares, a hundredth of the time its product takes. Sums are kept by tile and added in one order at
the end.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from ingest.edges.multiply import By, quicker
from ingest.edges.pool import Pool
from ingest.edges.sweep import ABS, NEG, POS, Z, empty_reservoirs, settle_reservoirs, sweep, warm_cols, warm_rows
from ingest.edges.tiles import SLACK, Floors, Product, Proposed, Wanted

TILE = (1024, 2048)
STRIP = 8
"""tiles side by side that are worked through together, for each thread: what is laid out for them need not wait long"""
_KINDS = {"abs": ABS, "pos": POS, "neg": NEG, "z": Z}


class Side:
    """Reservoirs of all rows, or of all columns; a column always has the orders abs and z, wanted or not."""

    def __init__(self, side: str, norm: np.ndarray, orders: list[tuple[str, int]], floors: Floors) -> None:
        counts = np.array([count for _, count in orders], np.int64)
        n, room = len(norm), np.where(counts > 0, 2 * counts + 16, 0)
        reach = np.full((len(orders), n), np.inf, np.float32)
        for o, (order, count) in enumerate(orders):
            if count:
                floor = floors.of(side, order)
                reach[o] = np.where(norm > 0, 0 if floor is None else floor, np.inf)
        self.dense, self.counts = np.zeros(n, np.bool_), np.zeros((len(orders), n), np.int32)
        size = n * (counts + 2 * room)
        held = np.zeros(int(size.sum()), np.int32)  # places, and bounds as float32 in the same memory
        self.state = (
            np.array([_KINDS[order] for order, _ in orders], np.int64),
            counts,
            room,
            np.cumsum(size) - size,
            held,
            held.view(np.float32),
            self.counts,
            reach,
            self.dense,
        )

    def pairs(self, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Own numbers and the other side's, of everything that may be wanted."""
        pool.map(lambda span: settle_reservoirs(self.state, *span), pool.spans(len(self.dense), 64))
        own, other = (np.empty(int(self.counts.sum()), np.int32) for _ in range(2))
        empty_reservoirs(self.state, own, other)
        return own, other


def propose(product: Product, wanted: Wanted, floors: Floors, pool: Pool, tile: tuple[int, int]) -> Proposed:
    """Every pair that may be wanted."""
    n_rows, n_cols = len(product.rows), len(product.cols)
    by_row = Side("row", product.row_norm, wanted.row_orders, floors)
    by_col = Side("col", product.col_norm, [("abs", wanted.col_abs), ("z", wanted.col_z)], floors)
    vectors = tuple(
        np.ascontiguousarray(column, np.float32)
        for column in (product.row_norm, product.col_norm, product.mean, product.std, product.inverse)
    )
    least_z = np.inf if wanted.min_z is None else wanted.min_z
    numbers = tuple(np.float32(number) for number in (product.kappa, product.tiny, SLACK, least_z))
    row_starts, col_starts = range(0, n_rows, tile[0]), range(0, n_cols, tile[1])
    row_locks, col_locks = ([threading.Lock() for _ in starts] for starts in (row_starts, col_starts))
    row_sums, col_sums = np.zeros((len(col_starts), n_rows)), np.zeros((len(row_starts), n_cols))
    own = threading.local()
    room = tile[0] * tile[1]
    seen_rows: set[int] = set()
    seen_cols: set[int] = set()
    extra: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    way = quicker(n_rows * n_cols, product.rows.shape[1])
    by: dict[int, By] = {}
    left = [len(row_starts)] * len(col_starts)

    def one(place: tuple[int, int]) -> None:
        if not hasattr(own, "tile"):
            own.tile = torch.empty(min(tile[0], n_rows) * min(tile[1], n_cols))
            own.pairs = [np.empty(room if wanted.min_z is not None else 0, np.int32) for _ in range(2)]
        i, j = place
        rows = slice(row_starts[i], min(row_starts[i] + tile[0], n_rows))
        cols = slice(col_starts[j], min(col_starts[j] + tile[1], n_cols))
        with col_locks[j]:
            if j not in by:
                by[j] = way(product.cols[cols])
        x = by[j](product.rows[rows], own.tile[: (rows.stop - rows.start) * (cols.stop - cols.start)]).numpy()
        sums = row_sums[j, rows], col_sums[i, cols]
        with row_locks[i], col_locks[j]:
            left[j] -= 1
            if not left[j]:
                del by[j]
            if i not in seen_rows:
                seen_rows.add(i)
                warm_rows(x, rows.start, cols.start, vectors, numbers, by_row.state)
            if j not in seen_cols:
                seen_cols.add(j)
                warm_cols(x, rows.start, cols.start, vectors, numbers, by_col.state)
            n = sweep(x, rows.start, cols.start, vectors, numbers, by_row.state, by_col.state, *sums, *own.pairs)
        if n:
            extra[place] = (own.pairs[0][:n].copy(), own.pairs[1][:n].copy())

    pool.map(one, _order(len(row_starts), len(col_starts), STRIP * pool.threads))
    row, col_of_row = by_row.pairs(pool)
    col, row_of_col = by_col.pairs(pool)
    return Proposed(
        row=np.concatenate([row, row_of_col, *(found[0] for found in extra.values())]),
        col=np.concatenate([col_of_row, col, *(found[1] for found in extra.values())]),
        dense_rows=np.flatnonzero(by_row.dense).astype(np.int32),
        dense_cols=np.flatnonzero(by_col.dense).astype(np.int32),
        row_l1=row_sums.sum(axis=0),
        col_l1=col_sums.sum(axis=0),
    )


def _order(n_rows: int, n_cols: int, width: int) -> list[tuple[int, int]]:
    """All tiles, strip by strip, neighbours in the list sharing neither rows nor columns where that can be."""
    strips = [range(first, min(first + width, n_cols)) for first in range(0, n_cols, width)]
    return [
        (i, strip[(i + shift) % len(strip)]) for strip in strips for shift in range(len(strip)) for i in range(n_rows)
    ]
