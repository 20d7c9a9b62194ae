"""What counting costs beside the model it listens to: CPU time of a pass over CPU time of the bare pass.

Bare: the forward pass and every encoder. Target: 2 or less at the bundled model's size. In one process, alternated.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from atlas import demo
from ingest.evidence.capture import Reader, Runner, joined, listening, load
from ingest.evidence.corpus import Request, head
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.observe import _tokenizer
from ingest.sources import open_transcoders
from ingest.weights import open_model

WINDOWS, BATCH, ROUNDS = 128, 16, 3


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def bench_counting_beside_the_bare_pass() -> None:
    weights, source = open_model(str(demo.MODEL)), open_transcoders(str(demo.TRANSCODERS))
    tokenizer = _tokenizer(str(demo.MODEL))
    text = head(Request(text=str(demo.CORPUS)), tokenizer, weights.n_vocab, WINDOWS)
    runner = Runner(load(str(demo.MODEL)), weights)
    reader = Reader(runner, source)
    shape = Shape(reader.first, weights.n_vocab, 16)
    sums = Sums(shape, range(shape.n_features))
    batches = [text.windows(start, start + BATCH) for start in range(0, WINDOWS, BATCH)]

    def bare() -> None:
        hooks = [(runner.layers[layer].norm, _encode(reader, index)) for index, layer in enumerate(reader.layers)]
        with listening(hooks):
            for ids in batches:
                runner.run(ids)

    def whole() -> None:
        read = [
            reader.read(ids, text.counted(ids, tokenizer.bos_token_id, None), number * BATCH)
            for number, ids in enumerate(batches)
        ]
        sums.add(joined(read))

    whole()  # compiles
    rounds = [(_seconds(bare), _seconds(whole)) for _ in range(ROUNDS)]
    ratio = statistics.median(full / alone for alone, full in rounds)
    positions = int(np.sum([ids.size for ids in batches]))
    print(f"\nobserve: {ratio:.2f} x the bare pass; {rounds[0][1] / positions * 1e6:.0f} us of CPU a position")


def _encode(reader: Reader, index: int) -> Callable:
    def hook(x, normed) -> None:
        reader.encoders[index].encode(reader.runner.read(reader.source.info.read, x, normed))

    return hook
