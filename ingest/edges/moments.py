"""Mean and deviation of every row of a product, known before the product.

The weights of one row ``e`` with all columns ``w`` have mean ``mean(w) . e`` and variance ``e' Cov(w) e``, so z-scores
need no second pass. Both are taken in float64 over blocks that are always cut alike: the same bits for any number of
threads (an accelerator's own order of adding may change the last of them). Rows whose variance is lost in cancellation
are summed directly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ingest.edges.kernels import dense
from ingest.edges.pool import Pool

_GATHER = 4096
"""rows to a block of a covariance"""
_BLOCK = 1024
"""rows to a block of quadratic forms; a shorter one is filled up with zeros, so that all products have one shape"""
_PANELS = 8
_CANCELLED = 1e-8
"""of the largest variance a row of its length could have: below, float64 keeps too few digits of e' Cov e"""
_CONSTANT = 2.0**-40
"""of the largest weight: a deviation below it is rounding"""


@dataclass(frozen=True)
class Spread:
    """Mean and covariance of a set of vectors."""

    mean: Float64[Tensor, " d_model"]
    covariance: Float64[Tensor, "d_model d_model"]


def spread(vectors: Float32[Tensor, "n d_model"], pool: Pool, device: str = "cpu") -> Spread:
    """Mean and population covariance."""
    n, d = vectors.shape
    starts = range(0, n, _GATHER)
    place = _place(device)

    def added(start: int) -> Tensor:
        return vectors[start : start + _GATHER].to(place).double().sum(dim=0)

    mean = sum(pool.map(added, starts), torch.zeros(d, dtype=torch.float64, device=place)) / max(n, 1)

    width = -(-d // _PANELS)

    def outer(start: int) -> list[Tensor]:
        centred = vectors[start : start + _GATHER].to(place).double() - mean
        return [centred[:, first:].T @ centred[:, first : first + width] for first in range(0, d, width)]

    lower = torch.zeros(d, d, dtype=torch.float64, device=place)
    for wave in range(0, len(starts), pool.threads):  # no more blocks in memory than threads, added in order
        for parts in pool.map(outer, starts[wave : wave + pool.threads]):
            for first, part in zip(range(0, d, width), parts, strict=True):
                lower[first:, first : first + width] += part
    lower /= max(n, 1)
    return Spread(mean.cpu(), (lower.tril() + lower.tril(-1).T).cpu())


def _place(device: str) -> str:
    """Where float64 is at home: CUDA, or here."""
    return device if device.startswith("cuda") else "cpu"


def moments(
    rows: Float32[Tensor, "n_rows d_model"],
    cols: Float32[Tensor, "n_cols d_model"],
    of_cols: Spread,
    pool: Pool,
    device: str = "cpu",
) -> tuple[Float[np.ndarray, " n_rows"], Float[np.ndarray, " n_rows"]]:
    """Mean and population deviation of ``rows @ cols.T`` along each row, float64."""
    n, d = rows.shape
    mean, variance = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    place = _place(device)
    panels, mean_of = _panels(of_cols.covariance.to(place)), of_cols.mean.to(place)
    lost = torch.zeros(n, dtype=torch.bool)
    bound = _CANCELLED * of_cols.covariance.trace().item()

    def block(start: int) -> None:
        here = slice(start, min(n, start + _BLOCK))
        e = torch.zeros(_BLOCK, d, dtype=torch.float64, device=place)
        e[: here.stop - start] = rows[here].to(place)
        quadratic = torch.zeros(_BLOCK, dtype=torch.float64, device=place)
        for first, panel in panels:
            quadratic += ((e[:, first:] @ panel) * e[:, first : first + panel.shape[1]]).sum(dim=1)
        length = (e * e).sum(dim=1)
        mean[here] = (e @ mean_of)[: here.stop - start].cpu()
        variance[here] = quadratic[: here.stop - start].cpu()
        lost[here] = (quadratic <= bound * length)[: here.stop - start].cpu()

    pool.map(block, range(0, n, _BLOCK))
    found = mean.numpy(), variance.clamp_(min=0).sqrt_().numpy()
    _sum_directly(rows.numpy(), cols.numpy(), lost.nonzero().flatten().tolist(), *found, pool)
    return found


def _panels(covariance: Tensor) -> list[tuple[int, Tensor]]:
    """A symmetric form as panels of its lower triangle, off-diagonal entries doubled: half the work."""
    d = covariance.shape[0]
    width = -(-d // _PANELS)
    panels = []
    for first in range(0, d, width):
        panel = covariance[first:, first : first + width].clone()
        panel[panel.shape[1] :] *= 2
        panels.append((first, panel))
    return panels


def _sum_directly(
    rows: np.ndarray, cols: np.ndarray, which: list[int], mean: np.ndarray, deviation: np.ndarray, pool: Pool
) -> None:
    def one(row: int) -> None:
        weights = np.empty(len(cols), np.float64)
        dense(rows[row], cols, weights)
        mean[row] = weights.mean() if len(cols) else 0.0
        spread = np.sqrt(np.mean((weights - mean[row]) ** 2)) if len(cols) else 0.0
        deviation[row] = spread if spread > _CONSTANT * np.abs(weights).max(initial=0.0) else 0.0

    pool.map(one, which)
