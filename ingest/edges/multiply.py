"""A tile's product on the CPU, by the quicker of two libraries, which is found by trying them.

``torch.mm`` calls the BLAS that torch was built with. oneDNN (https://uxlfoundation.github.io/oneDNN/, in torch too)
multiplies by a matrix that was laid out for it before; columns are laid out once and meet all rows. Which is quicker
depends on the processor: oneDNN takes 0.87 of the time where that BLAS is made for another maker's. Both multiply and
add in float32, each in an order of its own, which the rounding bound of :mod:`ingest.edges.tiles` covers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from jaxtyping import Float32
from torch import Tensor

By = Callable[[Tensor, Tensor], Tensor]
"""a product: rows ``[n_rows d_model]`` and memory for as many products as there are, which may be used"""
_TRIED = (512, 1024)
"""rows and columns that are timed"""
_LARGE = 1 << 34
"""multiplications and additions below which trying takes longer than it saves"""


def by_blas(cols: Float32[Tensor, "n_cols d_model"]) -> By:
    return partial(_blas, cols)


def by_onednn(cols: Float32[Tensor, "n_cols d_model"]) -> By:
    """Takes as much memory again as ``cols``."""
    return partial(_onednn, torch.ops.mkldnn._reorder_linear_weight(cols))


def quicker(n_products: int, d_model: int) -> Callable[[Tensor], By]:
    """How to multiply by columns, where so many products are to be made."""
    if n_products * d_model < _LARGE:
        return by_blas
    return _tried(d_model)


def _blas(cols: Tensor, rows: Tensor, memory: Tensor) -> Tensor:
    return torch.mm(rows, cols.T, out=memory.view(len(rows), len(cols)))


def _onednn(cols: Tensor, rows: Tensor, memory: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, cols, None, "none", [], "")


@lru_cache(maxsize=16)
def _tried(d_model: int) -> Callable[[Tensor], By]:
    rows, cols = (torch.randn(n, d_model) for n in _TRIED)
    memory = torch.empty(_TRIED[0] * _TRIED[1])
    try:
        return min((by_blas, by_onednn), key=lambda way: _seconds(way(cols), rows, memory))
    except (AttributeError, RuntimeError):  # torch without oneDNN, or one that does not work on this processor
        return by_blas


def _seconds(by: By, rows: Tensor, memory: Tensor) -> float:
    """Of the quickest of a few: the first also loads kernels, others may be held up."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        by(rows, memory)
        taken.append(time.perf_counter() - start)
    return min(taken)
