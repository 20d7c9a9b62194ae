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
"""sums that run side by side in a dot product; :func:`fold` is written for as many"""


@njit(nogil=True, cache=True)
def add_products(a, b, lanes):
    for k in range(lanes.shape[0]):
        lanes[k] += np.float64(a[k]) * np.float64(b[k])


@njit(nogil=True, cache=True)
def add_thrice(a, b, lanes):
    """The same for three stretches, one after the other: lanes are fetched once for all three."""
    n = lanes.shape[0]
    a0, a1, a2 = a[:n], a[n : 2 * n], a[2 * n : 3 * n]
    b0, b1, b2 = b[:n], b[n : 2 * n], b[2 * n : 3 * n]
    for k in range(n):
        first = lanes[k] + np.float64(a0[k]) * np.float64(b0[k])
        lanes[k] = first + np.float64(a1[k]) * np.float64(b1[k]) + np.float64(a2[k]) * np.float64(b2[k])


@njit(nogil=True, cache=True)
def fold(m):
    """Add lanes by halves: 64 to 64, 32 to 32, and so on."""
    for k in range(16):
        low, high = (m[k] + m[k + 64]) + (m[k + 32] + m[k + 96]), (m[k + 16] + m[k + 80]) + (m[k + 48] + m[k + 112])
        m[k] = low + high
    a, b = (m[0] + m[8]) + (m[4] + m[12]), (m[1] + m[9]) + (m[5] + m[13])
    c, d = (m[2] + m[10]) + (m[6] + m[14]), (m[3] + m[11]) + (m[7] + m[15])
    return (a + c) + (b + d)


@njit(nogil=True, cache=True)
def dot(a, b, lanes):
    """Sum of a[k] * b[k], float64: product k goes to lane k modulo :data:`LANES`, lanes are added by halves."""
    d = a.shape[0]
    lanes[:] = 0
    k = 0
    while k + 3 * LANES <= d:
        add_thrice(a[k : k + 3 * LANES], b[k : k + 3 * LANES], lanes)
        k += 3 * LANES
    while k + LANES <= d:
        add_products(a[k : k + LANES], b[k : k + LANES], lanes)
        k += LANES
    if k < d:
        add_products(a[k:], b[k:], lanes[: d - k])
    return fold(lanes)


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
