"""What an observation will cost, before it is paid."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from ingest.evidence import corpus as texts
from ingest.evidence.capture import Reader
from ingest.evidence.corpus import Request
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.observe import Options, Subject

_TRIAL = 8192
"""positions that are timed"""
_FIRE_BYTES = 8


@dataclass(frozen=True)
class Plan:
    """``str(plan)`` says it to a person."""

    set_key: str
    positions: int | None
    """None: as many as the text has"""
    seconds_a_position: float
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
            f"time    {self.seconds_a_position * n / 60:,.1f} min{unit} on {self.device}, by a trial just run",
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
    sums = Sums(shape, range(min(len(blocks[0]), 4096)))
    seconds, positions, fired = 0.0, 0, 0
    for start in range(0, len(text), windows):
        ids = text.windows(start, min(start + windows, len(text)))
        began = time.perf_counter()
        batch = reader.read(ids, text.counted(ids, *subject.special), start)
        sums.add(batch)
        seconds = time.perf_counter() - began  # the last: the first also compiles and warms up
        positions, fired = len(batch.token), len(batch.feature)
    return Plan(
        set_key=subject.build.set_key,
        positions=request.tokens,
        seconds_a_position=seconds / max(positions, 1),
        l0=fired / max(positions, 1),
        memory=max(sum(shape.row_bytes(row) for row in block) for block in blocks[:1]),
        blocks=len(blocks),
        disk=0 if len(blocks) == 1 else int(_FIRE_BYTES * fired / max(positions, 1)) + 24,
        device=str(subject.runner.device),
    )
