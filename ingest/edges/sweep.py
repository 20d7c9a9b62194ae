"""The compiled comparison: one look at every product of a tile, and reservoirs for what may be among the strongest.

A row (and a column, for each of its orders) holds a reservoir of candidates and a threshold: the k-th largest lower
bound seen so far, never above the k-th largest score of all. A product enters where its upper bound reaches the
threshold; a full reservoir is cut back to what still does. Score, lower and upper bound differ by the proven rounding
of the product, so nothing that belongs to the exact answer is lost, in whatever order tiles come.

Most products are only compared and added, in a loop that compiles to vector instructions (:func:`mark`). A row's or
column's first tile sets its threshold before anything enters: the k-th largest of the maxima of its parts is reached by
at least k products (:func:`warm_rows`, :func:`warm_cols`), which spares the many that would enter an empty reservoir
only to be thrown out. A reservoir that stays full holds ties beyond telling apart: its row (or column) becomes dense
and is settled exactly elsewhere.
"""

from __future__ import annotations

import numpy as np
from numba import njit

ABS, POS, NEG, Z = range(4)
SPANS = 128
"""parts of a row's or column's first tile whose maxima are taken"""
_STRIP = 32
"""rows whose column sums are added in float32 before they go to float64"""
_QUEUE = 1 << 14
"""candidates for columns that wait until there are as many, or the tile ends"""
_WIDE = np.float32(1 + 2.0**-18)
_NARROW = np.float32(1 - 2.0**-18)
_INFINITE = np.float32(np.inf)


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def mark(x, reach, grow, tiny, col_norm, col_abs, col_sum, flag):
    """Mark products of one row that may reach a threshold by weight; add sizes to ``col_sum``, return their sum."""
    total = np.float32(0)
    for c in range(x.shape[0]):
        size = abs(x[c])
        total += size
        col_sum[c] += size
        least = reach if reach < col_abs[c] else col_abs[c]
        flag[c] = size * _WIDE + (grow * col_norm[c] + tiny) >= least
    return total


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def mark_z(x, reach, reach_z, mean, scale, far, grow, tiny, col_norm, col_abs, col_z, col_sum, flag):
    """The same, also by abs(z), which is 2 in ``flag``: ``reach_z`` and ``scale`` turn thresholds into weights."""
    total = np.float32(0)
    for c in range(x.shape[0]):
        size, away = abs(x[c]), abs(x[c] - mean)
        total += size
        col_sum[c] += size
        rounding = grow * col_norm[c] + tiny
        least = reach if reach < col_abs[c] else col_abs[c]
        least_z = scale * col_z[c]
        least_z = reach_z if reach_z < least_z else least_z
        flag[c] = (size * _WIDE + rounding >= least) + 2 * (away * _WIDE + (rounding + far) >= least_z)
    return total


@njit(nogil=True, cache=True)
def bounds(kind, x, mean, inverse, rounding, slack):
    """Lower and upper bound of a product's score in one order; 0 below where its weight may be zero."""
    size = abs(x)
    margin = rounding + slack * size
    if kind == Z:
        z = abs(x - mean) * inverse
        wide = (rounding + slack * abs(mean)) * inverse + slack * z
        return (z - wide if size > margin else np.float32(0)), z + wide
    score = size if kind == ABS else (x if kind == POS else -x)
    return score - margin, score + margin


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def reached_by(values, k):
    """A number, not below zero, that at least ``k`` of the values reach, close to the largest such number.

    Halving without branches on data: an exact selection of so few costs more in mispredicted branches.
    """
    low, high = np.float32(0), np.float32(0)
    for v in values:
        high = v if v > high else high
    for _ in range(9):
        middle = np.float32(0.5) * (low + high)
        n = np.int32(0)
        for v in values:
            n += np.int32(v >= middle)
        low, high = (middle, high) if n >= k else (low, middle)
    return low


