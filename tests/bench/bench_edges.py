"""What all edges cost beside their bare matrix products, and beside a loop over features. Results: LOG.md.

``ATLAS_BENCH_SCALE`` divides features and vocabulary (1: GPT-2 small's, the figure that counts; 8: a minute).
``ATLAS_BENCH_LAYERS``: how many of its 12 layers, several to see growth, such as ``3,12``. ``OMP_NUM_THREADS``: threads
of all sides alike. ``ATLAS_BENCH_EVERY``: bare products of one unit in so many, counted for all; 1 if not said.

Targets: whole pipeline, Parquet included, 1.10 of the bare product or less (sgemm by the BLAS that torch calls, by
tiles or by few large products, whichever is quicker), aim 1.05; 50 times as fast as the loop;
less than 4 GB, whatever the number of layers; 8.5 bytes an edge or less; ten million features at a cost that grows with
the products alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ingest.edges import Keep, Pool, rules, spread
from ingest.edges.moments import moments
from ingest.edges.tiles import Product, scan
from ingest.plan import Sizes, estimate
from tests.bench.edges_at_scale import bare, timed, write

SCALE = int(os.environ.get("ATLAS_BENCH_SCALE", "1"))
EVERY = os.environ.get("ATLAS_BENCH_EVERY", "1")
LAYERS = [int(n) for n in os.environ.get("ATLAS_BENCH_LAYERS", "3").split(",")]
ROOT = Path(__file__).parents[2]
LARGEST = Sizes(tuple(range(26)), (393_216,) * 26, 256_000, 2304)
MB = 1e6


def build(folder: Path, layers: int, device: str = "cpu") -> dict[str, Any]:
    """Write a model and build it in a process of its own."""
    folder.mkdir()
    write(folder, layers, SCALE)
    command = [sys.executable, "-m", "tests.bench.edges_at_scale", str(folder), device, EVERY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(6 * 3600)
def bench_the_whole_pipeline_beside_bare_products_and_loops(tmp_path: Path) -> None:
    for layers in LAYERS:
        found = build(tmp_path / str(layers), layers)
        actual, predicted, ours = found["actual"], found["predicted"], found["ours"]
        alone = found["bare"]
        fastest = {clock: min(alone[name][clock] for name in alone if name != "tiles, onednn") for clock in ours}
        other = alone["tiles, onednn"]
        n_edges, a_feature = sum(actual["edges"].values()), ours["wall"] / found["features"]
        print(
            f"\n{layers} layers, {found['features']:,} features (GPT-2 small's / {SCALE}), {found['threads']} threads\n"
            f"  whole / bare product   {ours['cpu'] / fastest['cpu']:.3f} of CPU time, "
            f"{ours['wall'] / fastest['wall']:.3f} by the wall "
            f"({ours['wall']:.1f} s / {fastest['wall']:.1f} s, {found['flop'] / fastest['wall'] / 1e9:.0f} GFLOP/s)\n"
            f"  whole / oneDNN's       {ours['cpu'] / other['cpu']:.3f} of CPU time, "
            f"{ours['wall'] / other['wall']:.3f} by the wall ({other['wall']:.1f} s)\n"
            f"  loop over features     {found['loops, seconds a feature'] / a_feature:.0f} times as long a feature\n"
            f"  peak memory            {actual['memory'] / MB:,.0f} MB (predicted {predicted['memory'] / MB:,.0f})\n"
            f"  staged                 {n_edges:,} edges of {found['bytes per edge']:.2f} bytes; "
            f"{actual['disk'] / MB:,.0f} MB (predicted {predicted['disk'] / MB:,.0f})\n"
            f"  temporary disk         {actual['temporary'] / MB:,.0f} MB "
            f"(predicted {predicted['temporary'] / MB:,.0f})\n"
            f"  time                   {actual['seconds']:.1f} s (predicted {predicted['seconds']:.1f})"
        )


def bench_ten_million_features_by_plan_and_by_a_slice() -> None:
    half = replace(LARGEST, layers=LARGEST.layers[:13], n_features=LARGEST.n_features[:13])
    plans = [estimate("26x384k", sizes, Keep(), None, device="cpu") for sizes in (half, LARGEST)]
    print(f"\n{plans[1]}")
    print(f"memory with half the layers: {plans[0].memory / MB:,.0f} MB, with all: {plans[1].memory / MB:,.0f} MB")
    torch.manual_seed(0)
    rows, wanted = torch.randn(4096, LARGEST.d_model), rules("FEEDS", Keep()).wanted
    with Pool() as pool:
        for n in (16_384 // SCALE, 32_768 // SCALE):
            cols = torch.randn(n, LARGEST.d_model) * 0.05
            alone = timed(lambda cols=cols: bare([(rows, cols)], pool, (512, 2048)))
            start = time.perf_counter()
            mean, std = moments(rows, cols, spread(cols, pool), pool)
            before = time.perf_counter() - start
            ours = timed(lambda cols=cols, at=(mean, std): scan(Product(rows, cols, *at), wanted, pool))
            rate = len(rows) * n / ours["wall"]
            print(
                f"4,096 x {n:,}: {rate / 1e6:,.0f} M products/s, {ours['wall'] / alone['wall']:.3f} of the bare "
                f"product (and {before:.2f} s for means and deviations); all {plans[1].products:.2g} at this rate: "
                f"{plans[1].products / rate / 86400:.1f} days"
            )
