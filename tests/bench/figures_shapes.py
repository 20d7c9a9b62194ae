"""Seconds and memory of shapes and comparisons on random sets of any size.

``python -m tests.bench.figures_shapes`` measures sets of some 20,000 features; ``--full`` sets of 30 million edges.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import atlas
import queries
from tests.bench import large

SMALL = {"layers": 6, "features": 3_072, "tokens": 8_000, "fan_in": 48, "tokens_each": 12}
FULL = {"layers": 12, "features": 24_576, "tokens": 50_000, "fan_in": 62, "tokens_each": 20}


@contextmanager
def measured(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what:<46}{time.perf_counter() - start:9.1f} s   peak {peak:5.2f} GB", flush=True)


def main(size: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with measured("staging and loading two sets"):
            for seed, model in enumerate(("one", "two")):
                build = large.write(folder / model, model=model, seed=seed, **size)
                atlas.load(build, folder / "atlas")
        with atlas.open(folder / "atlas", timeout=600) as graph:
            with measured("hubs"):
                queries.hubs(graph, "one")
            for shapes in ("feed-forward-loop", "bi-fan"):
                with measured(f"{shapes}: one count"):
                    queries.motifs(graph, "one", shape=shapes, samples=0)
                with measured(f"{shapes}: two samples"):
                    queries.motifs(graph, "one", shape=shapes, samples=2)
            for shape in ("chain", "feed-forward-loop", "bi-fan"):
                with measured(f"{shape}: the 10 strongest"):
                    queries.motif_instances(graph, "one", shape=shape)
            with measured("compare"):
                print(queries.compare(graph, "one", "two", k=5).attrs["note"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="30 million edges a set")
    main(FULL if parser.parse_args().full else SMALL)
