"""What a build will cost, before it is paid: units of work, relationships, bytes, memory, time.

Units follow from the sizes alone, never from the machine, so that any machine stages the same files.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch

from ingest.device import duration, elsewhere, unknown
from ingest.edges import Keep, precision
from ingest.edges.compiled import STRIP, TILE
from ingest.edges.multiply import quicker
from ingest.parts import Unit

if TYPE_CHECKING:
    from atlas.staging import Build
    from ingest.folding import Vectors

COMPARED = ("seconds", "edges", "disk", "temporary", "memory")
"""what a finished build says it was predicted, and what it was"""
_UNIT_FLOP = 1.5e13
"""of one unit, about: a minute or two on a laptop is what an interruption may cost"""
_BLOCK = 1024
"""rows of a unit are a multiple of it"""
_BLOCKS = 32
"""units of one kind and layer, at most: what their columns keep is stored for each of them"""
_LOOKING = 1.06
"""a product that is compared and added up, over the bare product"""
_DOUBLE = 1.2
"""of what a sum of squares in float64 takes over the same in float32, half of it left out by symmetry"""
_RESCORING = 14
"""an exact weight over a product of the same length within a matrix product"""
_EDGE_SECONDS = 5e-7
"""to sort an edge in and write it"""
_STARTING = 2.0
"""seconds, to load what was compiled and to write the small files"""
_EDGE_BYTES = 6.5
_NODE_BYTES = 60
_NODE_LAYER_BYTES = 16
"""of a feature, for each layer it has statistics and cuts of"""
_CANDIDATE_BYTES = 16
_PAIR_BYTES = 300
"""of a proposed pair, in a reservoir and in the lists that become edges"""
_LIBRARIES = 950 << 20
CACHE = 768 << 20
"""bytes of folded layers that are kept, so that memory does not grow with their number; to fold one again takes a
hundredth of what is computed with it"""


@dataclass(frozen=True)
class Sizes:
    """The axes of a model and its set."""

    layers: tuple[int, ...]
    n_features: tuple[int, ...]
    n_vocab: int
    d_model: int
    feeds: bool = True
    """whether features of one layer feed those of the next: not those of autoencoders, where none computes another"""
    first: tuple[int, ...] = field(init=False)
    """row number of each layer's first feature"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", tuple(accumulate(self.n_features[:-1], initial=0)))

    @classmethod
    def of(cls, vectors: Vectors) -> Sizes:
        feeds = vectors.source.info.kind != "sae"
        return cls(tuple(vectors.layers), tuple(vectors.n_features), vectors.n_vocab, vectors.d_model, feeds)


def units(sizes: Sizes) -> list[Unit]:
    """All units of a build, in the order in which they are best done: what labels need first."""

    def blocks(kind: str, layer: int, rows: int, cols: int) -> list[Unit]:
        flop = 2 * sizes.d_model * max(cols, 1)
        step = max(1, int(_UNIT_FLOP / flop) // _BLOCK, -(-rows // (_BLOCK * _BLOCKS))) * _BLOCK
        bounds = [*range(0, rows, step), rows]
        return [Unit(kind, layer, a, b, (b - a) * cols) for a, b in pairwise(bounds)]

    found: list[Unit] = []
    for layer, n in enumerate(sizes.n_features):
        found += blocks("ACTIVATES", layer, n, sizes.n_vocab)
        if layer and sizes.feeds:
            found += blocks("FEEDS", layer, n, sum(sizes.n_features[:layer]))
        found += blocks("PROMOTES", layer, n, sizes.n_vocab)
    return found + blocks("logits", 0, sizes.n_vocab, sizes.n_vocab)


@dataclass(frozen=True)
class Plan:
    """What a build will cost; ``str(plan)`` says it to a person."""

    name: str
    layers: int
    features: int
    pairs: int
    """of layers that FEEDS join"""
    products: int
    """dot products over all kinds"""
    flop: float
    edges: dict[str, int]
    """at most so many, by kind; with ``min_z``, what normal weights would add"""
    disk: int
    """bytes of the finished build, about"""
    temporary: int
    """bytes of its parts while it is made, at most"""
    memory: int
    """bytes, about"""
    seconds: float | None
    """by a short calibration of the device; None where none was made, or the device is elsewhere"""
    device: str

    def __str__(self) -> str:
        time_ = "" if self.seconds is None else f"time      about {duration(self.seconds)} on {self.device}\n"
        if elsewhere(self.device):
            time_ = f"time      {unknown(self.flop, self.device)}\n"
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in self.edges.items())
        return (
            f"{self.name}: {self.layers} layers, {self.features:,} features\n"
            f"products  {self.products:,} over {self.pairs} pairs of layers, tokens and logits ({self.flop:.2g} FLOP)\n"
            f"edges     at most {sum(self.edges.values()):,} ({kinds})\n"
            f"disk      about {_size(self.disk)}, and up to {_size(self.temporary)} while it is made\n"
            f"memory    about {_size(self.memory)}\n{time_}"
        ).rstrip()


