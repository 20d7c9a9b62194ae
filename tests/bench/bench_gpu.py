"""What all edges cost on an accelerator: ``python -m tests.bench.bench_gpu [--whole]``. Results: LOG.md.

For each model's shapes, random weights: a unit of every kind, tokens and logits included, its products a second beside
the bare matrix product's in every precision, and what all units take at that rate; a minute or two each. ``--whole``
computes them all instead. Some rows are compared with all their weights in float64: recall is to be 1.

Targets, on one H200: 0.25 s, 2.5 s and 19 s; 85 % of the product's own rate or more.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from ingest.edges import Keep, Pool, precision, rules, spread
from ingest.edges.moments import moments
from ingest.edges.tiles import Found, Product, scan
from ingest.parts import Unit
from ingest.plan import Sizes, units

SHAPES = {
    "GPT-2 small, 24k": Sizes(tuple(range(12)), (24_576,) * 12, 50_257, 768),
    "Gemma-2-2b, 16k": Sizes(tuple(range(26)), (16_384,) * 26, 256_000, 2304),
    "Llama-3.2-1B, 131k": Sizes(tuple(range(16)), (131_072,) * 16, 128_256, 2048),
}
NONE = "no accelerator here: nothing was timed; run the same command where torch.cuda.is_available()"
CHECKED = 16
"""rows a unit that are compared with all their weights"""


@dataclass
class Timed:
    """One unit's products and seconds."""

    products: int
    moments: float
    scan: float
    bare: dict[str, float]
    """by precision"""
    recall: float


def vectors(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 0.1


def seconds(device: str, work) -> float:
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def bare(rows: Tensor, cols: Tensor, device: str) -> dict[str, float]:
    """Seconds of the product alone, a block at a time, in every precision."""
    found = {}
    rows, cols = rows[:8192].to(device), cols[:32_768].to(device)
    for name in ("fp32", "tf32", "fp16"):
        a, b = (
            make(v, torch.linalg.vector_norm(v, dim=1, dtype=torch.float64), name)
            for make, v in ((precision.row_operand, rows), (precision.column_operand, cols))
        )
        with precision.set_precision(name):

            def multiply(a=a.matrix, b=b.matrix):
                return torch.mm(a, b.T, out_dtype=torch.float32) if a.dtype == torch.float16 else a @ b.T

            multiply()
            found[name] = seconds(device, lambda multiply=multiply: [multiply() for _ in range(5)]) / 5
    return found


def recall(rows: Tensor, cols: Tensor, found: Found, kind: str) -> float:
    """The share of what some rows' rules want, by all their weights in float64, that was found."""
    order, count = ("abs", Keep().per_layer) if kind == "FEEDS" else ("pos", Keep().tokens)
    wanted = got = 0
    for r in np.linspace(0, len(rows) - 1, CHECKED).astype(int).tolist():
        weight = (cols.double() @ rows[r].double()).float()
        best = (weight.abs() if order == "abs" else weight).topk(count).indices.tolist()
        there = set(found.col[found.ptr[r] : found.ptr[r + 1]].tolist())
        wanted, got = wanted + count, got + len(there & set(best))
    return got / wanted


def time_unit(unit: Unit, sizes: Sizes, pool: Pool, device: str) -> Timed:
    n_rows = unit.last - unit.first
    n_cols = sizes.n_features[0] if unit.kind == "FEEDS" else sizes.n_vocab
    rows, cols = vectors(n_rows, sizes.d_model, 1), vectors(n_cols, sizes.d_model, 2)
    wanted = rules(unit.kind, Keep()).wanted
    mean = std = np.zeros(n_rows)
    before = 0.0
    if unit.kind != "logits":
        about = spread(cols, pool, device)
        moments(rows[:1024], cols, about, pool, device)  # loads kernels
        start = time.perf_counter()
        mean, std = moments(rows, cols, about, pool, device)
        before = time.perf_counter() - start
    product = Product(rows, cols, mean, std)
    scan(product, wanted, pool, device=device)  # compiles and tunes
    found: list[Found] = []
    taken = seconds(device, lambda: found.append(scan(product, wanted, pool, device=device)))
    alone = bare(rows, cols, device)
    part = n_rows * n_cols / (min(n_rows, 8192) * min(n_cols, 32_768))
    at = 1.0 if unit.kind == "logits" else recall(rows, cols, found[0], unit.kind)
    return Timed(n_rows * n_cols, before, taken, {name: part * t for name, t in alone.items()}, at)


def report(name: str, sizes: Sizes, device: str, whole: bool) -> None:
    todo = units(sizes)
    chosen = precision.fastest(device, sizes.d_model)
    print(f"\n{name}: {sum(unit.products for unit in todo):.3g} products, {chosen} by calibration")
    total = 0.0
    with Pool() as pool:
        for kind in ("ACTIVATES", "FEEDS", "PROMOTES", "logits"):
            ours = [unit for unit in todo if unit.kind == kind]
            timed = [time_unit(unit, sizes, pool, device) for unit in (ours if whole else ours[:1])]
            products, taken = sum(t.products for t in timed), sum(t.scan + t.moments for t in timed)
            expected = taken * sum(unit.products for unit in ours) / products
            total += expected
            alone = {precision_: sum(t.bare[precision_] for t in timed) for precision_ in timed[0].bare}
            best = min(alone.values())
            print(
                f"  {kind:<10}{products / taken / 1e9:8.1f} G products/s, {best / taken:.0%} of the quickest bare "
                f"product ({', '.join(f'{n} {products / t / 1e9:.1f}' for n, t in alone.items())}); "
                f"means and deviations {sum(t.moments for t in timed) / taken:.0%}; recall {timed[0].recall:.4f}; "
                f"all of them {expected:.2f} s"
            )
    print(f"  altogether {total:.2f} s")


def main(whole: bool = False) -> None:
    if not torch.cuda.is_available():
        print(NONE)
        return
    print(torch.cuda.get_device_name(), torch.__version__)
    for name, sizes in SHAPES.items():
        report(name, sizes, "cuda:0", whole)


@pytest.mark.timeout(3600)
def bench_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip(NONE)
    main()


if __name__ == "__main__":
    main("--whole" in sys.argv[1:])
