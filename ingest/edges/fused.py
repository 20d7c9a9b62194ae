"""Triton kernels: a tile's product that leaves only a bit a pair, and the exact weight of a pair.

The first (:func:`survivors`) multiplies a tile and compares each product with its row's and its column's thresholds
while it is still in registers. What leaves the chip is one bit a product, and sums of sizes by tile: no product is
written, no atomics, nothing that depends on the order of blocks. The second (:func:`weigh`) repeats
:func:`ingest.edges.kernels.dot` to the bit: products of float32 are exact in float64, and lanes are added in the same
order.

The logic runs without an accelerator too, in Triton's interpreter (``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from ingest.edges.kernels import LANES
from ingest.edges.precision import Operand, Precision

if TYPE_CHECKING:
    from ingest.edges.thresholds import Thresholds

_BLOCKS = ((128, 256, 64, 8, 3), (128, 128, 64, 8, 4), (128, 128, 32, 4, 4), (64, 128, 32, 4, 4))
"""rows, columns and depth of a block, warps and stages; the quickest is found when a depth is first met"""
_SMALL = {"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 2}
"""of the interpreter, for which a block is a numpy array"""
_PAIRS, _SMALL_PAIRS = 32, 1024
"""pairs weighed by one program, on an accelerator and interpreted"""
_WORD = tl.constexpr(32)


@triton.jit
def _survivors(
    rows, cols, row_scale, col_scale, row_first, row_second, col_first, col_second,
    row_abs, row_pos, row_neg, row_z, col_abs, col_z, mean, deviation, far,
    words, row_part, col_part, n_rows, n_cols, depth, tiny, slack, wide,
    SIGNS: tl.constexpr, BY_Z: tl.constexpr, MODE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # blocks in groups of GROUP rows of blocks, so that neighbours share what they read
    n_m, n_n = tl.cdiv(n_rows, BLOCK_M), tl.cdiv(n_cols, BLOCK_N)
    place = tl.program_id(0)
    group = place // (GROUP * n_n)
    height = min(n_m - group * GROUP, GROUP)
    m = group * GROUP + (place % (GROUP * n_n)) % height
    n = (place % (GROUP * n_n)) // height
    r = m * BLOCK_M + tl.arange(0, BLOCK_M)
    c = n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_col = r < n_rows, c < n_cols
    k = tl.arange(0, BLOCK_K)
    x = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, depth, BLOCK_K):
        is_k = start + k < depth
        a = tl.load(rows + r.to(tl.int64)[:, None] * depth + (start + k)[None, :], is_row[:, None] & is_k[None, :], 0.0)
        b = tl.load(cols + c.to(tl.int64)[None, :] * depth + (start + k)[:, None], is_col[None, :] & is_k[:, None], 0.0)
        x = tl.dot(a, b, x, input_precision=MODE)
    x = x * tl.load(row_scale + r, is_row, 0.0)[:, None] * tl.load(col_scale + c, is_col, 0.0)[None, :]
    size = tl.abs(x)
    tl.store(row_part + n.to(tl.int64) * n_rows + r, tl.sum(size, axis=1), is_row)
    tl.store(col_part + m.to(tl.int64) * n_cols + c, tl.sum(size, axis=0), is_col)

    second, length = tl.load(row_second + r, is_row, 0.0), tl.load(col_first + c, is_col, 0.0)
    off = tl.load(row_first + r, is_row, 0.0)[:, None] * length[None, :]
    off += second[:, None] * tl.load(col_second + c, is_col, 0.0)[None, :] + tiny
    loose = off + slack * size
    by_row, by_col = tl.load(row_abs + r, is_row, 0.0), tl.load(col_abs + c, is_col, 0.0)
    wanted = size + loose >= tl.minimum(by_row[:, None], by_col[None, :])
    if SIGNS:
        wanted |= x + loose >= tl.load(row_pos + r, is_row, 0.0)[:, None]
        wanted |= loose - x >= tl.load(row_neg + r, is_row, 0.0)[:, None]
    if BY_Z:
        away = tl.abs(x - tl.load(mean + r, is_row, 0.0)[:, None])
        unit = tl.load(deviation + r, is_row, 0.0)[:, None]
        least = tl.minimum(tl.load(row_z + r, is_row, 0.0)[:, None], tl.load(col_z + c, is_col, 0.0)[None, :])
        reach = away + (off + slack * away) + tl.load(far + r, is_row, 0.0)[:, None]
        wanted |= (unit > 0) & (reach >= unit * least)
    wanted &= (second > 0)[:, None] & (length > 0)[None, :]
    bits = tl.reshape(wanted.to(tl.int32), (BLOCK_M, BLOCK_N // _WORD, _WORD)) << tl.arange(0, _WORD)[None, None, :]
    w = n * (BLOCK_N // _WORD) + tl.arange(0, BLOCK_N // _WORD)
    n_words = tl.cdiv(n_cols, _WORD)
    at = words + r.to(tl.int64)[:, None] * n_words + w[None, :]
    tl.store(at, tl.sum(bits, axis=2), is_row[:, None] & (w < n_words)[None, :])


@triton.jit
def _weigh(rows, cols, row, col, weight, n_pairs, depth, PAIRS: tl.constexpr, LANES: tl.constexpr):
    p = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    is_pair = p < n_pairs
    r, c = tl.load(row + p, is_pair, 0).to(tl.int64), tl.load(col + p, is_pair, 0).to(tl.int64)
    k = tl.arange(0, LANES)
    lanes = tl.zeros((PAIRS, LANES), tl.float64)
    for start in range(0, depth, LANES):
        here = is_pair[:, None] & (start + k < depth)[None, :]
        a = tl.load(rows + r[:, None] * depth + (start + k)[None, :], here, 0.0)
        b = tl.load(cols + c[:, None] * depth + (start + k)[None, :], here, 0.0)
        lanes += a.to(tl.float64) * b.to(tl.float64)
    half: tl.constexpr = LANES // 2
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, half)), axis=1)
    quarter: tl.constexpr = half // 2
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, quarter)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, quarter // 2)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, quarter // 4)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, quarter // 8)), axis=1)
    lanes = tl.sum(tl.reshape(lanes, (PAIRS, 2, quarter // 16)), axis=1)
    total = tl.sum(lanes, axis=1)
    tl.store(weight + p, total.to(tl.float32), is_pair)


@lru_cache(maxsize=1)
def _tuned() -> Any:
    configs = [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP": 8}, num_warps=warps, num_stages=stages)
        for m, n, k, warps, stages in _BLOCKS
    ]
    parts = ["row_part", "col_part"]  # what a smaller block wrote must not stay behind
    return triton.autotune(configs, key=["depth", "MODE", "wide"], reset_to_zero=parts)(_survivors)


def survivors(
    rows: Operand, cols: Operand, reach: Thresholds, precision: Precision, tiny: float, slack: float
) -> tuple[Int32[Tensor, "n_rows n_words"], Float64[Tensor, " n_rows"], Float64[Tensor, " n_cols"]]:
    """A tile: which pairs reach a threshold, 32 columns a word, and sums of abs(x) by row and by column."""
    a, b = rows.matrix, cols.matrix
    (n_rows, depth), n_cols = a.shape, len(b)
    plain = a.device.type == "cpu"  # the interpreter, which has nothing to tune
    smallest = _SMALL if plain else {"BLOCK_M": 64, "BLOCK_N": 128}
    words = torch.empty(n_rows, -(-n_cols // 32), dtype=torch.int32, device=a.device)
    row_part = torch.zeros(-(-n_cols // smallest["BLOCK_N"]), n_rows, device=a.device)
    col_part = torch.zeros(-(-n_rows // smallest["BLOCK_M"]), n_cols, device=a.device)
    kernel, blocks = (_survivors, _SMALL) if plain else (_tuned(), {})
    mode = "ieee" if precision == "fp32" else "tf32"
    fixed: dict[str, Any] = {"SIGNS": reach.signs, "BY_Z": reach.by_z, "MODE": mode, **blocks}
    kernel[lambda size: (triton.cdiv(n_rows, size["BLOCK_M"]) * triton.cdiv(n_cols, size["BLOCK_N"]),)](
        a, b, rows.scale, cols.scale, rows.first, rows.second, cols.first, cols.second,
        reach.row_abs, reach.row_pos, reach.row_neg, reach.row_z, reach.col_abs, reach.col_z,
        reach.mean, reach.deviation, reach.far,
        words, row_part, col_part, n_rows, n_cols, depth, tiny, slack, a.element_size(), **fixed,
    )  # fmt: skip
    return words, row_part.double().sum(dim=0), col_part.double().sum(dim=0)


def expand(words: Int32[Tensor, "n_rows n_words"]) -> tuple[Tensor, Tensor]:
    """Rows and columns of the bits that are set, in the order of (row, column)."""
    place = words.nonzero()
    bits = (words[place[:, 0], place[:, 1]][:, None] >> torch.arange(32, device=words.device)) & 1
    which, bit = bits.nonzero(as_tuple=True)
    return place[which, 0], place[which, 1] * 32 + bit


def weigh(rows: Tensor, cols: Tensor, row: Tensor, col: Tensor) -> Float32[Tensor, " n_pairs"]:
    """The exact weights of pairs, as :func:`ingest.edges.kernels.weigh` has them."""
    weight = torch.empty(len(row), device=rows.device)
    pairs = _SMALL_PAIRS if rows.device.type == "cpu" else _PAIRS
    fixed: dict[str, Any] = {"PAIRS": pairs, "LANES": LANES}
    if len(row):
        _weigh[(triton.cdiv(len(row), pairs),)](rows, cols, row, col, weight, len(row), rows.shape[1], **fixed)
    return weight


def check(device: str) -> None:
    """Weigh one pair, so that a compiler or a driver that cannot says so before there is work."""
    one = torch.ones(2, 3, device=device)
    pair = torch.zeros(1, dtype=torch.int64, device=device)
    if weigh(one, one, pair, pair).item() != 3:
        raise RuntimeError("its arithmetic is not what it should be")
