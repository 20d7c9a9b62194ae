"""The seam for speed: two sets of vectors in, their strongest products and the sums of all of them out.

:func:`scan` looks at every product ``rows @ cols.T`` a tile at a time and holds none of them longer than its tile. How
a device does that is its own affair (:mod:`ingest.edges.compiled` on the CPU, :mod:`ingest.edges.portable` anywhere
torch runs); each proposes at least every pair that is wanted, using a proven bound on the rounding of its product. What
comes back is then settled here, alike for all: exact weights, exact order, so that the same pairs are kept with the
same bits whatever the device, the tile or the number of threads.

The rounding bound is the standard one for a dot product in any order of summation (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1): ``d u / (1 - d u)`` times the product of the vectors' lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ingest.edges import kernels
from ingest.edges.pool import Pool

_LARGEST = 2.0**126
"""of a weight, in float32"""
_BLIND = 2.0**-90
"""of a deviation: below it float32 has no z, and all pairs of the row are settled exactly"""
SLACK = 2.0**-20
"""relative, on every score: covers the few roundings of a score itself"""


@dataclass(frozen=True)
class Wanted:
    """How many of each order a scan must not lose, for every row and for every column; ties included.

    ``abs``, ``pos`` and ``neg`` order by weight, ``z`` by abs((weight - mean) / deviation), both of the pair's row.
    """

    row_abs: int = 0
    row_pos: int = 0
    row_neg: int = 0
    row_z: int = 0
    col_abs: int = 0
    col_z: int = 0
    min_z: float | None = None
    """also every pair of this abs(z) or more"""
    exact_sums: bool = False
    """whether sums of sizes are to be float32's, whatever else would be quicker"""

    @property
    def row_orders(self) -> list[tuple[str, int]]:
        return [(name, n) for name in ("abs", "pos", "neg", "z") if (n := getattr(self, f"row_{name}"))]

    @property
    def col_orders(self) -> list[tuple[str, int]]:
        return [(name, n) for name in ("abs", "z") if (n := getattr(self, f"col_{name}"))]


@dataclass(frozen=True)
class Floors:
    """What is known to be reached elsewhere: pairs below are not wanted by that order. Float32, one a row or column."""

    row_z: np.ndarray | None = None
    col_abs: np.ndarray | None = None
    col_z: np.ndarray | None = None

    def of(self, side: str, order: str) -> np.ndarray | None:
        return getattr(self, f"{side}_{order}", None)


class NotFinite(ValueError):
    """A vector has NaN or Inf, or a product would have: ``side`` is row or col, ``index`` the vector's."""

    def __init__(self, side: str, index: int) -> None:
        super().__init__(f"{side} {index} is not finite, or too long for float32")
        self.side, self.index = side, index
        self.group = 0
        """of its columns, where several are computed"""


@dataclass(frozen=True)
class Product:
    """Rows and columns to be multiplied, with what the rounding bound and z need.

    Raises :class:`NotFinite`: a comparison would drop NaN without a word.
    """

    rows: Float32[Tensor, "n_rows d_model"]
    cols: Float32[Tensor, "n_cols d_model"]
    mean: np.ndarray
    """of each row over all columns, float64"""
    std: np.ndarray
    row_norm: np.ndarray = field(init=False)
    """length of each row, rounded up, float64"""
    col_norm: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        for name, vectors in (("row_norm", self.rows), ("col_norm", self.cols)):
            object.__setattr__(self, name, lengths(vectors).numpy())
        norms = {"row": self.row_norm, "col": self.col_norm}
        for side, norm in norms.items():
            if not np.isfinite(norm).all():
                raise NotFinite(side, int(np.flatnonzero(~np.isfinite(norm))[0]))
        longest = {side: norm.max(initial=0.0) for side, norm in norms.items()}
        if longest["row"] * longest["col"] > _LARGEST:
            side = max(longest, key=lambda side: longest[side])
            raise NotFinite(side, int(norms[side].argmax()))

    @property
    def blind(self) -> np.ndarray:
        """Rows whose z float32 cannot tell."""
        return np.flatnonzero((self.std > 0) & (self.std < _BLIND)).astype(np.int32)

    @property
    def inverse(self) -> np.ndarray:
        """One over the deviation, float32; 0 where no z can be told from it."""
        std = np.where(self.std < _BLIND, np.inf, self.std)
        return (1 / std).astype(np.float32)

    @property
    def kappa(self) -> float:
        """Rounding of one product, per length of row times length of column."""
        d, unit = self.rows.shape[1] + 8, 2.0**-24
        return 1.01 * d * unit / (1 - d * unit)

    @property
    def tiny(self) -> float:
        """Rounding of one product where float32 runs out of exponent, or a device takes what is below it for zero."""
        longest = 1 + self.row_norm.max(initial=0) + self.col_norm.max(initial=0)
        return float((self.rows.shape[1] + 1) * 2.0**-124 * longest)


def lengths(vectors: Float32[Tensor, "n d_model"]) -> Float64[Tensor, " n"]:
    """Length of each vector, rounded up, by about 2e-7 of itself for each dimension.

    Squares are added in float32, in an eighth of the time that float64 takes, but for lengths whose squares float32
    cannot hold. Of ``d`` terms the sum errs by ``d`` units of rounding at most, whatever their order.
    """
    d = vectors.shape[1]
    found = torch.linalg.vector_norm(vectors, dim=1).double() * (1 + (d + 8) * 2.0**-23)
    far = ~((found > 1e-15) & (found < 1e15))
    if far.any():
        found[far] = torch.linalg.vector_norm(vectors[far], dim=1, dtype=torch.float64) * (1 + 1e-9)
    return found