@njit(nogil=True, cache=True)
def enter(k, room, first, n, place, value, i, low, high, reach):
    """Take one candidate into a reservoir; returns how many it holds, -1 where they are too close to tell apart, and
    the threshold.

    A reservoir is the k largest lower bounds, falling, then its entries: the other side's number and the upper bound.
    """
    for p in range(first + k - 1, first, -1):
        value[p] = max(value[p], min(value[p - 1], low))
    value[first] = max(value[first], low)
    reach = max(reach, value[first + k - 1])
    entries = first + k
    place[entries + 2 * n] = i
    value[entries + 2 * n + 1] = high
    n += 1
    if n == room:
        n = prune(entries, n, place, value, reach)
        if 4 * n > 3 * room:
            return -1, _INFINITE
    return n, reach


@njit(nogil=True, cache=True)
def prune(entries, n, place, value, reach):
    """Drop entries whose upper bound does not reach the threshold; returns how many stay."""
    q = entries
    for p in range(entries, entries + 2 * n, 2):
        high = value[p + 1]
        place[q], value[q + 1] = place[p], high
        q += 2 * (high >= reach)
    return (q - entries) // 2


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def lower_bounds(kind, x, mean, inverse, grow, tiny, slack, col_norm, lower):
    """Lower bounds of one row's scores in one order, a little below those of :func:`bounds`."""
    narrow, far = np.float32(1) - 2 * slack, slack * abs(mean)
    if kind == ABS:
        for c in range(x.shape[0]):
            lower[c] = abs(x[c]) * narrow - (grow * col_norm[c] + tiny)
    elif kind == Z:
        for c in range(x.shape[0]):
            rounding = grow * col_norm[c] + tiny
            low = abs(x[c] - mean) * inverse * narrow - (rounding + far) * inverse
            lower[c] = low if abs(x[c]) * narrow > rounding else np.float32(0)
    else:
        sign = np.float32(1) if kind == POS else np.float32(-1)
        for c in range(x.shape[0]):
            lower[c] = sign * x[c] * narrow - (grow * col_norm[c] + tiny)


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def raise_to(best, lower):
    """The larger of each, in place."""
    for c in range(lower.shape[0]):
        best[c] = lower[c] if lower[c] > best[c] else best[c]


@njit(nogil=True, cache=True)
def warm_rows(x, first_row, first_col, vectors, numbers, rows):
    """Thresholds of rows from their first tile."""
    row_norm, col_norm, mean, _, inverse = vectors
    kappa, tiny, slack, _ = numbers
    kind, k, _, _, _, _, _, reach, _ = rows
    lower, best = np.empty(x.shape[1], np.float32), np.empty(SPANS, np.float32)
    here = col_norm[first_col : first_col + x.shape[1]]
    for i in range(x.shape[0]):
        r = first_row + i
        for o in range(kind.shape[0]):
            if k[o] <= SPANS and reach[o, r] < _INFINITE:
                lower_bounds(kind[o], x[i], mean[r], inverse[r], kappa * row_norm[r], tiny, slack, here, lower)
                best[:] = 0
                for c in range(0, lower.shape[0], SPANS):
                    raise_to(best, lower[c : c + SPANS])
                reach[o, r] = max(reach[o, r], reached_by(best, k[o]))


@njit(nogil=True, cache=True)
def warm_cols(x, first_row, first_col, vectors, numbers, cols):
    """Thresholds of columns from their first tile."""
    row_norm, col_norm, mean, _, inverse = vectors
    kappa, tiny, slack, _ = numbers
    kind, k, _, _, _, _, _, reach, _ = cols
    n_rows, n_cols = x.shape
    lower, scratch = np.empty(n_cols, np.float32), np.empty(SPANS, np.float32)
    here = col_norm[first_col : first_col + n_cols]
    for o in range(kind.shape[0]):
        if k[o] == 0 or k[o] > SPANS:
            continue
        best = np.zeros((SPANS, n_cols), np.float32)
        for i in range(n_rows):
            r = first_row + i
            lower_bounds(kind[o], x[i], mean[r], inverse[r], kappa * row_norm[r], tiny, slack, here, lower)
            raise_to(best[i % SPANS], lower)
        for c in range(n_cols):
            if reach[o, first_col + c] < _INFINITE:
                for s in range(SPANS):
                    scratch[s] = best[s, c]
                reach[o, first_col + c] = max(reach[o, first_col + c], reached_by(scratch, k[o]))


