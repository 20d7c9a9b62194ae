"""What an observation will cost, before it is paid."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ingest.device import duration, unknown
from ingest.evidence import corpus as texts
from ingest.evidence.capture import CELLS, Batch, Reader
from ingest.evidence.corpus import Corpus, Request
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.following import Following, FollowingTrial
from ingest.evidence.observe import Options
from ingest.evidence.subject import Subject

_TRIAL, _TRIAL_FLOP = 8192, 1e13
"""positions that are timed, or fewer where they would cost more than so much"""
_ROWS = 4096
"""features whose sums are timed"""
_FIRE_BYTES, _POSITION_BYTES = 8, 24
"""of a batch"""
_STREAMS = 24
"""vectors of the model's width that a forward pass holds at a position, about"""
_DENSE = 3
"""copies of a layer's activations while it is encoded"""
_COPIES = 3
"""of what fires in a shard: its batches, joined, and by feature"""
_ID_BYTES = 8
"""of a position: ids as they are read, and as they are drawn"""
_EXAMPLE_BYTES, _FEATURE_BYTES, _EDGE_BYTES = 160, 1000, 30
"""of what is staged, at most"""
_INDENT = "\n        "


@dataclass(frozen=True)
class Plan:
    """``str(plan)`` says it to a person."""

    set_key: str
    positions: int | None
    """None: as many as the text has"""
    reading: float | None
    """seconds a position: the model and all encoders; None where the device is elsewhere, so cannot be timed"""
    flop: float
    """of the same, a position"""
    tokenising: float
    """seconds a position"""
    counting: float
    """seconds a position: sums of all features, on the CPU, every block's reading of what fired included"""
    threads: int
    """of the CPU that counted"""
    l0: float
    """features that fire at a position, over all layers"""
    memory: int
    """bytes of sums held at once"""
    shard: int
    """bytes of what fired in one shard, about"""
    on_device: int
    """bytes of the model and all encoders, and about what a batch needs beside them"""
    blocks: int
    disk: int
    """bytes a position, for what fired, where the sums need several blocks or attention is followed; else 0"""
    staged: int
    """bytes of the finished observation, at most, about"""
    device: str
    heads: Following | None = None
    """what following attention adds, where it is followed"""

    def __str__(self) -> str:
        count = "the whole text" if self.positions is None else f"{self.positions:,} positions"
        n = self.positions or 1_000_000
        unit = "" if self.positions else " a million positions"
        on_cpu = (
            f"counting on the CPU ({self.threads} threads) {duration(self.counting * n)}, "
            f"tokenising {duration(self.tokenising * n)}"
        )
        if self.reading is None:
            away = unknown(self.flop * n, self.device).replace("; ", f";{_INDENT}")
            times = f"{on_cpu}{unit}, by a trial just run{_INDENT}model and encoders {away}{unit}"
        else:
            whole = self.reading + self.counting + self.tokenising + (self.heads.seconds if self.heads else 0.0)
            times = (
                f"{duration(whole * n)}{unit}, by a trial just run: "
                f"model and encoders on {self.device} {duration(self.reading * n)},{_INDENT}{on_cpu}"
            )
        work = f"{_gb(_ID_BYTES * n)}{unit} of token ids"
        if self.blocks == 1:
            work += f" and {_gb(self.disk * n)}{unit} of what fires" if self.heads else ""
            work += f", checkpoints {_gb(2 * (self.memory + (self.heads.memory if self.heads else 0)))}"
        else:
            work += (
                f" and {_gb(self.disk * n)}{unit} of what fires, which each of {self.blocks} blocks of features reads "
                f"for{_INDENT}its sums (more --memory means fewer)"
            )
        lines = [
            f"{self.set_key}: {count}; {self.l0:.0f} features fire at a position of {self.flop:.3g} FLOP",
            f"time    {times}",
            f"memory  {_gb(self.memory)} of sums and {_gb(self.shard)} of what fires, however long the text;"
            f"{_INDENT}on {self.device} about {_gb(self.on_device)} of model, encoders and a batch",
            f"disk    while it runs {work};{_INDENT}what is staged at most about {_gb(self.staged)}",
        ]
        return "\n".join([*lines, self._of_heads(self.heads, n, unit)] if self.heads else lines)

    def _of_heads(self, heads: Following, n: int, unit: str) -> str:
        again = "once more" if heads.passes == 1 else f"{heads.passes} times more (more --memory means fewer)"
        model = "" if self.reading is None else f" in {duration(heads.passes * heads.reading * n)}"
        return (
            f"heads   {heads.edges:,} edges through {heads.heads:,} heads: the model runs {again}{model}, and the CPU "
            f"counts {duration(heads.counting * n)}{unit};{_INDENT}{_gb(heads.memory)} of sums once the others are "
            f"done, {_gb(heads.patterns)} of patterns on {self.device}; without: --no-heads"
        )