@dataclass
class Proposed:
    """What a device found: at least all pairs wanted, in any order, and the sums it took on the way."""

    row: np.ndarray
    col: np.ndarray
    dense_rows: np.ndarray
    """rows with too many pairs too close to tell apart: settled from all their weights"""
    dense_cols: np.ndarray
    row_l1: np.ndarray
    col_l1: np.ndarray
    weight: np.ndarray | None = None
    """exact weights, float32, where the device has them; pairs are then in the order of (row, col), without repeats"""


@dataclass
class Found:
    """Pairs in the order of (row, col): at least all that are wanted, with exact weights, none of them zero."""

    ptr: np.ndarray
    """pairs of row r are ``ptr[r]`` to ``ptr[r + 1]``"""
    col: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    row_l1: np.ndarray
    """sum of abs(weight) over all columns, wanted or not; float64"""
    col_l1: np.ndarray

    @property
    def row(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.ptr) - 1, dtype=np.int32), np.diff(self.ptr))


def scan(
    product: Product,
    wanted: Wanted,
    pool: Pool,
    *,
    floors: Floors | None = None,
    device: str = "cpu",
    tile: tuple[int, int] | None = None,
) -> Found:
    """Look at every product once; return the wanted ones and the sums of all."""
    from ingest.edges import compiled, portable

    known = floors or Floors()
    if device == "cpu":
        proposed = compiled.propose(product, wanted, known, pool, tile or compiled.TILE)
    else:
        how, _, named = device.rpartition("=")  # torch=cpu, triton=cuda:0: as that device would
        proposed = portable.propose(product, wanted, known, named, tile, {"torch": False, "triton": True}.get(how))
    return settle(product, wanted, proposed, pool)


def settle(product: Product, wanted: Wanted, proposed: Proposed, pool: Pool) -> Found:
    """Give every proposed pair its exact weight and z, whoever proposed it."""
    rows, cols = product.rows.numpy(), product.cols.numpy()
    proposed = _settle_dense(product, wanted, proposed, pool)
    if len(product.blind) and (wanted.row_z or wanted.col_z or wanted.min_z is not None):
        row = np.repeat(product.blind, len(cols))
        col = np.tile(np.arange(len(cols), dtype=np.int32), len(product.blind))
        row, col = np.append(proposed.row, row), np.append(proposed.col, col)
        proposed = replace(proposed, row=row, col=col, weight=None)
    if proposed.weight is None:
        ptr, col = kernels.sort_pairs(proposed.row, proposed.col, len(rows))
        weight = np.empty(len(col), np.float32)
        pool.map(lambda span: kernels.weigh(rows, cols, ptr, col, *span, weight), pool.spans(len(rows), 1024))
        ptr, col, weight = kernels.drop_zeros(ptr, col, weight)
    else:
        ptr = np.concatenate([[0], np.bincount(proposed.row, minlength=len(rows)).cumsum()])
        col, weight = proposed.col, proposed.weight
    counts = np.diff(ptr)
    z = score(weight, np.repeat(product.mean, counts), np.repeat(product.std, counts))
    return Found(ptr, col, weight, z, proposed.row_l1, proposed.col_l1)


def score(weight: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """z as a reader of the graph derives it (:meth:`atlas.staging.Build.derive`), float32."""
    z = np.zeros(np.broadcast_shapes(weight.shape, np.shape(std)), np.float64)
    np.divide(weight.astype(np.float64) - mean, std, out=z, where=np.asarray(std) > 0)
    return z.astype(np.float32)


def _settle_dense(product: Product, wanted: Wanted, proposed: Proposed, pool: Pool) -> Proposed:
    rows, cols = product.rows.numpy(), product.cols.numpy()

    def best(vector: np.ndarray, others: np.ndarray, orders: list[tuple[str, int]], mean, std) -> np.ndarray:
        exact = np.empty(len(others), np.float64)
        kernels.dense(vector, others, exact)
        weight = exact.astype(np.float32)
        z = np.where(weight == 0, 0, np.abs(score(weight, mean, std)))
        scores = {"abs": np.abs(weight), "pos": weight, "neg": -weight, "z": z}
        picked = [first(scores[order], n) for order, n in orders]
        if wanted.min_z is not None:
            picked.append(np.flatnonzero(z >= wanted.min_z))
        return np.unique(np.concatenate([np.empty(0, np.int64), *picked])).astype(np.int32)

    def of_row(r: int) -> np.ndarray:
        return best(rows[r], cols, wanted.row_orders, product.mean[r], product.std[r])

    def of_col(c: int) -> np.ndarray:
        return best(cols[c], rows, wanted.col_orders, product.mean, product.std)

    in_rows = pool.map(of_row, proposed.dense_rows.tolist())
    in_cols = pool.map(of_col, proposed.dense_cols.tolist())
    if not in_rows and not in_cols:
        return proposed
    row = [np.repeat(proposed.dense_rows, [len(found) for found in in_rows]).astype(np.int32), *in_cols]
    col = [*in_rows, np.repeat(proposed.dense_cols, [len(found) for found in in_cols]).astype(np.int32)]
    row, col = np.concatenate([proposed.row, *row]), np.concatenate([proposed.col, *col])
    return replace(proposed, row=row, col=col, weight=None)


def first(scores: np.ndarray, n: int) -> np.ndarray:
    """Positions of the ``n`` largest positive scores, the lower position winning a tie."""
    positive = np.flatnonzero(scores > 0)
    return positive[np.argsort(-scores[positive], kind="stable")[:n]]
