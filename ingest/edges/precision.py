"""Multiplying in fewer bits, and how far off that can be.

A vector ``a`` is multiplied as ``a' = a - da``: rounded to what the hardware multiplies exactly, after a power of two
has brought its largest entry to where float16 is widest. Nothing is assumed of that rounding: ``|da|`` is computed. By
Cauchy and Schwarz

::

    |a.b - a'.b'| = |da.b + a'.db|  <=  |da| |b| + |a'| |db|
    |a'.b' - x|                     <=  k |a'| |b'|                        x: what the device returns

where ``k = d u / (1 - d u)`` bounds the rounding of a sum of ``d`` exact products in any order (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 3.1), with ``u = 2^-24`` where additions round to nearest and ``u =
2^-22`` where they may truncate, as in tensor cores (Fasi, Higham, Mikaitis and Pranesh 2021, doi:10.7717/peerj-cs.330).
A product of two float16, or of two numbers cut to the eleven digits of TF32, is exact in float32. Together

::

    |a.b - x|  <=  |da| |b|  +  (|a| + |da|) (|db| + k (|b| + |db|))

which :class:`Operand` keeps as two numbers a vector. What reaches a threshold within this bound may reach it; what does
not, does not: everything wanted is proposed, and what is proposed is then weighed exactly. So the number of pairs to
weigh depends on the precision, the result does not.

Sums of abs(x) are off by no more than the bounds of their products, added up. What a row lost to rounding is lost in
all its products, so less of it averages out than one may hope: with float16 or TF32, on the weights of the bundled
model, sums are off by 2 to 5 parts in 100,000 and by 3 in 10,000 at worst; in float32 by less than one in ten million.
So whoever needs shares to a millionth asks for float32 (``Keep.exact_sums``), and pays for its products.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from jaxtyping import Float32
from torch import Tensor

Precision = Literal["fp32", "tf32", "fp16"]
_TRUNCATED = 2.0**-22
_ROUNDED = 2.0**-24
_UP = 1 + 2.0**-16
"""covers the few roundings of a bound itself"""
_WIDEST = 15
"""binary exponent of a scaled vector's largest entry: 2^14 to 2^15, below float16's 65504"""
_TEMPERED = 60
"""binary exponent of a length beyond which float32 alone is safe"""
_WORTH = 1.2
"""times as fast as float32 a precision must be"""


@dataclass(frozen=True)
class Operand:
    """Vectors as a device multiplies them. ``matrix * scale`` is ``a'``."""

    matrix: Tensor
    """[n d_model], float32 or float16"""
    scale: Float32[Tensor, " n"]
    """powers of two"""
    first: Float32[Tensor, " n"]
    """``|da|`` of a row, ``|b|`` of a column"""
    second: Float32[Tensor, " n"]
    """``|a| + |da|`` of a row, ``|db| + k (|b| + |db|)`` of a column. A pair is off by the product of firsts and that
    of seconds, added"""


def row_operand(vectors: Float32[Tensor, "n d_model"], length: Tensor, precision: Precision) -> Operand:
    """``length``: of each vector, rounded up, float64; all on one device."""
    matrix, scale, lost = _rounded(vectors, precision)
    return Operand(matrix, scale, _up(lost), _up(length + lost))


def column_operand(vectors: Float32[Tensor, "n d_model"], length: Tensor, precision: Precision) -> Operand:
    matrix, scale, lost = _rounded(vectors, precision)
    terms = vectors.shape[1] + 8
    unit = _ROUNDED if precision == "fp32" else _TRUNCATED
    kappa = terms * unit / (1 - terms * unit)
    return Operand(matrix, scale, _up(length), _up(lost + kappa * (length + lost)))


def product(rows: Operand, cols: Operand) -> Float32[Tensor, "n_rows n_cols"]:
    """``x`` for every pair."""
    if rows.matrix.dtype == torch.float16:
        x = (
            torch.mm(rows.matrix, cols.matrix.T, out_dtype=torch.float32)
            if rows.matrix.is_cuda
            else rows.matrix.float() @ cols.matrix.float().T
        )
    else:
        x = rows.matrix @ cols.matrix.T
    return x.mul_(rows.scale[:, None]).mul_(cols.scale)


def tempered(*lengths: Tensor) -> bool:
    """Whether no vector is so long or so short that float16's or TF32's bounds would leave float32."""
    for length in lengths:
        exponents = torch.frexp(length[length > 0]).exponent
        if len(exponents) and exponents.abs().max() > _TEMPERED:
            return False
    return True


def _rounded(vectors: Tensor, precision: Precision) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix, the scale, and ``|da|`` in float64, or 0 where nothing is rounded."""
    one = vectors.new_ones(len(vectors))
    if precision == "fp32":
        return vectors, one, one - 1
    if precision == "tf32":
        bits = vectors.view(torch.int32)
        matrix = ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
        scale = one
    else:
        largest = vectors.abs().amax(dim=1)
        exponent = torch.where(largest > 0, torch.frexp(largest).exponent - _WIDEST, 0)
        scale = torch.ldexp(one, exponent)
        matrix = (vectors / scale[:, None]).half()
    lost = torch.linalg.vector_norm(vectors.double() - matrix.double() * scale.double()[:, None], dim=1)
    return matrix, scale, lost


def _up(bound: Tensor) -> Tensor:
    return (bound * _UP).float()


@lru_cache(maxsize=16)
def fastest(device: str, d_model: int) -> Precision:
    """The precision whose products are quickest on this device, by timing a few; float32 unless another is worth it."""
    if not device.startswith("cuda"):
        return "fp32"
    vectors = torch.randn(4096, d_model, device=device)
    seconds = {precision: _seconds(vectors, precision) for precision in get_args(Precision)}
    best: Precision = min(seconds, key=lambda precision: seconds[precision])
    return best if seconds["fp32"] > _WORTH * seconds[best] else "fp32"


def _seconds(vectors: Tensor, precision: Precision) -> float:
    length = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    rows, cols = row_operand(vectors, length, precision), column_operand(vectors, length, precision)
    with set_precision(precision):
        product(rows, cols)[0, 0].item()  # loads kernels
        start = time.perf_counter()
        for _ in range(4):
            product(rows, cols)[0, 0].item()
        return time.perf_counter() - start


@contextmanager
def set_precision(precision: Precision) -> Iterator[None]:
    """Let CUDA multiply float32 as TF32 or not at all so, whatever the caller's own setting; it comes back after."""
    if not torch.cuda.is_available():
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision, matmul.allow_fp16_reduced_precision_reduction
    matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    matmul.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.fp32_precision, matmul.allow_fp16_reduced_precision_reduction = before
