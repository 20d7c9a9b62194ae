"""The best counterpart of every feature among those of another set, and how good a one chance would find.

A score is the mean over the blocks of two profiles (:mod:`queries.profiles`) of the cosine in each. All scores of some
rows against the other set are one sparse product, made a block of rows at a time.

**Chance** is the other set with its tokens handed out anew: every feature keeps the sizes and signs of what it reads
and writes, every token is read and written by as many features as before, and which goes with which is random
(:mod:`queries.rewired`). The best score that a feature finds among such features is what it would find in a set that
has nothing to do with its own. A feature of one strong token finds a better one than a feature of twenty, so features
are compared with those as concentrated as themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from queries.profiles import Profiles
from queries.rewired import rewire

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TERMS_AT_ONCE = 4_000_000
"""Terms of one block of the product: about 150 MB."""
_ROWS_A_SAMPLE = 2_048
"""Features whose best score by chance is looked for in each rewired set."""
_DRAWS_A_STRATUM = 1_000
_STRATA = 10
_EQUAL = 1e-6
"""Scores nearer than this are equal: the lower feature comes first."""


@dataclass(frozen=True)
class Best:
    """The best counterpart of each feature: its number, or -1 where nothing is alike at all, and the score."""

    partner: np.ndarray
    """int64 [n]"""
    score: np.ndarray
    """float64 [n]"""


def best(a: Profiles, b: Profiles) -> tuple[Best, Best]:
    """For every feature of ``a`` its best in ``b``, and the other way round. Equal scores go to the lower number."""
    forth, back = (Best(np.full(one.n_features, -1), np.zeros(one.n_features)) for one in (a, b))
    for rows, scores in _scores(a.matrix(), b.matrix(), a, b):
        _take(forth, rows, scores)
        other = scores.T.tocsr()
        found = Best(np.full(b.n_features, -1), np.zeros(b.n_features))
        _take(found, slice(0, b.n_features), other)
        better = found.score > back.score + _EQUAL
        back.partner[better], back.score[better] = found.partner[better] + rows.start, found.score[better]
    return forth, back


def by_chance(
    a: Profiles,
    b: Profiles,
    score: np.ndarray,
    *,
    samples: int,
    rounds: int,
    rng: np.random.Generator,
    show: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """For every feature of ``a``, how often chance finds it a counterpart in ``b`` of its best score or more.

    Never 0: of ``n`` draws for features like it, at least 1 / (n + 1). float64 [n_features].
    """
    concentration = _concentration(a)
    matrix, column = a.matrix(), b.column.copy()
    draws: list[tuple[np.ndarray, np.ndarray]] = []
    for sample in range(samples):
        rewire(b.feature, column, b.groups, rng, rounds)
        shuffled = b.matrix(column)
        rows = np.sort(rng.permutation(a.n_features)[:_ROWS_A_SAMPLE])
        found = Best(np.full(len(rows), -1), np.zeros(len(rows)))
        for span, scores in _scores(matrix[rows], shuffled, a, b, rows):
            _take(found, span, scores)
        draws.append((concentration[rows], found.score))
        show(sample + 1)
    return _above(concentration, score, *(np.concatenate(column) for column in zip(*draws, strict=True)))


def _scores(
    left: csr_array, right: csr_array, a: Profiles, b: Profiles, of: np.ndarray | None = None
) -> Iterator[tuple[slice, csr_array]]:
    """Scores of some rows of ``a`` (``of``; all if not said) with all of ``b``: a span of rows at a time."""
    other = right.T.tocsr()
    terms = np.concatenate([[0], np.cumsum(np.diff(other.indptr)[left.indices], dtype=np.int64)])[left.indptr]
    numbers = np.arange(left.shape[0]) if of is None else of
    begin, n_rows = 0, left.shape[0]
    while begin < n_rows:
        stop = int(np.searchsorted(terms, terms[begin] + _TERMS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, begin + 1), n_rows)
        scores = left[begin:stop] @ other
        row = np.repeat(numbers[begin:stop], np.diff(scores.indptr))
        both = a.described[row] & b.described[scores.indices]  # words count where both have some
        scores.data /= a.token_blocks + both
        yield slice(begin, stop), scores
        begin = stop


def _take(found: Best, rows: slice, scores: csr_array) -> None:
    """Note the best of each row: of equal scores the lowest column."""
    begins, filled = scores.indptr[:-1], np.diff(scores.indptr) > 0
    if not filled.any():
        return
    top = np.zeros(len(filled))
    top[filled] = np.maximum.reduceat(scores.data, begins[filled])
    row = np.repeat(np.arange(len(filled)), np.diff(scores.indptr))
    equal = np.flatnonzero((scores.data >= top[row] - _EQUAL) & (top[row] > _EQUAL))
    lowest = np.full(len(filled), np.iinfo(np.int64).max)
    np.minimum.at(lowest, row[equal], scores.indices[equal])
    good = top > _EQUAL
    found.partner[rows] = np.where(good, lowest, -1)
    found.score[rows] = np.where(good, top, 0.0)


def _concentration(a: Profiles) -> np.ndarray:
    """How much of each profile is in few numbers: the sum of fourth powers, 1 for a single number a block."""
    return np.bincount(a.feature, a.value.astype(np.float64) ** 4, minlength=a.n_features)


def _above(like: np.ndarray, score: np.ndarray, drawn_like: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Part of the draws of features alike that reach each score."""
    n_strata = int(np.clip(len(drawn) // _DRAWS_A_STRATUM, 1, _STRATA))
    borders = np.quantile(drawn_like, np.linspace(0, 1, n_strata + 1)[1:-1])
    stratum, drawn_stratum = (np.searchsorted(borders, values, side="right") for values in (like, drawn_like))
    p = np.ones(len(score))
    for at in range(n_strata):
        mine, scores = stratum == at, np.sort(drawn[drawn_stratum == at])
        reached = len(scores) - np.searchsorted(scores, score[mine] - _EQUAL, side="left")
        p[mine] = (1 + reached) / (1 + len(scores))
    return p
