"""The best counterpart of every feature among those of another set, and how far it stands out by chance.

A score is the mean over the blocks of two profiles (:mod:`queries.profiles`) of the cosine in each. All scores of some
rows against the other set are one sparse product, made a block of rows at a time.

**Chance** is read off the feature's own other scores. Where nothing in the other set stands for a feature, its best
score is the largest of many. Their tail is fitted as an exponential one: then the distance of the r-th largest from the
next is exponential with mean θ/r (Rényi 1953, https://doi.org/10.1007/BF02127580; the tail is that of Gumbel's law).
θ is estimated from the fourth score on, so that up to three features may stand for one; the chance that the best lies
as far above the fourth then has a closed form, free of θ. So what all features have in common
- tokens that lie close together in the embedding are read together by any feature, trained or not - is in the tail too
and does not count as a find. That the tail is exponential is an assumption. Scores that fall off faster make the
chance too large; a heavier tail would make it too small. ``python -m tests.bench.figures_null`` measures it on sets of
random directions, in which all is chance: there it is right or a little too large. Two other ways were tried there. A
tail whose shape is fitted over all features of a comparison made the chance two to three times too small between
models. Profiles of a feature's own strongest tokens alone, which would not change with its scale, share too few tokens
to have such a tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from queries.profiles import Profiles

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TERMS_AT_ONCE = 4_000_000
"""Terms of one block of the product: about 150 MB."""
_EQUAL = 1e-6
"""Scores nearer than this are equal: the lower feature comes first."""
_DIGITS = 6
"""of a score: what lies beyond is rounding"""
_SIBLINGS = 4
"""The rank from which on scores are taken for chance."""
_LEAST, _MOST, _PART = 24, 32, 16
"""How many of the best scores are looked at: a sixteenth of all, within these."""


@dataclass(frozen=True)
class Best:
    """The best counterpart of each feature."""

    partner: np.ndarray
    """its number, or -1 where nothing is alike at all; int64 [n]"""
    score: np.ndarray
    """float64 [n]"""
    null_p: np.ndarray
    """how often chance would let the best stand out as far; float64 [n]"""


def best(a: Profiles, b: Profiles) -> Best:
    """For every feature of ``a`` its best in ``b``. Equal scores go to the lower number."""
    partner, n_top = np.full(a.n_features, -1), min(max(_LEAST, min(_MOST, b.n_features // _PART)), b.n_features)
    top = np.zeros((a.n_features, n_top))
    for rows, scores in _scores(a, b):
        for row, (begin, stop) in enumerate(zip(scores.indptr[:-1], scores.indptr[1:], strict=True), start=rows.start):
            values = scores.data[begin:stop]
            many = len(values) > n_top
            strongest = np.partition(values, len(values) - n_top)[-n_top:] if many else values
            top[row, : len(strongest)] = np.sort(strongest)[::-1]
            if top[row, 0] > _EQUAL:
                partner[row] = scores.indices[begin:stop][values >= top[row, 0] - _EQUAL].min()
    np.maximum(top, 0, out=top)
    score = np.where(partner >= 0, top[:, 0], 0).round(_DIGITS)
    return Best(partner, score, np.where(partner >= 0, _by_chance(top, b.n_features), 1.0))


def _scores(a: Profiles, b: Profiles) -> Iterator[tuple[slice, csr_array]]:
    """Scores of all of ``a`` with all of ``b``: a span of rows at a time."""
    left, right = a.matrix(), b.matrix().T.tocsr()
    terms = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])[left.indptr]
    begin = 0
    while begin < a.n_features:
        stop = int(np.searchsorted(terms, terms[begin] + _TERMS_AT_ONCE, side="right")) - 1
        stop = min(max(stop, begin + 1), a.n_features)
        scores = left[begin:stop] @ right
        row = np.repeat(np.arange(begin, stop), np.diff(scores.indptr))
        both = a.described[row] & b.described[scores.indices]  # words count where both have some
        scores.data /= a.token_blocks + both
        yield slice(begin, stop), scores
        begin = stop


def _by_chance(top: np.ndarray, n_others: int) -> np.ndarray:
    """How often the first of each row's descending scores would lie so far above the fourth.

    1 where there are too few to tell; 1 / (1 + n_others) where all below are equal, so that nothing is known of θ.
    """
    n = top.shape[1] - _SIBLINGS
    if n < 2:
        return np.ones(len(top))
    ranks = np.arange(_SIBLINGS, top.shape[1])
    theta = (ranks * (top[:, _SIBLINGS - 1 : -1] - top[:, _SIBLINGS:])).mean(axis=1)
    above = top[:, 0] - top[:, _SIBLINGS - 1]
    x = np.divide(above, theta, out=np.zeros(len(top)), where=theta > 0)
    p = sum((-1) ** (i + 1) * comb(_SIBLINGS - 1, i) * (1 + i * x / n) ** -float(n) for i in range(1, _SIBLINGS))
    unknown = np.where(above > _EQUAL, 1 / (1 + n_others), 1.0)
    return np.where(theta > 0, np.clip(p, 0, 1), unknown)