def estimate(name: str, sizes: Sizes, keep: Keep, min_z: float | None, *, device: str, calibrate: bool = True) -> Plan:
    """Count what a build will do and keep; with ``calibrate``, time a few products for half a second."""
    all_units = units(sizes)
    products = sum(unit.products for unit in all_units)
    flop = 2.0 * products * sizes.d_model
    n, v, count = sizes.n_features, sizes.n_vocab, sum(sizes.n_features)
    pairs = [(s, t) for t in range(len(n)) for s in range(t)] if sizes.feeds else []
    by_layer = sum(min(n[s] * n[t], keep.per_layer * (n[s] + n[t])) for s, t in pairs)
    by_z = keep.z * (count - n[0] + count - n[-1])
    token = sum(min(f * v, 2 * keep.tokens * f) for f in n) + min(count * v, keep.features_per_token * v)
    edges = {
        "ACTIVATES": min(token, count * v),
        "FEEDS": min(by_layer + by_z, sum(n[s] * n[t] for s, t in pairs)),
        "PROMOTES": min(token, count * v),
    }
    if min_z is not None:
        beyond = math.erfc(min_z / math.sqrt(2))
        for kind in edges:
            edges[kind] += int(beyond * sum(unit.products for unit in all_units if unit.kind == kind))
    total = sum(edges.values())
    candidates, sums = _spilled(all_units, sizes, keep)
    seconds = None
    if calibrate:
        squares = count + 2 * v + sum(n[t] for _, t in pairs) + 2 * count  # rows in covariances, and against them
        work = _LOOKING * flop + 2 * sizes.d_model * (_DOUBLE * sizes.d_model * squares + _RESCORING * candidates)
        seconds = work / _speed(sizes.d_model, device, flop, keep.exact_sums) + _EDGE_SECONDS * total + _STARTING
    return Plan(
        name=name,
        layers=len(n),
        features=count,
        pairs=len(pairs),
        products=products,
        flop=flop,
        edges=edges,
        disk=int(total * _EDGE_BYTES + (count + v) * _NODE_BYTES + count * len(n) * _NODE_LAYER_BYTES),
        temporary=_CANDIDATE_BYTES * candidates + 8 * sums + 24 * total + 8 * (len(n) + 2) * sizes.d_model**2,
        memory=_memory(sizes, keep),
        seconds=seconds,
        device=device,
    )


def compared(build: Build) -> str:
    """What a build did cost and what it was predicted to, for a person; empty for one of another version of ours."""
    noted = json.loads((build.path / "run.json").read_text())
    if "predicted" not in noted:
        return ""
    found, told = noted["actual"], noted["predicted"]
    edges, most = (sum(said["edges"].values()) for said in (found, told))
    return (
        f"took {duration(found['seconds'])} (predicted {duration(told['seconds'])}), "
        f"{edges:,} edges (at most {most:,}), {_size(found['disk'])} on disk ({_size(told['disk'])}), "
        f"{_size(found['temporary'])} beside it while it was made ({_size(told['temporary'])}), "
        f"{_size(found['memory'])} of memory ({_size(told['memory'])})"
    )


def _spilled(all_units: list[Unit], sizes: Sizes, keep: Keep) -> tuple[int, int]:
    """How many candidates of columns all units hand out, and how many columns' sums.

    The first unit of a layer offers every column its whole share. Of the n-th as many rows, one in n is among the
    strongest so far.
    """
    candidates, sums, seen = 0.0, 0, Counter()
    for unit in all_units:
        columns = sum(sizes.n_features[: unit.layer]) if unit.kind == "FEEDS" else sizes.n_vocab
        sums += columns
        if unit.kind != "logits":
            each = keep.per_layer + keep.z + 2 if unit.kind == "FEEDS" else keep.features_per_token + 1
            key = (unit.kind, unit.layer)
            seen[key] += 1
            candidates += min(each / seen[key], unit.last - unit.first) * columns
    return int(candidates), sums


def _memory(sizes: Sizes, keep: Keep) -> int:
    """Vectors in hand, libraries, what tiles are laid out for, and the pairs that the widest unit proposes."""
    n = max(sizes.n_features)
    vectors = 4 * sizes.d_model * 3 * sizes.n_vocab
    layers, widest = 8 * sizes.d_model * sum(sizes.n_features), 8 * sizes.d_model * n
    laid_out = 4 * sizes.d_model * TILE[1] * STRIP * torch.get_num_threads()
    pairs = max(
        2 * n * (keep.per_layer + keep.z + 2),
        sizes.n_vocab * (keep.features_per_token + 1) + 2 * n * (keep.tokens + 1),
    )
    return vectors + max(min(layers, CACHE), 2 * widest) + laid_out + _PAIR_BYTES * pairs + _LIBRARIES


def _speed(d_model: int, device: str, flop_to_do: float, exact_sums: bool) -> float:
    """FLOP a second of the bare product, all threads; half a second, or a hundredth of what there is to do."""
    kind = "fp32" if exact_sums else precision.fastest(device, d_model)
    a, b = torch.randn(2048, d_model, device=device), torch.randn(4096, d_model, device=device)
    length = [torch.linalg.vector_norm(vectors, dim=1) for vectors in (a, b)]
    rows, cols = precision.row_operand(a, length[0], kind), precision.column_operand(b, length[1], kind)
    flop, done, start, patience = 2.0 * len(a) * len(b) * d_model, 0, 0.0, 0.0
    memory = torch.empty(len(a) * len(b) if device == "cpu" else 0)
    by = quicker(int(flop_to_do), d_model)(b) if device == "cpu" else None
    with precision.set_precision(kind):
        while done < 2 or time.perf_counter() - start < patience:
            began = time.perf_counter()
            (by(a, memory) if by else precision.product(rows, cols))[0, 0].item()
            done += 1
            if done == 1:  # the first also starts threads and loads kernels
                start = time.perf_counter()
                patience = min(0.4, 0.01 * (start - began) * flop_to_do / flop)
    return flop * (done - 1) / (time.perf_counter() - start)


def _size(n: float) -> str:
    power = min(4, int(math.log10(max(n, 1))) // 3)
    return f"{n / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
