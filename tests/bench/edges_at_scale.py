"""A build timed in a process of its own, so that its peak of memory is its own: one line of JSON.

``python -m tests.bench.edges_at_scale FOLDER [DEVICE]``; :func:`write` puts a model of GPT-2's shapes with random
weights there, of so many layers, with a part of the features and of the vocabulary.
"""

from __future__ import annotations

import json
import sys
import tempfile
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


def timed_each(job: Any, some: list[Unit], sizes: Sizes, work: Callable[[list], object]) -> dict[str, float]:
    """Of the work alone; what it works on is made before and let go after."""
    total = {"cpu": 0.0, "wall": 0.0}
    for unit in some:
        pairs = operands(job, unit, sizes)
        for clock, taken in timed(lambda pairs=pairs: work(pairs)).items():
            total[clock] += taken
    return total


def bare(pairs: list[tuple[Tensor, Tensor]], pool: Pool, tile: tuple[int, int]) -> None:
    """Every product once, nothing done with it; a product of one thread a tile."""
    for rows, cols in pairs:
        places = [(i, j) for i in range(0, len(rows), tile[0]) for j in range(0, len(cols), tile[1])]

        def product(at: tuple[int, int], a: Tensor = rows, b: Tensor = cols) -> None:
            a[at[0] : at[0] + tile[0]] @ b[at[1] : at[1] + tile[1]].T  # let go at once: keeping them costs page faults

        pool.map(product, places)


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
    (WeightLens, https://github.com/egolimblevskaia/WeightLens, from its description).
    """
    layer = sizes.layers[-1]
    v = job.vectors
    start = time.perf_counter()
    for idx in range(features):
        read, write = v.reads(layer)[idx], v.writes(layer)[idx]
        for vectors, count, vector in [
            (v.token_writes(), 1000, read),
            (v.logit_reads(), 1000, write),
            *((v.writes(source), 100, read) for source in sizes.layers[:-1]),
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


def main(place: Path, device: str = "cpu") -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=place) as home:
        job = prepare(str(place / "model"), str(place / "set"), "bench/tc", None, None, None, device, home)
        sizes = Sizes.of(job.vectors)
        todo = units(sizes)
        with Pool() as pool:
            bare(operands(job, todo[0], sizes), pool, TILE)
            before = timed_each(job, todo[::2], sizes, lambda pairs: bare(pairs, pool, TILE))
        large = timed_each(job, todo, sizes, whole_calls)
        built: list[Build] = []
        ours = timed(lambda: built.append(stage(job)))  # type: ignore[arg-type]
        with Pool() as pool:
            after = timed_each(job, todo[1::2], sizes, lambda pairs: bare(pairs, pool, TILE))
        (build,) = built
        build.verify()
        noted = json.loads((build.path / "run.json").read_text())
        return {
            "layers": len(sizes.layers),
            "features": build.n_features,
            "threads": torch.get_num_threads(),
            "flop": 2 * sum(unit.products for unit in todo) * sizes.d_model,
            "bare": {clock: before[clock] + after[clock] for clock in before},
            "bare, few large products": large,
            "ours": ours,
            "loops, seconds a feature": loops(job, sizes, 48),
            "bytes per edge": bytes_per_edge(build),
            "predicted": noted["predicted"],
            "actual": noted["actual"],
        }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