def plan(subject: Subject, request: Request, options: Options, away: str | None = None) -> Plan:
    """Read the head of the text, run it, and count; stages nothing. Raises what :func:`observe` would for the text.

    ``away``: the device of the run, where it is none of this machine: the trial is on the subject's own.
    """
    windows = max(1, _TRIAL // request.context)
    text = texts.head(request, subject.tokenizer, subject.weights.n_vocab, 2 * windows)
    subject.runner.refuse_longer(text.longest, f"a window of {text.longest:,}")
    shape = Shape(np.cumsum([0, *subject.shape_of]), subject.weights.n_vocab, options.examples)
    blocks = shape.blocks(options.memory)
    reader = Reader(subject.runner, subject.source)
    flop = _flop(reader, subject, text)
    windows = max(1, min(windows, int(_TRIAL_FLOP / flop) // text.longest))
    # The last rows have the most sources; what they cost is scaled by the pairs that all rows visit.
    some = Sums(shape, range(max(shape.n_features - min(_ROWS, len(blocks[-1])), 0), shape.n_features))
    nothing = Sums(shape, range(1))
    reading = counting = again = 0.0
    trial, batch = FollowingTrial(subject, options, text), None
    for start in range(0, min(2 * windows, len(text)), windows):  # the last counts: the first also compiles
        ids = text.windows(start, min(start + windows, len(text)))
        counted = text.counted(ids, *subject.special)
        began = time.perf_counter()
        batch = reader.read(ids, counted, start)
        reading = time.perf_counter() - began
        trial.run(ids, counted, batch, start)
        counting, again = _timed(some, batch), _timed(nothing, batch)
    assert batch is not None
    positions, fired = max(len(batch.token), 1), len(batch.feature)
    every, visited = _visits(batch, shape.first, 0), _visits(batch, shape.first, some.rows.start)
    scale = every / max(visited, 1)
    a_position = _FIRE_BYTES * fired / positions + _POSITION_BYTES
    edges = subject.build.n_edges + 2 * options.strongest * shape.n_features
    a_feature = 2 * options.examples * (_EXAMPLE_BYTES + 4 * text.longest) + _FEATURE_BYTES
    return Plan(
        set_key=subject.build.set_key,
        positions=request.tokens,
        reading=None if away else reading / positions,
        flop=flop,
        tokenising=_tokenising(request, subject, text),
        counting=(max(counting - again, 0.0) * scale + again * len(blocks)) / positions,
        threads=numba.get_num_threads(),
        l0=fired / positions,
        memory=sum(shape.row_bytes(row) for row in blocks[0]),
        shard=int(_COPIES * max(options.shard, text.longest) * a_position),
        on_device=_on_device(reader, max(options.batch, text.longest)),
        blocks=len(blocks),
        disk=0 if len(blocks) == 1 and trial.sums is None else int(a_position),
        staged=edges * _EDGE_BYTES + shape.n_features * a_feature,
        device=away or str(subject.runner.device),
        heads=trial.result(),
    )


def _flop(reader: Reader, subject: Subject, text: Corpus) -> float:
    """A counted position's, of the model and all encoders, by running a window."""
    ids = text.windows(0, 1)
    # the CPU's own attention, which the counter of torch does not know
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        batch = reader.read(ids, text.counted(ids, *subject.special), 0)
    return counter.get_total_flops() / max(len(batch.token), 1)


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _tokenising(request: Request, subject: Subject, text: Corpus) -> float:
    if request.ids:
        return 0.0
    said = subject.tokenizer.decode(text.ids)
    began = time.perf_counter()
    count = len(subject.tokenizer(said, add_special_tokens=False, verbose=False)["input_ids"])
    return (time.perf_counter() - began) / max(count, 1)


def _on_device(reader: Reader, positions: int) -> int:
    model, encoders = reader.runner.model, reader.encoders
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [value for one in encoders for value in vars(one).values() if isinstance(value, torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    widest = max(one.n_features for one in encoders)
    dense = min(positions * widest, max(CELLS, widest)) * _DENSE
    streams = positions * reader.runner.weights.d_model * _STREAMS
    return sum(storages.values()) + (dense + streams) * reader.runner.dtype.itemsize


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


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e11 else f"{size / 1e12:,.2f} TB"
