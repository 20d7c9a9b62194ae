"""What is needed next, on its way while the present is in use.

:func:`ahead` makes the next item of anything in a thread: so layers are read and folded while others are computed.
:func:`strips` copies vectors to a device the same way: it need hold two strips, however many vectors there are, and
copying costs time only where it takes longer than the products do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items; each is made while the one before it is in use."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield item  # type: ignore[misc]


def strips(vectors: Tensor, width: int, device: str) -> Iterator[tuple[int, Tensor]]:
    """The first number of each strip, and its vectors on the device."""
    starts = range(0, len(vectors), width)
    if not device.startswith("cuda"):
        yield from ((start, vectors[start : start + width].to(device)) for start in starts)
        return
    stream = torch.cuda.Stream(device)

    def fetch(start: int) -> tuple[int, Tensor]:
        with torch.cuda.stream(stream):
            strip = vectors[start : start + width].pin_memory().to(device, non_blocking=True)
        stream.synchronize()
        return start, strip

    for start, strip in ahead(map(fetch, starts)):
        strip.record_stream(torch.cuda.current_stream(device))
        yield start, strip
