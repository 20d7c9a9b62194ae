"""What counting costs beside the model it listens to: CPU time of a pass over CPU time of the bare pass.

Bare: the forward pass and every encoder. Target: 2 or less at the bundled model's size, the search for the strongest
by TWERA and drive included: it is paid once a text, so its seconds are spread over the 2.5 million positions of the
bundled corpus. In one process, alternated. ``BENCH_WINDOWS`` (default 128) says how much text is timed.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ingest
from atlas import demo
from atlas.through import VIA
from ingest.evidence.capture import Batch, Reader, joined, listening
from ingest.evidence.corpus import Request, head
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.observe import Options, observe
from ingest.evidence.relations import Relations, Totals
from ingest.evidence.subject import open_subject
from ingest.folding import Vectors

HEADS = 8
"""kept through each head, of each end"""
WINDOWS, BATCH, ROUNDS = int(os.environ.get("BENCH_WINDOWS", "128")), 16, 3
POSITIONS = 2_500_000
"""of the bundled corpus"""


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.timeout(3600)
def test_counting_beside_the_bare_pass(tmp_path: Path) -> None:
    build = ingest.build(
        model=str(demo.MODEL), transcoders=str(demo.TRANSCODERS), name="bunny/tc-1k", home=tmp_path, device="cpu"
    )
    subject = open_subject(build, str(demo.MODEL), str(demo.TRANSCODERS))
    n_vocab, tokenizer = subject.weights.n_vocab, subject.tokenizer
    text = head(Request(text=str(demo.CORPUS)), tokenizer, n_vocab, WINDOWS)
    reader = Reader(subject.runner, subject.source)
    shape = Shape(reader.first, n_vocab, 16)
    sums = Sums(shape, range(shape.n_features))
    batches = [text.windows(start, start + BATCH) for start in range(0, WINDOWS, BATCH)]
    kept: list[Batch] = []

    def bare() -> None:
        layers = enumerate(reader.layers)
        hooks = [(subject.runner.layers[layer].norm, _encode(reader, index)) for index, layer in layers]
        with listening(hooks):
            for ids in batches:
                subject.runner.run(ids)

    def whole() -> None:
        read = [
            reader.read(ids, text.counted(ids, *subject.special), number * BATCH) for number, ids in enumerate(batches)
        ]
        kept[:] = [joined(read)]
        sums.add(kept[0])

    whole()  # compiles
    rounds = [(_seconds(bare), _seconds(whole)) for _ in range(ROUNDS)]
    positions = int(np.sum([ids.size for ids in batches]))
    alone, full = (statistics.median(column) / positions for column in zip(*rounds, strict=True))
    totals = _totals(kept[0], shape)
    relations = Relations(build, Vectors(subject.weights, subject.source), shape, totals, 16)
    once = _seconds(lambda: relations.feeds(sums)) + _seconds(lambda: relations.features(sums))
    print(f"\nbare {alone * 1e6:.0f} us a position, observed {full * 1e6:.0f}: {full / alone:.2f} x")
    print(f"relating {once:.0f} s once: {(full + once / POSITIONS) / alone:.2f} x over {POSITIONS:,} positions")


@pytest.mark.timeout(3600)
def test_following_attention_beside_a_run_without(tmp_path: Path) -> None:
    """Whole runs, from text to files, on two lengths of text: what a position costs is the difference."""
    places = {"model": str(demo.MODEL), "transcoders": str(demo.TRANSCODERS)}
    keep = ingest.Keep(heads=HEADS)
    build = ingest.build(**places, name="bunny/tc-1k", keep=keep, home=tmp_path, device="cpu")
    subject = open_subject(build, *places.values())
    few, many = (Request(text=str(demo.CORPUS), tokens=n * 256) for n in (WINDOWS // 4, WINDOWS))
    observe(subject, few, Options(), name="compiles")
    costs = []
    for heads in (False, True):
        options = Options(heads=heads)
        spent = [
            _seconds(
                lambda asked=asked, options=options: observe(
                    subject, asked, options, name=f"{options.heads}-{asked.tokens}"
                )
            )
            for asked in (few, many)
        ]
        costs.append((spent[1] - spent[0]) / (many.tokens - few.tokens))
    edges = sum(build.rows(f"edges/{kind}/") for kind in VIA)
    print(
        f"\n{costs[0] * 1e6:.0f} us a position without heads, {costs[1] * 1e6:.0f} with {edges:,} edges through them: "
        f"{costs[1] / costs[0]:.2f} x"
    )


def _totals(batch: Batch, shape: Shape) -> Totals:
    """What Relations needs to know of the batch."""
    n = shape.n_features
    counts = np.bincount(batch.feature, minlength=n), np.bincount(batch.feature, batch.value, n)
    tokens = np.bincount(batch.token, minlength=shape.n_vocab)
    return Totals(len(batch.token), tokens, batch.inverse, *counts)


def _encode(reader: Reader, index: int) -> Callable:
    def hook(x, normed) -> None:
        reader.encoders[index].encode(reader.runner.read(reader.source.info.read, x, normed))

    return hook
