"""What an observation will cost, before it is paid."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ingest.evidence import corpus as texts
from ingest.evidence.capture import Batch, Reader
from ingest.evidence.corpus import Request
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.observe import Options, Subject

_TRIAL = 8192
"""positions that are timed"""
_ROWS = 4096
"""features whose sums are timed"""
_FIRE_BYTES = 8


@dataclass(frozen=True)
class Plan:
    """``str(plan)`` says it to a person."""

    set_key: str
    positions: int | None
    """None: as many as the text has"""
    reading: float
    """seconds a position: the model and all encoders"""
    counting: float
    """seconds a position: sums of all features, on the CPU, every block's reading of what fired included"""
    l0: float
    """features that fire at a position, over all layers"""
    memory: int
    """bytes of sums held at once"""
    blocks: int
    disk: int
    """bytes a position, for what fired, where the sums need several blocks; else 0"""
    device: str

    def __str__(self) -> str:
        count = "the whole text" if self.positions is None else f"{self.positions:,} positions"
        n = self.positions or 1_000_000
        unit = "" if self.positions else " a million positions"
        lines = [
            f"{self.set_key}: {count}; {self.l0:.0f} features fire at a position",
            f"time    {_time((self.reading + self.counting) * n)}{unit}, by a trial just run: model and encoders on "
            f"{self.device} {_time(self.reading * n)}, counting on the CPU {_time(self.counting * n)}",
            f"memory  {self.memory / 1e9:.2f} GB of sums, whatever the length of the text",
        ]
        if self.blocks > 1:
            lines.append(
                f"passes  the sums are taken in {self.blocks} blocks of features over what fired, which is kept on "
                f"disk meanwhile: {self.disk * n / 1e9:,.1f} GB{unit}; more --memory means fewer passes"
            )
        return "\n".join(lines)


def plan(subject: Subject, request: Request, options: Options) -> Plan:
    """Read the head of the text, run it, and count; stages nothing. Raises what :func:`observe` would for the text."""
    windows = max(1, _TRIAL // request.context)
    text = texts.head(request, subject.tokenizer, subject.weights.n_vocab, 2 * windows)
    shape = Shape(np.cumsum([0, *subject.shape_of]), subject.weights.n_vocab, options.examples)
    blocks = shape.blocks(options.memory)
    reader = Reader(subject.runner, subject.source)
    # The last rows have the most sources; what they cost is scaled by the pairs that all rows visit.
    some = Sums(shape, range(max(shape.n_features - min(_ROWS, len(blocks[-1])), 0), shape.n_features))
    nothing = Sums(shape, range(1))
    reading = counting = again = 0.0
    batch = None
    for start in range(0, len(text), windows):  # the last counts: the first also compiles and warms up
        ids = text.windows(start, min(start + windows, len(text)))
        began = time.perf_counter()
        batch = reader.read(ids, text.counted(ids, *subject.special), start)
        reading = time.perf_counter() - began
        counting, again = _timed(some, batch), _timed(nothing, batch)
    assert batch is not None
    positions, fired = max(len(batch.token), 1), len(batch.feature)
    every, counted = _visits(batch, shape.first, 0), _visits(batch, shape.first, some.rows.start)
    scale = every / max(counted, 1)
    return Plan(
        set_key=subject.build.set_key,
        positions=request.tokens,
        reading=reading / positions,
        counting=(max(counting - again, 0.0) * scale + again * len(blocks)) / positions,
        l0=fired / positions,
        memory=max(sum(shape.row_bytes(row) for row in block) for block in blocks[:1]),
        blocks=len(blocks),
        disk=0 if len(blocks) == 1 else int(_FIRE_BYTES * fired / positions) + 24,
        device=str(subject.runner.device),
    )


def _timed(sums: Sums, batch: Batch) -> float:
    began = time.perf_counter()
    sums.add(batch)
    return time.perf_counter() - began


def _visits(batch: Batch, first: np.ndarray, lowest: int) -> int:
    """Pairs of firings at one position that are counted for targets from row ``lowest`` on, and the firings."""
    position = np.repeat(np.arange(len(batch.token)), np.diff(batch.start))
    layer = np.searchsorted(first, batch.feature, side="right") - 1
    counts = np.zeros((len(batch.token), len(first) - 1), np.int64)
    np.add.at(counts, (position, layer), 1)
    earlier = np.cumsum(counts, axis=1) - counts
    wanted = batch.feature >= lowest
    return int(earlier[position[wanted], layer[wanted]].sum() + wanted.sum())


def _time(seconds: float) -> str:
    for unit, length, least in (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 60)):
        if seconds >= least:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
