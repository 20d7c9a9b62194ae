"""What following attention will cost, before it is paid: some heads, a little text."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from atlas.through import has_heads
from ingest.evidence.attended import KINDS, AttendedSums, Part, groups, head_bytes, heads_of, rows
from ingest.evidence.attention import Attention
from ingest.evidence.capture import Batch
from ingest.evidence.corpus import Corpus
from ingest.evidence.observe import Options
from ingest.evidence.subject import Subject

_HEADS = 16
"""that are timed"""
_COPIES = 4
"""of a layer's patterns: scores, masked, behind the softmax, in single precision"""


@dataclass(frozen=True)
class Following:
    """What edges through heads add to a plan."""

    edges: int
    heads: int
    passes: int
    """of the model over the text: one for each group of heads whose sums fit into memory"""
    reading: float
    """seconds a position, of one pass: the model and its patterns"""
    counting: float
    """seconds a position, over all passes, on the CPU"""
    memory: int
    """bytes of sums held at once"""
    patterns: int
    """bytes of one layer's patterns and their copies"""

    @property
    def seconds(self) -> float:
        """a position"""
        return self.passes * self.reading + self.counting


class FollowingTrial:
    """Times some heads on some windows; where there is nothing to follow, :meth:`result` is None."""

    def __init__(self, subject: Subject, options: Options, text: Corpus) -> None:
        self.subject, self.options, self.text = subject, options, text
        self.sums = None
        if not (options.heads and has_heads(subject.build)):
            return
        build, every = subject.build, heads_of(subject.build)
        some = every[:: -(-len(every) // _HEADS)]
        fits = np.cumsum([head_bytes(build, head) for head in some]) <= options.memory
        self.some = some[: max(1, int(fits.sum()))]
        self.sums = AttendedSums(build, self.some, subject.weights.n_layers)
        self.attention = Attention(subject.runner)
        self.reading = self.counting = 0.0

    def run(self, ids: np.ndarray, counted: np.ndarray, batch: Batch, first: int) -> None:
        """Follow some windows, of which ``first`` is the first. The last call counts."""
        if self.sums is None:
            return
        sums, part = self.sums, Part(batch, first, self.sums.n_features, self.sums.n_vocab)
        counting = 0.0

        def see(layer: int, pattern: Tensor) -> None:
            nonlocal counting
            wanted = pattern[:, sums.numbers(layer)].float().cpu().contiguous().numpy()
            began = time.perf_counter()
            sums.add(layer, wanted, part)
            counting += time.perf_counter() - began

        began = time.perf_counter()
        self.attention.run(ids, counted, list(sums.layers), see, sums.scaled)
        n = max(len(batch.token), 1)
        self.reading, self.counting = (time.perf_counter() - began - counting) / n, counting / n

    def result(self) -> Following | None:
        if self.sums is None:
            return None
        build, every = self.subject.build, heads_of(self.subject.build)
        of_all, of_some = (
            sum(rows(build, kind, head) for head in heads for kind in KINDS) for heads in (every, self.some)
        )
        parts = groups(build, self.options.memory)
        weights = self.subject.weights
        windows = max(1, self.options.batch // self.text.longest)
        cells = windows * weights.n_heads * self.text.longest**2
        return Following(
            edges=of_all,
            heads=len(every),
            passes=len(parts),
            reading=self.reading,
            counting=self.counting * of_all / max(of_some, 1),
            memory=max(sum(head_bytes(build, head) for head in group) for group in parts),
            patterns=cells * _COPIES * self.subject.runner.dtype.itemsize,
        )
