"""Thresholds of rows and columns: what a product must reach to be looked at again.

A threshold is the k-th largest score known so far, never above the k-th largest of all. Scores have a lower and an
upper bound (:meth:`RowValues.scores`); thresholds rise by lower bounds, and are reached by upper ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ingest.edges.tiles import SLACK, Floors, Product

_NARROW = 1 - 2.0**-18


class Side:
    """Thresholds of all rows, or of all columns, and the best scores that set them."""

    def __init__(self, side: str, norm: np.ndarray, orders: list[tuple[str, int]], floors: Floors, device: str) -> None:
        self.orders = orders
        self.dense = torch.zeros(len(norm), dtype=torch.bool, device=device)
        self.reach = {name: torch.full((len(norm),), torch.inf, device=device) for name in ("abs", "pos", "neg", "z")}
        self.best = {}
        for order, n in orders:
            floor = floors.of(side, order)
            self.reach[order] = torch.zeros(len(norm)) if floor is None else torch.from_numpy(floor.astype(np.float32))
            self.reach[order] = self.reach[order].to(device)
            self.best[order] = torch.zeros(len(norm), n, device=device)

    def sampled(self, here: slice, lower: dict[str, Tensor], dim: int) -> None:
        """Raise thresholds to the k-th largest lower bound of some pairs."""
        for order, n in self.orders:
            if lower[order].shape[dim] >= n:
                kth = lower[order].topk(n, dim=dim).values.amin(dim=dim)
                self.reach[order][here] = torch.maximum(self.reach[order][here], kth)

    def met(self, own: Tensor, lower: dict[str, Tensor]) -> None:
        """Raise thresholds by new pairs; no pair may be told twice."""
        if not len(own):
            return
        for order, n in self.orders:
            best = self.best[order]
            down = lower[order].argsort(descending=True)
            down = down[own[down].argsort(stable=True)]
            who, count = own[down].unique_consecutive(return_counts=True)
            rank = torch.arange(len(own), device=own.device) - (count.cumsum(0) - count).repeat_interleave(count)
            first = rank < n
            new = best.new_zeros(len(who), n)
            new[torch.arange(len(who), device=own.device).repeat_interleave(count)[first], rank[first]] = lower[order][
                down[first]
            ].clamp(min=0)
            best[who] = torch.cat([best[who], new], dim=1).topk(n, dim=1).values
            self.reach[order][who] = torch.maximum(self.reach[order][who], best[who, n - 1])

    def give_up(self, which: Tensor) -> None:
        """Leave these to be settled exactly."""
        self.dense |= which
        for order, _ in self.orders:
            self.reach[order][which] = torch.inf

    def reached(self, own: Tensor, upper: dict[str, Tensor]) -> Tensor:
        """Which pairs reach a threshold as it is now."""
        mask = torch.zeros_like(own, dtype=torch.bool)
        for order, _ in self.orders:
            mask |= upper[order] >= self.reach[order][own]
        return mask


@dataclass(frozen=True)
class RowValues:
    """What z needs of every row, float32."""

    mean: Tensor
    inverse: Tensor
    """0 where no z is to be told"""
    deviation: Tensor
    """rounded down; below 0 where no z is to be told"""
    far: Tensor

    @classmethod
    def of(cls, product: Product, device: str) -> RowValues:
        mean, inverse = (torch.from_numpy(v.astype(np.float32)).to(device) for v in (product.mean, product.inverse))
        deviation = torch.from_numpy((product.std * _NARROW).astype(np.float32)).to(device)
        return cls(mean, inverse, torch.where(inverse > 0, deviation, -1), SLACK * mean.abs())

    def scores(self, row: Tensor | slice, x: Tensor, off: Tensor | float, sign: int) -> dict[str, Tensor]:
        """Lower (``sign`` -1) or upper bounds of all orders; 0 below where the weight may be zero."""
        shape = (slice(None), None) if x.dim() == 2 else (slice(None),)
        mean, inverse, far = (v[row][shape] for v in (self.mean, self.inverse, self.far))
        size = x.abs()
        loose = off + SLACK * size
        z = (x - mean).abs() * inverse
        z = z + sign * ((off + far) * inverse + SLACK * z)
        z = torch.where(inverse > 0, z, -1)
        if sign < 0:
            z = torch.where(size > loose, z, 0)
        return {"abs": size + sign * loose, "pos": x + sign * loose, "neg": sign * loose - x, "z": z}


@dataclass(frozen=True)
class Thresholds:
    """What scores are compared with; infinity where an order is not wanted. All float32, on the device."""

    row_abs: Tensor
    row_pos: Tensor
    row_neg: Tensor
    row_z: Tensor
    """in deviations; ``min_z`` is taken into it"""
    col_abs: Tensor
    col_z: Tensor
    mean: Tensor
    """of each row"""
    deviation: Tensor
    """of each row, rounded down; below 0 where no z is to be told"""
    far: Tensor
    """of each row: rounding of its mean"""
    signs: bool
    """whether an order is by sign"""
    by_z: bool
