"""A build timed in a process of its own, so that its peak of memory is its own: one line of JSON.

``python -m tests.bench.edges_at_scale FOLDER [DEVICE] [EVERY]``; :func:`write` puts a model of GPT-2's shapes with
random weights there, of so many layers, with a part of the features and of the vocabulary. Bare products are made of
one unit in EVERY, a third of them before the build, and counted for all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atlas.model import Activation, ReadSite, WriteSite
from atlas.staging import Build
from ingest.build import stage
from ingest.edges import Pool
from ingest.edges.compiled import TILE
from ingest.edges.multiply import By, by_blas, by_onednn
from ingest.job import prepare
from ingest.parts import Unit
from ingest.plan import Sizes, units
from tests.unit.ingest import models

D_MODEL, N_FEATURES, N_VOCAB = 768, 24_576, 50_257
_BLOCK = 4096


def write(folder: Path, layers: int, scale: int) -> None:
    """A model and its transcoders, with a ``scale``-th of the features and of the vocabulary."""
    from transformers import GPT2Config
    from transformers.models.gpt2 import GPT2LMHeadModel

    from ingest.transcoder import Transcoder

    torch.manual_seed(0)
    n_features, vocabulary = N_FEATURES // scale, {"vocab_size": N_VOCAB // scale, "bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_layer=layers, n_embd=D_MODEL, n_head=12, n_positions=64, n_inner=64, **vocabulary)
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    models.tokenizer(N_VOCAB // scale).save_pretrained(folder / "model")
    made = [
        Transcoder(
            layer=layer,
            w_enc=torch.randn(n_features, D_MODEL) * 0.1,
            b_enc=torch.zeros(n_features),
            w_dec=torch.randn(n_features, D_MODEL) * 0.05,
            b_dec=torch.zeros(D_MODEL),
            activation=Activation.RELU,
            read=ReadSite.NORM_POST_GAIN,
            write=WriteSite.MLP_RAW,
        )
        for layer in range(layers)
    ]
    models.write_circuit_tracer(folder / "set", made)


def clocks() -> tuple[float, float]:
    """Time of all this process's threads, and by the wall."""
    return time.process_time(), time.perf_counter()


def timed(work: Callable[[], object]) -> dict[str, float]:
    before = clocks()
    work()
    cpu, wall = (after - start for after, start in zip(clocks(), before, strict=True))
    return {"cpu": cpu, "wall": wall}


Clocks = dict[str, float]


def timed_each(job: Any, some: list[Unit], sizes: Sizes, work: Callable[[list], object]) -> Clocks:
    """Of the work alone; what it works on is made before and let go after."""
    total = {"cpu": 0.0, "wall": 0.0}
    for unit in some:
        pairs = operands(job, unit, sizes)
        for clock, taken in timed(lambda pairs=pairs: work(pairs)).items():
            total[clock] += taken
    return total


def bare(
    pairs: list[tuple[Tensor, Tensor]],
    pool: Pool,
    tile: tuple[int, int],
    way: Callable[[Tensor], By] = by_blas,
) -> None:
    """Every product once, nothing done with it; a product of one thread a tile."""
    memory = threading.local()
    for rows, cols in pairs:
        strips = [way(cols[j : j + tile[1]]) for j in range(0, len(cols), tile[1])]
        widths = [len(cols[j : j + tile[1]]) for j in range(0, len(cols), tile[1])]

        def product(at: tuple[int, int], a: Tensor = rows, strips: Any = strips, widths: Any = widths) -> None:
            if not hasattr(memory, "tile"):
                memory.tile = torch.empty(tile[0] * tile[1])
            here = a[at[0] : at[0] + tile[0]]
            strips[at[1]](here, memory.tile[: len(here) * widths[at[1]]])

        pool.map(product, [(i, j) for j in range(len(strips)) for i in range(0, len(rows), tile[0])])


