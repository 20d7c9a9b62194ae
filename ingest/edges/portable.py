"""Scanning on an accelerator, or anywhere torch runs: a strip of columns at a time, a tile of rows against it.

Every row and column has a threshold for each of its orders (:mod:`ingest.edges.thresholds`), first set by a sample of
the other side. Products that reach one within their proven bound (:mod:`ingest.edges.precision`) survive, are weighed
exactly on the device, and raise the thresholds for the tiles to come. So a tile costs its product and one comparison;
what is returned is little more than what is kept.

Where Triton works, product and comparison are one kernel (:mod:`ingest.edges.fused`); where it does not, a line says so
and torch does both. Strips are copied to the device one ahead, so memory there is bounded and copying is hidden
(:mod:`ingest.edges.strips`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ingest.edges import precision as bits
from ingest.edges.kernels import LANES
from ingest.edges.precision import Operand, Precision
from ingest.edges.strips import strips
from ingest.edges.thresholds import RowValues, Side, Thresholds
from ingest.edges.tiles import SLACK, Floors, Product, Proposed, Wanted

TILE = (2048, 4096)
FUSED_TILE = (8192, 16_384)
_SAMPLE = 512
"""vectors of the other side that set first thresholds, at least; an eighth of a tile where that is more"""
_MOST = 1024
"""survivors of one row or column in a tile; more are ties, or a vector far longer than its like, and settled exactly"""
_WEIGHED = 1 << 14
"""pairs that torch weighs at once"""


def propose(
    product: Product,
    wanted: Wanted,
    floors: Floors,
    device: str,
    tile: tuple[int, int] | None,
    fused: bool | None = None,
) -> Proposed:
    """Every pair that may be wanted. ``fused``: whether Triton is used; by default where it works."""
    with torch.cuda.device(device) if device.startswith("cuda") else nullcontext():  # which Triton looks for
        return _propose(product, wanted, floors, device, tile, _engine(device, fused))


def _propose(
    product: Product, wanted: Wanted, floors: Floors, device: str, tile: tuple[int, int] | None, engine: Any
) -> Proposed:
    tile = tile or (TILE if engine is None else FUSED_TILE)
    row_norm, col_norm = (torch.from_numpy(norm) for norm in (product.row_norm, product.col_norm))
    precision: Precision = "fp32" if wanted.exact_sums else bits.fastest(device, product.rows.shape[1])
    if precision != "fp32" and not bits.tempered(row_norm, col_norm):
        precision = "fp32"
    scan = _Scan(product, wanted, floors, device, engine, precision, tile)
    with bits.set_precision(precision):
        for start, cols in strips(product.cols, tile[1], device):
            scan.strip(start, cols)
    return scan.proposed()


class _Scan:
    """The state of one scan: thresholds, sums, and the pairs that survived."""

    def __init__(self, product, wanted, floors, device, engine, precision, tile) -> None:
        self.product, self.wanted, self.device = product, wanted, device
        self.engine, self.precision, self.tile = engine, precision, tile
        self.vectors = product.rows.to(device)
        self.exact = torch.device(device).type != "mps"  # which has no float64
        self.rows = bits.row_operand(self.vectors, self._length(product.row_norm), precision)
        self.about = RowValues.of(product, device)
        self.by_row = Side("row", product.row_norm, wanted.row_orders, floors, device)
        self.by_col = Side("col", product.col_norm, wanted.col_orders, floors, device)
        self.row_l1, self.col_l1 = np.zeros(len(product.rows)), np.zeros(len(product.cols))
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []

    def _length(self, norm: np.ndarray) -> Tensor:
        return torch.from_numpy(norm if self.exact else norm.astype(np.float32)).to(self.device)

    def strip(self, start: int, cols: Tensor) -> None:
        """All rows against some columns."""
        here = slice(start, start + len(cols))
        operand = bits.column_operand(cols, self._length(self.product.col_norm[here]), self.precision)
        self._sample(here, operand, first=start == 0)
        for r in _growing(len(self.vectors), self.tile[0]):
            row, col, x, sums = self._survivors(r, here, operand)
            self.row_l1[r] += sums[0].cpu().double().numpy()
            self.col_l1[here] += sums[1].cpu().double().numpy()
            if self.exact:
                x = weigh(self.vectors, cols, row, col, self.engine)
                row, col, x = (column[x != 0] for column in (row, col, x))
            off = 0.0 if self.exact else _off(_at(self.rows, row), _at(operand, col)) + self.product.tiny
            lower = self.about.scores(row, x, off, -1)
            self.by_row.met(row, lower)
            self.by_col.met(col + start, lower)
            self.found.append((row, col + start, x if self.exact else torch.full_like(x, torch.nan)))

    def _sample(self, here: slice, cols: Operand, *, first: bool) -> None:
        """Thresholds of these columns from some rows, and of rows, once, from some of these columns."""
        most_rows, most_cols = (max(_SAMPLE, side // 8) for side in self.tile)
        some = torch.arange(0, len(self.vectors), max(1, len(self.vectors) // most_rows), device=self.device)
        rows = _at(self.rows, some)
        x = bits.product(rows, cols)
        off = _off(_each(rows), cols) + self.product.tiny
        self.by_col.sampled(here, self.about.scores(some, x, off, -1), 0)
        if not first:
            return
        cols = _at(cols, torch.arange(0, len(cols.matrix), max(1, len(cols.matrix) // most_cols), device=self.device))
        for i in range(0, len(self.vectors), self.tile[0]):
            r = slice(i, min(i + self.tile[0], len(self.vectors)))
            rows = _at(self.rows, r)
            off = _off(_each(rows), cols) + self.product.tiny
            self.by_row.sampled(r, self.about.scores(r, bits.product(rows, cols), off, -1), 1)

    def _survivors(self, r: slice, here: slice, cols: Operand) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Rows, columns within the strip and, without exact weights, products of what may be wanted; sums of sizes."""
        rows = _at(self.rows, r)
        while True:
            reach = self._thresholds(r, here)
            row, col, x, sums = self._compared(rows, cols, reach)
            most_rows, most_cols = (
                max(_MOST, length // 4, *(4 * n for _, n in side.orders))
                for length, side in ((len(cols.matrix), self.by_row), (len(rows.matrix), self.by_col))
            )
            many_rows = row.bincount(minlength=len(rows.matrix)) > most_rows
            many_cols = col.bincount(minlength=len(cols.matrix)) > most_cols
            many_rows &= ~self.by_row.dense[r] & bool(self.by_row.orders or self.wanted.min_z is not None)
            many_cols &= ~self.by_col.dense[here] & bool(self.by_col.orders)
            if not (many_rows.any() or many_cols.any()):
                return row + r.start, col, x, sums
            for side, span, which in ((self.by_row, r, many_rows), (self.by_col, here, many_cols)):
                whole_side = torch.zeros_like(side.dense)
                whole_side[span] = which
                side.give_up(whole_side)

    def _compared(
        self, rows: Operand, cols: Operand, reach: Thresholds
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        if self.engine is not None:
            try:
                words, *sums = self.engine.survivors(rows, cols, reach, self.precision, self.product.tiny, SLACK)
                row, col = self.engine.expand(words)
                return row, col, rows.scale.new_empty(0), (sums[0], sums[1])
            except Exception as error:  # whatever a compiler or a driver may say
                _say_why_not(self.device, error)
                self.engine = None
        mask, x, sums = _compared(rows, cols, reach, self.product.tiny)
        row, col = mask.nonzero(as_tuple=True)
        return row, col, x[row, col], sums

    def _thresholds(self, r: slice, here: slice) -> Thresholds:
        rows, cols, about = self.by_row.reach, self.by_col.reach, self.about
        row_z = rows["z"][r]
        if self.wanted.min_z is not None:
            least = row_z.clamp(max=self.wanted.min_z)
            row_z = torch.where(self.by_row.dense[r], row_z, least)
        return Thresholds(
            row_abs=rows["abs"][r],
            row_pos=rows["pos"][r],
            row_neg=rows["neg"][r],
            row_z=row_z,
            col_abs=cols["abs"][here],
            col_z=cols["z"][here],
            mean=about.mean[r],
            deviation=about.deviation[r],
            far=about.far[r],
            signs=bool(self.wanted.row_pos or self.wanted.row_neg),
            by_z=bool(self.wanted.row_z or self.wanted.col_z or self.wanted.min_z is not None),
        )

    def proposed(self) -> Proposed:
        """What reaches the last thresholds, in the order of (row, column)."""
        row, col, weight = (torch.cat(columns) for columns in zip(*self.found, strict=True)) if self.found else _none()
        if self.exact:
            upper = self.about.scores(row, weight, 0.0, 1)
            keep = self.by_row.reached(row, upper) | self.by_col.reached(col, upper)
            if self.wanted.min_z is not None:
                keep |= upper["z"] >= self.wanted.min_z
            row, col, weight = row[keep], col[keep], weight[keep]
        order = (row * len(self.product.cols) + col).argsort()
        return Proposed(
            row=row[order].int().cpu().numpy(),
            col=col[order].int().cpu().numpy(),
            dense_rows=self.by_row.dense.nonzero().flatten().int().cpu().numpy(),
            dense_cols=self.by_col.dense.nonzero().flatten().int().cpu().numpy(),
            row_l1=self.row_l1,
            col_l1=self.col_l1,
            weight=weight[order].cpu().numpy() if self.exact else None,
        )


def _compared(
    rows: Operand, cols: Operand, reach: Thresholds, tiny: float
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """What :func:`ingest.edges.fused.survivors` does, step by step: the mask, the products, sums of sizes."""
    x = bits.product(rows, cols)
    size = x.abs()
    off = _off(_each(rows), cols) + tiny
    loose = off + SLACK * size
    mask = size + loose >= torch.minimum(reach.row_abs[:, None], reach.col_abs)
    if reach.signs:
        mask |= (x + loose >= reach.row_pos[:, None]) | (loose - x >= reach.row_neg[:, None])
    if reach.by_z:
        away = (x - reach.mean[:, None]).abs()
        unit = reach.deviation[:, None]
        least = unit * torch.minimum(reach.row_z[:, None], reach.col_z)
        mask |= (unit > 0) & (away + (off + SLACK * away) + reach.far[:, None] >= least)
    mask &= (rows.second > 0)[:, None] & (cols.first > 0)
    return mask, x, (size.sum(dim=1), size.sum(dim=0))


def weigh(rows: Tensor, cols: Tensor, row: Tensor, col: Tensor, engine: Any) -> Tensor:
    """Exact weights of pairs, as :func:`ingest.edges.kernels.weigh` has them."""
    if engine is not None:
        return engine.weigh(rows, cols, row, col)
    depth = rows.shape[1]
    whole = -(-depth // LANES) * LANES
    weight = rows.new_empty(len(row))
    for start in range(0, len(row), _WEIGHED):
        span = slice(start, start + _WEIGHED)
        products = rows.new_zeros(len(row[span]), whole, dtype=torch.float64)
        products[:, :depth] = rows[row[span]].double() * cols[col[span]].double()
        lanes, *others = products.split(LANES, dim=1)
        for other in others:
            lanes = lanes + other
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        weight[span] = lanes[:, 0].float()
    return weight


def _growing(n: int, largest: int) -> Iterator[slice]:
    """Spans of rows, the first ones shorter: what they find raises the thresholds for the long ones."""
    first, size = 0, max(1, largest // 8)
    while first < n:
        yield slice(first, min(first + size, n))
        first, size = first + size, min(largest, first + size)


def _at(operand: Operand, which: slice | Tensor) -> Operand:
    return Operand(operand.matrix[which], operand.scale[which], operand.first[which], operand.second[which])


def _each(rows: Operand) -> Operand:
    """Bounds of rows against many columns each."""
    return Operand(rows.matrix, rows.scale, rows.first[:, None], rows.second[:, None])


def _off(rows: Operand, cols: Operand) -> Tensor:
    return rows.first * cols.first + rows.second * cols.second


def _none() -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0)


@lru_cache(maxsize=8)
def _engine(device: str, fused: bool | None):
    """The module of Triton kernels, where it is wanted and works on this device."""
    if fused is False or (fused is None and not device.startswith("cuda")):
        return None
    try:
        from ingest.edges import fused as engine

        engine.check(device)
    except Exception as error:  # whatever a compiler or a driver may say
        if fused:
            raise
        _say_why_not(device, error)
        return None
    return engine


def _say_why_not(device: str, error: Exception) -> None:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    logging.getLogger(__name__).warning("Triton does not work on %s (%s): torch's own operations do it", device, line)
