"""Compiled loops that every device's path ends in: exact weights, order of pairs, the strongest of each group.

A weight is defined once, here (:func:`dot`): the products of the two vectors' entries, which float64 holds exactly,
added in a fixed order and rounded to float32. Whichever tile, thread or device proposed a pair, its weight has these
bits.

All loops run without the interpreter's lock. numba compiles them when they are first called and keeps the result beside
this file; what one kernel calls stands in this module too, since that cache does not see a change in another file.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LANES = 128
"""sums that run side by side in a dot product"""


@njit(nogil=True, cache=True)
def add_products(a, b, lanes):
    for k in range(lanes.shape[0]):
        lanes[k] += np.float64(a[k]) * np.float64(b[k])


@njit(nogil=True, cache=True)
def fold(upper, lower):
    for k in range(lower.shape[0]):
        lower[k] += upper[k]


@njit(nogil=True, cache=True)
def dot(a, b, lanes):
    """Sum of a[k] * b[k], float64: product k goes to lane k modulo :data:`LANES`, lanes are added by halves."""
    d = a.shape[0]
    lanes[:] = 0
    for k in range(0, d - LANES + 1, LANES):
        add_products(a[k : k + LANES], b[k : k + LANES], lanes)
    k = d - d % LANES
    if k < d:
        add_products(a[k:], b[k:], lanes[: d - k])
    half = LANES
    while half > 1:
        half //= 2
        fold(lanes[half : 2 * half], lanes[:half])
    return lanes[0]


@njit(nogil=True, cache=True)
def weigh(rows, cols, ptr, col, first, last, weight):
    """The exact weights of all pairs of rows ``first`` to ``last``; pairs lie as :func:`sort_pairs` leaves them.

    They are visited column by column: columns come in the order of memory, the few rows stay in the cache.
    """
    lanes = np.empty(LANES, np.float64)
    start = np.zeros(cols.shape[0] + 1, np.int64)
    for p in range(ptr[first], ptr[last]):
        start[col[p] + 1] += 1
    for c in range(cols.shape[0]):
        start[c + 1] += start[c]
    row = np.empty(ptr[last] - ptr[first], np.int64)
    place = np.empty(ptr[last] - ptr[first], np.int64)
    for r in range(first, last):
        for p in range(ptr[r], ptr[r + 1]):
            q = start[col[p]]
            row[q], place[q] = r, p
            start[col[p]] += 1
    for q in range(row.shape[0]):
        weight[place[q]] = np.float32(dot(rows[row[q]], cols[col[place[q]]], lanes))


@njit(nogil=True, cache=True)
def dense(row, cols, weight):
    """The exact weights of one row with every column, float64."""
    lanes = np.empty(LANES, np.float64)
    for c in range(cols.shape[0]):
        weight[c] = dot(row, cols[c], lanes)


@njit(nogil=True, cache=True)
def sort_pairs(row, col, n_rows):
    """Order pairs by (row, col) and drop repeats: ``ptr`` [n_rows + 1] and the columns of each row in turn."""
    start = np.zeros(n_rows + 1, np.int64)
    for p in range(row.shape[0]):
        start[row[p] + 1] += 1
    for r in range(n_rows):
        start[r + 1] += start[r]
    place = start[:-1].copy()
    found = np.empty(col.shape[0], np.int32)
    for p in range(row.shape[0]):
        found[place[row[p]]] = col[p]
        place[row[p]] += 1
    ptr = np.zeros(n_rows + 1, np.int64)
    n = 0
    for r in range(n_rows):
        group = np.sort(found[start[r] : start[r + 1]])
        for k in range(group.shape[0]):
            if k == 0 or group[k] != group[k - 1]:
                found[n] = group[k]
                n += 1
        ptr[r + 1] = n
    return ptr, found[:n].copy()


@njit(nogil=True, cache=True)
def drop_zeros(ptr, col, weight):
    """Take out pairs whose weight is exactly zero."""
    kept = np.zeros_like(ptr)
    n = 0
    for r in range(ptr.shape[0] - 1):
        for p in range(ptr[r], ptr[r + 1]):
            if weight[p] != 0:
                col[n] = col[p]
                weight[n] = weight[p]
                n += 1
        kept[r + 1] = n
    return kept, col[:n].copy(), weight[:n].copy()


@njit(nogil=True, cache=True)
def by_group(group, n_groups):
    """Positions of each group's members, in their present order: ``ptr`` [n_groups + 1] and positions."""
    ptr = np.zeros(n_groups + 1, np.int64)
    for p in range(group.shape[0]):
        ptr[group[p] + 1] += 1
    for g in range(n_groups):
        ptr[g + 1] += ptr[g]
    place = ptr[:-1].copy()
    member = np.empty(group.shape[0], np.int64)
    for p in range(group.shape[0]):
        member[place[group[p]]] = p
        place[group[p]] += 1
    return ptr, member


@njit(nogil=True, cache=True)
def strongest(ptr, member, score, n, keep, cut):
    """Mark the ``n`` largest positive scores of each group, the first member winning a tie.

    ``member`` lists positions group by group; ``keep`` [n_pairs] is set where a pair is among them, ``cut`` [n_groups]
    becomes the largest score that is not (0 where there is none).
    """
    best = np.empty(n + 1, score.dtype)
    where = np.empty(n + 1, np.int64)
    for g in range(ptr.shape[0] - 1):
        m = 0
        for q in range(ptr[g], ptr[g + 1]):
            s = score[member[q]]
            if s > 0 and (m <= n or s > best[n]):
                k = min(m, n)
                while k > 0 and best[k - 1] < s:
                    best[k] = best[k - 1]
                    where[k] = where[k - 1]
                    k -= 1
                best[k] = s
                where[k] = member[q]
                m = min(m + 1, n + 1)
        for k in range(min(m, n)):
            keep[where[k]] = True
        cut[g] = best[n] if m == n + 1 else 0
