"""Which connections stand out: z against the whole row, p against random directions, and a bound on false discoveries.

A row is everything one vector meets: a feature's read vector against what all tokens write, or against what all
features of an earlier layer write; a feature's write vector against what all logits read. Its mean and deviation
follow from the mean and covariance of the other side, exactly, before any product is taken, so one product of
standardised sides *is* the z-score.

p says how often a random direction scores as far out on that side. Tokens and features do not lie like a Gaussian
cloud, so the directions are drawn with the covariance of the layer's real vectors and scored against the same other
side (:class:`Null`); beyond what was drawn the logarithm of the survival function goes on in a straight line, which
overstates p. Among all tests of one row, Benjamini and Hochberg's rule (1995) keeps the share of false ones below a
bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_CELLS = 1 << 25
"""scores of one tile"""
_DRAWS = 1 << 23
"""scores of random directions that a null rests on, at least 64 directions"""
_STEP, _BINS = 0.05, 800
_FIRM = 50
"""scores beyond a z from which its survival counts as measured"""


@dataclass(frozen=True)
class Side:
    """One side of many rows, standardised: ``centred @ v`` is the row of ``v`` less its mean."""

    centred: Float[Tensor, "n d_model"]
    covariance: Float[Tensor, "d_model d_model"]
    kept: Bool[Tensor, " n"]
    """what counts: the rest is neither in the statistics nor found"""

    @classmethod
    def of(cls, vectors: Float[Tensor, "n d_model"], masked: np.ndarray | None = None) -> Side:
        kept = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        if masked is not None:
            kept &= ~torch.from_numpy(masked).to(vectors.device)
        own = vectors[kept]
        centred = vectors - own.mean(dim=0)
        own = centred[kept]
        return cls(centred, own.T @ own / len(own), kept)

    def __len__(self) -> int:
        return int(self.kept.sum())

    def deviation(self, rows: Float[Tensor, "n_rows d_model"]) -> Float[Tensor, " n_rows"]:
        """Population deviation of each row."""
        return ((rows @ self.covariance) * rows).sum(dim=1).clamp(min=0).sqrt()

    def z(self, rows: Float[Tensor, "n_rows d_model"]) -> Float[Tensor, "n_rows n"]:
        """z of every product; 0 in rows without deviation and where nothing counts."""
        deviation = self.deviation(rows)
        scaled = rows / torch.where(deviation > 0, deviation, torch.inf)[:, None]
        found = scaled @ self.centred.T
        return found if bool(self.kept.all()) else found * self.kept


@dataclass(frozen=True)
class Null:
    """How far out random directions score: log10 of the survival function, above and below the mean."""

    log_survival: Float[np.ndarray, "2 bins"]

    @classmethod
    def of(cls, side: Side, rows: Float[Tensor, "n_rows d_model"], seed: int) -> Null:
        """Directions with the covariance of ``rows``, scored against ``side``."""
        count = max(64, -(-_DRAWS // max(1, len(side))))
        generator = torch.Generator().manual_seed(seed)
        mean = rows.mean(dim=0)
        spread = (rows - mean) / max(1, len(rows)) ** 0.5
        counts = np.zeros((2, _BINS))
        left = count
        while left > 0:
            size = min(left, max(1, _CELLS // len(side.centred)))
            weights = torch.randn(size, len(rows), generator=generator).to(rows.device)
            z = side.z(mean + weights @ spread)[:, side.kept]
            for sign, found in enumerate((z, -z)):
                counts[sign] += torch.histc(found.float(), _BINS, 0.0, _STEP * _BINS).double().cpu().numpy()
            left -= size
        beyond = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # scores of z >= the bin's lower end
        return cls(np.stack([_extended(row, count * len(side)) for row in beyond]))

    def p(self, z: np.ndarray) -> np.ndarray:
        """Probability, both signs together, of a score at least as far out on the side of ``z``; at most 1."""
        place = np.minimum(np.abs(z) / _STEP, _BINS - 1.001)
        low = place.astype(np.int64)
        sign = (z < 0).astype(np.int64)
        here, there = self.log_survival[sign, low], self.log_survival[sign, low + 1]
        return np.minimum(1.0, 2 * 10 ** (here + (there - here) * (place - low)))


@dataclass(frozen=True)
class Entries:
    """Entries of many rows, row after row; of each row the farthest out first."""

    row: np.ndarray
    index: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def take(self, chosen: np.ndarray) -> Entries:
        return Entries(*(getattr(self, name)[chosen] for name in ("row", "index", "weight", "z", "p")))


def beyond(
    rows: Float[Tensor, "n_rows d_model"], side: Side, vectors: Float[Tensor, "n d_model"], null: Null, z: float
) -> Entries:
    """All entries with an abs(z) of ``z`` or more; their weights are the plain products with ``vectors``."""
    parts = []
    tile = max(1, _CELLS // len(side.centred))
    for first in range(0, len(rows), tile):
        scores = side.z(rows[first : first + tile])
        where = (scores.abs() >= z).nonzero()
        row, index = where[:, 0] + first, where[:, 1]
        score = scores[where[:, 0], index]
        weight = torch.cat(
            [(rows[a] * vectors[b]).sum(dim=1) for a, b in zip(row.split(1 << 18), index.split(1 << 18), strict=True)]
        )
        parts.append(tuple(column.cpu().numpy() for column in (row, index, weight, score)))
    row, index, weight, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((index, -np.abs(score), row))
    score = score[order].astype(np.float64)
    return Entries(row[order], index[order], weight[order].astype(np.float32), score, null.p(score))


def discoveries(entries: Entries, tests: int, share: float) -> Entries:
    """Of each row what Benjamini and Hochberg's rule keeps among ``tests`` tests: at most ``share`` of it by chance.

    Entries that were left out before count as tests without a chance, so leaving out the weak ones is safe.
    """
    order = np.lexsort((entries.p, entries.row))
    row, p = entries.row[order], entries.p[order]
    first = np.searchsorted(row, row)
    rank = np.arange(len(row)) - first + 1
    passes = p * tests <= share * rank
    last = np.zeros(int(row.max()) + 1 if len(row) else 0, np.int64)
    np.maximum.at(last, row[passes], rank[passes])
    return entries.take(np.sort(order[rank <= last[row]]))


def strongest(entries: Entries, per_sign: int) -> Entries:
    """Of each row at most ``per_sign`` of each sign, the farthest out."""
    side = entries.row * 2 + (entries.z < 0)
    order = np.lexsort((-np.abs(entries.z), side))
    rank = np.arange(len(order)) - np.searchsorted(side[order], side[order])
    return entries.take(np.sort(order[rank < per_sign]))


def _extended(beyond: np.ndarray, total: int) -> np.ndarray:
    """log10 of a survival function on the grid, carried on in a straight line where too few scores lie beyond."""
    found = np.log10(np.maximum(beyond, 0.5) / total)
    firm = int((beyond >= _FIRM).sum())
    if 2 <= firm < len(found):
        start = int(np.searchsorted(-found[:firm], -(found[firm - 1] + 1)))  # one decade back
        start = min(start, firm - 2)
        slope = (found[firm - 1] - found[start]) / (firm - 1 - start)
        found[firm:] = found[firm - 1] + slope * np.arange(1, len(found) - firm + 1)
    return found