def whole_calls(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """The same as few large products, as a library call would make them, threads inside."""
    for rows, cols in pairs:
        for i in range(0, len(rows), _BLOCK):
            for j in range(0, len(cols), _BLOCK):
                rows[i : i + _BLOCK] @ cols[j : j + _BLOCK].T


def operands(job: Any, unit: Unit, sizes: Sizes) -> list[tuple[Tensor, Tensor]]:
    """What a unit multiplies."""
    v, layer = job.vectors, sizes.layers[unit.layer]
    span = slice(unit.first, unit.last)
    match unit.kind:
        case "ACTIVATES":
            return [(v.reads(layer)[span], v.token_writes())]
        case "FEEDS":
            return [(v.reads(layer)[span], v.writes(source)) for source in sizes.layers[: unit.layer]]
        case "PROMOTES":
            return [(v.writes(layer)[span], v.logit_reads())]
    return [(v.logit_reads()[span], v.token_writes())]


def loops(job: Any, sizes: Sizes, features: int) -> float:
    """Seconds a feature of the published way: for each feature and each matrix their product, and its strongest entries
    (WeightLens, https://github.com/egolimblevskaia/WeightLens, from its description, without its forward passes).

    Features of the middle layer, which has as many layers before it as the mean layer. All matrices are at hand before
    the clock starts, as they are there.
    """
    v, middle = job.vectors, (len(sizes.layers) - 1) // 2
    layer = sizes.layers[middle]
    reads, writes = v.reads(layer), v.writes(layer)
    tokens, logits, others = v.token_writes(), v.logit_reads(), [v.writes(source) for source in sizes.layers[:middle]]
    start = time.perf_counter()
    for idx in range(features):
        read, write = reads[idx], writes[idx]
        for vectors, count, vector in [
            (tokens, 1000, read),
            (logits, 1000, write),
            *((vectors, 100, read) for vectors in others),
        ]:
            weights = vectors @ vector
            for largest in (True, False):
                best = torch.topk(weights, min(count, len(weights)), largest=largest).values
                (best - best.mean()) / best.std()
            weights.abs().sum()
    return (time.perf_counter() - start) / features


def bytes_per_edge(build: Build) -> float:
    files = [entry for name, entry in build.manifest["files"].items() if name.startswith("edges/")]
    return sum(entry["bytes"] for entry in files) / sum(entry["rows"] for entry in files)


class Bare:
    """The same products with nothing around them, in three ways, some before the build and some after."""

    def __init__(self, job: Any, todo: list[Unit], sizes: Sizes, every: int) -> None:
        self.job, self.sizes, self.all = job, sizes, sum(unit.products for unit in todo)
        self.some = sorted(todo, key=lambda unit: (unit.kind, unit.layer, unit.first))[::every]
        self.found: dict[str, Clocks] = {}

    def run(self, part: slice) -> None:
        some = self.some[part]
        with Pool() as pool:
            for way in (by_blas, by_onednn):
                name = f"tiles, {way.__name__.removeprefix('by_')}"
                self._note(
                    name, timed_each(self.job, some, self.sizes, lambda pairs, by=way: bare(pairs, pool, TILE, by))
                )
        self._note("few large products", timed_each(self.job, some, self.sizes, whole_calls))

    def _note(self, name: str, taken: Clocks) -> None:
        share = sum(unit.products for unit in self.some) / self.all
        before = self.found.setdefault(name, dict.fromkeys(taken, 0.0))
        self.found[name] = {clock: before[clock] + taken[clock] / share for clock in taken}


def main(place: Path, device: str = "cpu", every: str = "1") -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as home:
        job = prepare(str(place / "model"), str(place / "set"), "bench/tc", None, None, None, device, home)
        sizes = Sizes.of(job.vectors)
        todo = units(sizes)
        alone = Bare(job, todo, sizes, int(every))
        with Pool() as pool:
            bare(operands(job, todo[0], sizes), pool, TILE)
        alone.run(slice(0, None, 3))
        built: list[Build] = []
        ours = timed(lambda: built.append(stage(job)))  # type: ignore[arg-type]
        for start in (1, 2):
            alone.run(slice(start, None, 3))
        (build,) = built
        build.verify()
        noted = json.loads((build.path / "run.json").read_text())
        return {
            "layers": len(sizes.layers),
            "features": build.n_features,
            "threads": torch.get_num_threads(),
            "flop": 2 * sum(unit.products for unit in todo) * sizes.d_model,
            "bare": alone.found,
            "ours": ours,
            "loops, seconds a feature": loops(job, sizes, 48),
            "bytes per edge": bytes_per_edge(build),
            "predicted": noted["predicted"],
            "actual": noted["actual"],
        }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
