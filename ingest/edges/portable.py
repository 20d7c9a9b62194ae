"""Scanning tiles with plain torch, on any device it runs on.

The first tile of a row (of a column) gives the row (the column) a threshold: the k-th largest of some of its products
is never above the k-th largest of all. What reaches a threshold within the rounding bound is proposed. One threshold
serves all later tiles, so their work is a product and a comparison.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ingest.edges.tiles import SLACK, Floors, Product, Proposed, Wanted

TILE = (2048, 4096)
_TOO_MANY = 1024
"""pairs of one row or column in one tile at its threshold; more are ties, and settled exactly"""


class _Side:
    """Thresholds of all rows, or of all columns."""

    def __init__(self, side: str, norm: np.ndarray, orders: list[tuple[str, int]], floors: Floors, device: str) -> None:
        self.orders = orders
        self.dense = torch.zeros(len(norm), dtype=torch.bool, device=device)
        self.reach = {}
        for order, _ in orders:
            floor = floors.of(side, order)
            reach = torch.zeros(len(norm)) if floor is None else torch.from_numpy(floor.astype(np.float32))
            self.reach[order] = reach.to(device)

    def learn(self, here: slice, lower: dict[str, Tensor], dim: int) -> None:
        """Raise thresholds by what a tile holds: its k-th largest lower bound, along ``dim``."""
        for order, n in self.orders:
            if lower[order].shape[dim] >= n:
                kth = lower[order].topk(n, dim=dim).values.amin(dim=dim)
                self.reach[order][here] = torch.maximum(self.reach[order][here], kth)

    def reached(self, here: slice, scores: dict[str, tuple[Tensor, Tensor]], dim: int, valid: Tensor) -> Tensor:
        """Which pairs of a tile may be wanted; a row (a column) with too many becomes dense instead."""
        mask = torch.zeros_like(valid)
        for order, _ in self.orders:
            score, margin = scores[order]
            mask |= score + margin >= self.reach[order][here].unsqueeze(dim)
        mask &= valid
        most = max([_TOO_MANY, *(4 * n for _, n in self.orders)])
        self.dense[here] |= mask.sum(dim=dim) > most
        return mask & ~self.dense[here].unsqueeze(dim)


def propose(product: Product, wanted: Wanted, floors: Floors, device: str, tile: tuple[int, int]) -> Proposed:
    """Every pair that may be wanted."""
    (n_rows, _), n_cols = product.rows.shape, len(product.cols)
    rows, cols = product.rows.to(device), product.cols.to(device)
    row_norm, col_norm = (_float(norm, device) for norm in (product.row_norm, product.col_norm))
    mean = _float(product.mean, device)
    inverse = torch.from_numpy(product.inverse).to(device)
    by_row = _Side("row", product.row_norm, wanted.row_orders, floors, device)
    by_col = _Side("col", product.col_norm, wanted.col_orders, floors, device)
    needs_z = bool(wanted.row_z or wanted.col_z or wanted.min_z is not None)
    row_l1, col_l1 = np.zeros(n_rows), np.zeros(n_cols)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(0, n_rows, tile[0]):
        r = slice(i, min(i + tile[0], n_rows))
        for j in range(0, n_cols, tile[1]):
            c = slice(j, min(j + tile[1], n_cols))
            x = rows[r] @ cols[c].T
            size = x.abs()
            row_l1[r] += size.sum(dim=1).cpu().double().numpy()
            col_l1[c] += size.sum(dim=0).cpu().double().numpy()
            margin = product.kappa * row_norm[r, None] * col_norm[None, c] + product.tiny
            loose = margin + SLACK * size
            scores = {"abs": (size, loose), "pos": (x, loose), "neg": (-x, loose)}
            valid = (row_norm[r, None] > 0) & (col_norm[None, c] > 0)
            if needs_z:
                z = torch.where(inverse[r, None] > 0, (x - mean[r, None]).abs() * inverse[r, None], -1)
                slack = (margin + SLACK * mean[r, None].abs()) * inverse[r, None] + SLACK * z
                scores["z"] = (z, slack)
            lower = {order: score - slack for order, (score, slack) in scores.items()}
            if needs_z:  # a weight that may be zero takes no place from others
                lower["z"] = torch.where(size > loose, lower["z"], 0)
            if j == 0:
                by_row.learn(r, lower, 1)
            if i == 0:
                by_col.learn(c, lower, 0)
            mask = by_row.reached(r, scores, 1, valid) | by_col.reached(c, scores, 0, valid)
            if wanted.min_z is not None:
                mask |= (scores["z"][0] + scores["z"][1] >= wanted.min_z) & valid
            here = mask.nonzero().cpu().numpy().astype(np.int32)
            found.append((here[:, 0] + np.int32(r.start), here[:, 1] + np.int32(c.start)))
    return Proposed(
        row=np.concatenate([row for row, _ in found] or [np.empty(0, np.int32)]),
        col=np.concatenate([col for _, col in found] or [np.empty(0, np.int32)]),
        dense_rows=by_row.dense.nonzero().flatten().cpu().numpy().astype(np.int32),
        dense_cols=by_col.dense.nonzero().flatten().cpu().numpy().astype(np.int32),
        row_l1=row_l1,
        col_l1=col_l1,
    )


def _float(values: np.ndarray, device: str) -> Tensor:
    """As float32; what is a bound was rounded up far enough before."""
    return torch.from_numpy(values.astype(np.float32)).to(device)
