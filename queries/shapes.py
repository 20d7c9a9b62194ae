"""How often each small shape occurs among some connections, exactly, by sparse algebra.

With ``M`` the matrix of connections (a row reads, a column is read), ``(M @ M)[C, A]`` is the number of ways from A to
C over one feature between, and ``(M @ M.T)[C, D]`` the number of features that feed both C and D. Neither product is
ever held whole: both are made a block of rows at a time, and a block makes at most some millions of such ways.

Signs ride along: a count for positive ways plus 2³² times the count for negative ones is one number of 64 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import BadSetting

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SHAPES = ("chain", "fan-in", "fan-out", "feed-forward-loop", "bi-fan")
TRIADS = SHAPES[:4]
KINDS = {
    (1, 1, 1): "coherent 1",
    (-1, 1, -1): "coherent 2",
    (1, -1, -1): "coherent 3",
    (-1, -1, 1): "coherent 4",
    (1, -1, 1): "incoherent 1",
    (-1, -1, -1): "incoherent 2",
    (1, 1, -1): "incoherent 3",
    (-1, 1, 1): "incoherent 4",
}
"""The eight feed-forward loops by the signs of A → B, B → C and A → C, numbered as in Mangan and Alon 2003
(https://doi.org/10.1073/pnas.2133841100)."""

_WAYS_AT_ONCE = 4_000_000
"""Ways of length two that one block makes: about 150 MB."""
_SECOND = 1 << 32
_FIELD = 1 << 21


@dataclass(frozen=True)
class Links:
    """Some connections of one set: feature numbers ascend with the layers, so every source is below its target."""

    source: np.ndarray
    """int32 [n]"""
    target: np.ndarray
    """int32 [n]"""
    negative: np.ndarray
    """bool [n]"""
    n_features: int

    def matrix(self, values: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> csr_array:
        """Shape [readers, read]."""
        from scipy.sparse import coo_array

        shape = (self.n_features, self.n_features)
        return coo_array((values[chosen], (self.target[chosen], self.source[chosen])), shape=shape).tocsr()


def counts(links: Links, shapes: tuple[str, ...]) -> dict[str, int]:
    """How often each of some shapes occurs, by ``shape`` and by ``shape VARIANT``.

    Variants are ``coherent`` (the weights' product is positive) and ``incoherent``, and for feed-forward loops the
    eight kinds of :data:`KINDS`. A chain, fan-in or fan-out is counted where its outer features are not themselves
    connected; a bi-fan whatever else joins its four.
    """
    found: dict[str, int] = {}
    if set(shapes) & set(TRIADS):
        found |= {name: n for name, n in _triads(links).items() if name.partition(" ")[0] in shapes}
    if "bi-fan" in shapes:
        found |= _bi_fans(links)
    return found


def _triads(links: Links) -> dict[str, int]:
    closed = _loops(links)
    (in_plus, in_minus), (out_plus, out_minus) = (_degrees(links, end) for end in (links.target, links.source))
    found = {"feed-forward-loop": sum(closed.values())}
    for sign, word in ((1, "coherent"), (-1, "incoherent")):
        found[f"feed-forward-loop {word}"] = sum(n for (x, y, w), n in closed.items() if x * y * w == sign)
    found |= {f"feed-forward-loop {KINDS[signs]}": n for signs, n in closed.items()}

    def open_(shape: str, like: int, unlike: int, pair: tuple[int, int]) -> None:
        """What is left of all pairs at one feature when the closed ones are taken away."""
        agreeing = sum(n for signs, n in closed.items() if signs[pair[0]] == signs[pair[1]])
        found[f"{shape} coherent"] = like - agreeing
        found[f"{shape} incoherent"] = unlike - (sum(closed.values()) - agreeing)
        found[shape] = found[f"{shape} coherent"] + found[f"{shape} incoherent"]

    open_("chain", _dot(in_plus, out_plus) + _dot(in_minus, out_minus),
          _dot(in_plus, out_minus) + _dot(in_minus, out_plus), (0, 1))  # fmt: skip
    open_("fan-in", _pairs(in_plus) + _pairs(in_minus), _dot(in_plus, in_minus), (1, 2))
    open_("fan-out", _pairs(out_plus) + _pairs(out_minus), _dot(out_plus, out_minus), (0, 2))
    return found


def _loops(links: Links) -> dict[tuple[int, int, int], int]:
    """Feed-forward loops by the signs of A → B, B → C and A → C."""
    found = dict.fromkeys(KINDS, 0)
    if not len(links.source):
        return found
    ways = links.matrix(np.where(links.negative, _SECOND, 1))
    mask = links.matrix(np.where(links.negative, -1, 1))
    for y, chosen in ((1, ~links.negative), (-1, links.negative)):
        second = links.matrix(np.ones(len(chosen), np.int64), np.flatnonzero(chosen))
        for rows in _blocks(second, np.diff(ways.indptr)):
            closed = (second[rows] @ ways).multiply(mask[rows])  # [block, n_features], negative where A → C is
            for w in (1, -1):
                both = np.abs(closed.data[closed.data * w > 0])
                found[-1, y, w] += int((both // _SECOND).sum())
                found[1, y, w] += int((both % _SECOND).sum())
    return found


def _bi_fans(links: Links) -> dict[str, int]:
    """Over pairs of features: of what both feed, or both read, any two make a bi-fan."""
    n = {"bi-fan": 0, "bi-fan coherent": 0, "bi-fan incoherent": 0}
    if not len(links.source):
        return n
    matrix = links.matrix(np.where(links.negative, _FIELD, 1))
    by_source = matrix.T.tocsr()
    into, out_of = np.diff(matrix.indptr), np.diff(by_source.indptr)
    if min(int(into.max()), int(out_of.max())) >= _FIELD:
        raise BadSetting(f"a feature has {_FIELD:,} connections or more; ask with min for the strongest of them")
    # The same count from either side: pairs of readers or pairs of sources, whichever is less work and fits.
    from_readers = _dot(out_of, out_of) <= _dot(into, into)
    if int((into if from_readers else out_of).max()) >= _FIELD:
        from_readers = not from_readers
    pairs_of, others = (matrix, by_source) if from_readers else (by_source, matrix)
    for rows in _blocks(pairs_of, np.diff(others.indptr)):
        shared = (pairs_of[rows] @ others).tocoo()
        data = shared.data[shared.row + rows.start < shared.col]  # each pair once
        plus, mixed, minus = data % _FIELD, data // _FIELD % _FIELD, data // _FIELD**2
        n["bi-fan coherent"] += _pairs(plus + minus) + _pairs(mixed)
        n["bi-fan incoherent"] += _dot(plus + minus, mixed)
    n["bi-fan"] = n["bi-fan coherent"] + n["bi-fan incoherent"]
    return n


def _blocks(left: csr_array, per_column: np.ndarray) -> Iterator[slice]:
    """Rows of ``left`` in spans whose product with a matrix of these row lengths makes few enough terms."""
    ways = np.concatenate([[0], np.cumsum(per_column[left.indices], dtype=np.int64)])[left.indptr]
    begin, n_rows = 0, len(left.indptr) - 1
    while begin < n_rows:
        stop = max(begin + 1, int(np.searchsorted(ways, ways[begin] + _WAYS_AT_ONCE, side="right")) - 1)
        stop = min(stop, n_rows)
        if ways[stop] > ways[begin]:
            yield slice(begin, stop)
        begin = stop


def _degrees(links: Links, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positive and negative connections at each feature."""
    positive, negative = (np.bincount(end[at], minlength=links.n_features) for at in (~links.negative, links.negative))
    return positive, negative


def _pairs(n: np.ndarray) -> int:
    return _total(n.astype(np.int64) * (n.astype(np.int64) - 1) // 2)


def _dot(a: np.ndarray, b: np.ndarray) -> int:
    return _total(a.astype(np.int64) * b.astype(np.int64))


def _total(n: np.ndarray) -> int:
    return int(n.sum(dtype=np.int64))