@njit(nogil=True, cache=True)
def drain(o, first_col, n, queue, scores, side, start, order):
    """Enter the queued candidates of one order into their columns' reservoirs, column by column.

    ``queue``: column within the tile, and row; ``scores``: lower and upper bounds. In order of columns a reservoir is
    fetched from memory once for all its candidates.
    """
    _, k, room, base, place, value, count, reach, dense = side
    start[:] = 0
    for q in range(n):
        start[queue[0, q] + 1] += 1
    for c in range(start.shape[0] - 1):
        start[c + 1] += start[c]
    for q in range(n):
        c = queue[0, q]
        order[start[c]] = q
        start[c] += 1
    for p in range(n):
        q = order[p]
        g = first_col + queue[0, q]
        if scores[1, q] >= reach[o, g]:
            first = base[o] + (k[o] + 2 * room[o]) * g
            low, high = scores[0, q], scores[1, q]
            m, least = enter(k[o], room[o], first, count[o, g], place, value, queue[1, q], low, high, reach[o, g])
            if m < 0:
                m, dense[g] = 0, True
            count[o, g], reach[o, g] = m, least


@njit(nogil=True, cache=True)
def sweep(x, first_row, first_col, vectors, numbers, rows, cols, row_sum, col_sum, out_row, out_col):
    """One tile. Returns how many pairs it wrote to ``out_row`` and ``out_col`` because of ``min_z``.

    ``vectors``: norms of rows and columns, mean, deviation and its inverse of rows, float32. ``numbers``: kappa, tiny,
    slack, min_z. ``rows`` and ``cols``: the orders' kinds, counts and capacities, then their reservoirs
    (:class:`ingest.edges.compiled.Side`).
    """
    row_norm, col_norms, mean, std, inverse = vectors
    kappa, tiny, slack, min_z = numbers
    row_kind, row_k, row_room, row_base, row_place, row_value, row_count, row_reach, row_dense = rows
    col_kind, col_k, _, _, _, _, _, col_reach, _ = cols
    n_rows, n_cols = x.shape
    span = slice(first_col, first_col + n_cols)
    col_norm, col_abs, col_z = col_norms[span], col_reach[0, span], col_reach[1, span]
    strip = np.zeros(n_cols, np.float32)
    words = np.zeros(-(-n_cols // 8), np.uint64)
    flag = words.view(np.uint8)
    width = 8 * words.shape[0] + 1
    marked = np.empty(words.shape[0] + 1, np.int64)
    hits = np.empty((2, width), np.int64)
    taken, lows, highs = np.empty(width, np.int64), np.empty(width, np.float32), np.empty(width, np.float32)
    queue, scores = np.empty((2, 2, _QUEUE + width), np.int32), np.empty((2, 2, _QUEUE + width), np.float32)
    queued, start = np.zeros(2, np.int64), np.empty(n_cols + 1, np.int64)
    order = np.empty(_QUEUE + width, np.int64)
    by_z = col_k[1] > 0 or min_z < _INFINITE
    by_weight = col_k[0] > 0
    for o in range(row_kind.shape[0]):
        by_z |= row_kind[o] == Z
        by_weight |= row_kind[o] != Z
    written = 0
    for here in range(n_rows):
        r = first_row + here
        line, m, inv, grow = x[here], mean[r], inverse[r], kappa * row_norm[r]
        reach, reach_z = _INFINITE, min_z
        for o in range(row_kind.shape[0]):
            if row_kind[o] == Z:
                reach_z = min(reach_z, row_reach[o, r])
            else:
                reach = min(reach, row_reach[o, r])
        if by_z and inv > 0:
            scale, far = std[r] * _NARROW, slack * abs(m)
            row_sum[here] = mark_z(
                line, reach, scale * reach_z, m, scale, far, grow, tiny, col_norm, col_abs, col_z, strip, flag
            )
        else:
            row_sum[here] = mark(line, reach, grow, tiny, col_norm, col_abs, strip, flag)
        if (here + 1) % _STRIP == 0 or here + 1 == n_rows:
            for c in range(n_cols):
                col_sum[c] += strip[c]
                strip[c] = 0
        if row_norm[r] == 0 or not (by_z or by_weight):
            continue
        n_words, n_weight, n_z = 0, 0, 0
        for word in range(words.shape[0]):  # no branch on data here: it would be mispredicted half the time
            marked[n_words] = word
            n_words += words[word] != 0
        for word in marked[:n_words]:
            for c in range(8 * word, 8 * word + 8):
                hits[0, n_weight] = c
                hits[1, n_z] = c
                n_weight += flag[c] & 1
                n_z += flag[c] >> 1
        for o in range(row_kind.shape[0]):
            which, n_hits = (1, n_z) if row_kind[o] == Z else (0, n_weight)
            n, least, n_taken = row_count[o, r], row_reach[o, r], 0
            for h in range(n_hits):
                c = hits[which, h]
                low, high = bounds(row_kind[o], line[c], m, inv, grow * col_norm[c] + tiny, slack)
                taken[n_taken], lows[n_taken], highs[n_taken] = c, low, high
                n_taken += (high >= least) & (col_norm[c] > 0)
            first = row_base[o] + (row_k[o] + 2 * row_room[o]) * r
            for h in range(n_taken):
                i = first_col + taken[h]
                n, least = enter(row_k[o], row_room[o], first, n, row_place, row_value, i, lows[h], highs[h], least)
                if n < 0:
                    n, row_dense[r] = 0, True
                    break
            row_count[o, r], row_reach[o, r] = n, least
        for o in range(2):
            if col_k[o] == 0:
                continue
            q = queued[o]
            for h in range(n_z if o == 1 else n_weight):
                c = hits[o, h]
                low, high = bounds(col_kind[o], line[c], m, inv, grow * col_norm[c] + tiny, slack)
                queue[o, 0, q], queue[o, 1, q], scores[o, 0, q], scores[o, 1, q] = c, r, low, high
                q += high >= col_reach[o, first_col + c]
            queued[o] = q
            if q > _QUEUE:
                drain(o, first_col, q, queue[o], scores[o], cols, start, order)
                queued[o] = 0
        if min_z < _INFINITE:
            for h in range(n_z):
                c = hits[1, h]
                _, high = bounds(Z, line[c], m, inv, grow * col_norm[c] + tiny, slack)
                if high >= min_z and col_norm[c] > 0:
                    out_row[written] = r
                    out_col[written] = first_col + c
                    written += 1
    for o in range(2):
        if queued[o] > 0:
            drain(o, first_col, queued[o], queue[o], scores[o], cols, start, order)
    return written


@njit(nogil=True, cache=True)
def settle_reservoirs(side, first, last):
    """Cut all reservoirs of groups ``first`` to ``last`` back to their final thresholds."""
    kind, k, room, start, place, value, count, reach, _ = side
    for o in range(kind.shape[0]):
        for g in range(first, last):
            entries = start[o] + (k[o] + 2 * room[o]) * g + k[o]
            count[o, g] = prune(entries, count[o, g], place, value, reach[o, g])


@njit(nogil=True, cache=True)
def empty_reservoirs(side, own, others):
    """Write what reservoirs hold: their own number and that of the other side."""
    kind, k, room, start, place, _, count, _, _ = side
    n = 0
    for o in range(kind.shape[0]):
        for g in range(count.shape[1]):
            entries = start[o] + (k[o] + 2 * room[o]) * g + k[o]
            for p in range(count[o, g]):
                own[n] = g
                others[n] = place[entries + 2 * p]
                n += 1
