"""Threads over blocks, one BLAS thread each.

Cutting work into blocks and giving each thread whole ones keeps every core busy where threads inside one product would
wait for each other, and what a block yields cannot depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


class Pool:
    """A context: inside it torch works with one thread a call, and :meth:`map` with ``threads`` calls at once.

    ``threads`` is torch's own number if not said, so ``OMP_NUM_THREADS`` governs it. Inside, float32 is multiplied as
    float32, whatever the caller's own setting (``torch.set_float32_matmul_precision``): no bound here holds otherwise.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or torch.get_num_threads()
        self._before = torch.get_num_threads()

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._precision = _MATMUL.fp32_precision
        _MATMUL.fp32_precision = "ieee"
        self._executor = ThreadPoolExecutor(self.threads, "edges", initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        torch.set_num_threads(self._before)
        _MATMUL.fp32_precision = self._precision

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results in the order of ``items``, whichever finished first."""
        return list(self._executor.map(work, items))

    def spans(self, n: int, at_least: int = 1) -> list[tuple[int, int]]:
        """``n`` items cut into spans of about equal size, a few for each thread."""
        step = max(at_least, -(-n // (4 * self.threads)))
        return [(first, min(n, first + step)) for first in range(0, n, step)]
