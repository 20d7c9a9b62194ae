"""Questions at size: how fast they are answered from a folder and over Bolt, beside networkx and plain Cypher.

Targets on two quiet cores, 30 million edges, several models: strongest 20 in or out with p95 of 10 ms at most, in a
folder and over Bolt; a card 100 ms; a circuit of depth 2 and width 5 150 ms; 10 best paths with p95 of 150 ms at most,
aim 100, after the adjacency is open (1 s at most); full-text search 20 ms; a shell command from cold 1 s. Ratios are of
times in one run. ``ATLAS_BENCH_FEATURES`` features a layer (default 1024), six layers, three models: 22528 make 30
million edges. ``ATLAS_BENCH_TIMES`` (default 200) questions of each kind.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest

import atlas
import queries
from atlas.server import CURRENT, Server
from atlas.staging import Build
from atlas.stores import Store, open_store
from atlas.stores.neo4j import Neo4jStore, offline
from tests.bench import large

FEATURES = int(os.environ.get("ATLAS_BENCH_FEATURES", "1024"))
TIMES = int(os.environ.get("ATLAS_BENCH_TIMES", "200"))
MODELS = 3
LAYERS = 6
FOR_NETWORKX = 256
"""features a layer of the model that networkx is asked about: it holds every edge as Python objects"""
PLAIN_PATHS = """
MATCH p = (a:Feature {key: $a})-[:FEEDS*1..3]->(b:Feature {key: $b})
WITH p, reduce(product = 1.0, e IN relationships(p) | product * e.weight) AS score
RETURN score, [n IN nodes(p) | n.key] AS keys ORDER BY abs(score) DESC LIMIT 10
"""


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Build]:
    folder = tmp_path_factory.mktemp("builds")
    small = large.write(folder / "small", model="small", features=FOR_NETWORKX, seed=9)
    found = [large.write(folder / f"b{n}", model=f"large{n}", features=FEATURES, seed=n) for n in range(MODELS)]
    print(f"\n{sum(build.n_edges for build in found):,} edges in {MODELS} models of {LAYERS} × {FEATURES:,} features")
    return [*found, small]


@pytest.fixture(scope="module")
def folder(builds: list[Build], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("store") / "atlas"
    began = time.perf_counter()
    with open_store(place, read_only=False) as store:
        store.create()
        for build in builds:
            store.add(build)
    edges = sum(build.n_edges for build in builds)
    print(f"loaded in {time.perf_counter() - began:.0f} s, {edges / (time.perf_counter() - began):,.0f} edges/s")
    return place


@pytest.fixture(scope="module")
def graph(folder: Path) -> Iterator[Store]:
    with atlas.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(builds: list[Build], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "server", version=CURRENT, auth=False, heap="2g") as running:
        offline.install(running, builds, lambda what, done, total: None)
        yield running


def test_from_a_folder(graph: Store):
    ends = Ends(1)
    for build in range(MODELS):
        began = time.perf_counter()
        adjacency = graph.adjacency(f"large{build}/tc")
        print(f"adjacency open in {1000 * (time.perf_counter() - began):.1f} ms, {len(adjacency.source):,} edges")
    _report("strongest 20 in", 10, lambda: queries.inputs(graph, ends.feature(), of="features", k=20))
    _report("strongest 20 out", 10, lambda: queries.outputs(graph, ends.feature(), of="features", k=20))
    _report("card", 100, lambda: queries.card(graph, ends.feature()))
    _report("circuit, depth 2, width 5", 150, lambda: queries.circuit(graph, ends.feature(), depth=2, width=5))
    _report("10 best paths", 150, lambda: queries.paths(graph, *ends.pair(), k=10))
    _report("10 best paths from a token", 150, lambda: queries.paths(graph, ends.token(), ends.last(), k=10))
    _report("10 best paths, at most 3 hops", 150, lambda: queries.paths(graph, *ends.pair(), k=10, max_hops=3))
    _report("10 best paths through a layer", 150, lambda: queries.paths(graph, *ends.pair(), k=10, through=3))
    _report("what a feature reaches", 1000, lambda: queries.reach(graph, ends.first()), times=max(4, TIMES // 5))
    _report("full-text search, the store's part", 20, lambda: graph.fulltext(ends.word(), limit=500))
    _report("search", 100, lambda: queries.search(graph, ends.word()), times=max(4, TIMES // 3))


def test_a_shell_command_from_cold(folder: Path):
    ends = Ends(2)
    for word in ("inputs", "card", "circuit"):
        command = [sys.executable, "-c", "from atlas.cli import main; main()", word, ends.feature()]
        _report(f"atlas {word}", 1000, lambda command=command: _run(command, folder), times=min(8, TIMES))


def test_over_bolt(server: Server, tmp_path_factory: pytest.TempPathFactory):
    ends = Ends(3)
    with pytest.MonkeyPatch.context() as patch, Neo4jStore(server.address) as graph:
        patch.setenv("ATLAS_HOME", str(tmp_path_factory.mktemp("home")))
        text = "MATCH (:Feature {key: $key})<-[e:FEEDS]-(n:Feature) RETURN n.key AS key ORDER BY abs(e.z) DESC LIMIT 20"
        _report("strongest 20 in, the bare query", 10, lambda: graph.run(text, key=ends.feature()))
        _report("strongest 20 in", 10, lambda: queries.inputs(graph, ends.feature(), of="features", k=20))
        _report("strongest 20 out", 10, lambda: queries.outputs(graph, ends.feature(), of="features", k=20))
        _report("card", 100, lambda: queries.card(graph, ends.feature()))
        _report("circuit, depth 2, width 5", 150, lambda: queries.circuit(graph, ends.feature(), depth=2, width=5))
        _report("full-text search, the store's part", 20, lambda: graph.fulltext(ends.word(), limit=500))
        began = time.perf_counter()
        graph.adjacency("large0/tc")
        print(f"adjacency fetched in {time.perf_counter() - began:.1f} s, once")
        pairs = [ends.pair("large0") for _ in range(12)]
        ours = _timed(lambda pair: queries.paths(graph, *pair, k=10, max_hops=3), pairs)
        plain = _timed(lambda pair: graph.run(PLAIN_PATHS, a=pair[0], b=pair[1]), pairs)
        _ratio("10 best paths of at most 3 hops, plain Cypher on the same server", ours, plain)


def test_beside_networkx(graph: Store, builds: list[Build]):
    """Best paths by share, so that networkx's weights, minus the logarithms, are not negative."""
    ends = Ends(4, "small", FOR_NETWORKX)
    other = networkx.DiGraph()
    table = graph.run("MATCH (a:Feature)-[e:FEEDS]->(b:Feature) WHERE b.model = 'small' RETURN a.key AS a, b.key AS b, "
                      "e.share AS share")  # fmt: skip
    other.add_weighted_edges_from(
        zip(table["a"], table["b"], -np.log(np.maximum(table["share"], 1e-30)), strict=True), weight="length"
    )
    pairs = [pair for pair in (ends.pair() for _ in range(60)) if networkx.has_path(other, *pair)][:6]
    ours = _timed(lambda pair: queries.paths(graph, *pair, k=10, score="share"), pairs)
    theirs = _timed(lambda pair: list(islice(networkx.shortest_simple_paths(other, *pair, weight="length"), 10)), pairs)
    _ratio(f"10 best paths among {len(table):,} edges, networkx in memory", ours, theirs)
    found = queries.paths(graph, *pairs[0], k=1, score="share")["keys"].iloc[0]
    assert list(found) == networkx.shortest_path(other, *pairs[0], weight="length")


class Ends:
    """Random features, tokens and words that are there; the same ones in every run."""

    def __init__(self, seed: int, model: str = "", features: int = FEATURES) -> None:
        self._chance, self._model, self._features = random.Random(seed), model, features

    def feature(self, low: int = 1, high: int = LAYERS - 2, model: str = "") -> str:
        model = model or self._model or f"large{self._chance.randrange(MODELS)}"
        return f"{model}/{self._chance.randint(low, high)}-tc/{self._chance.randrange(self._features)}"

    def first(self) -> str:
        return self.feature(0, 0)

    def last(self) -> str:
        return self.feature(LAYERS - 1, LAYERS - 1, "large0")

    def pair(self, model: str = "") -> tuple[str, str]:
        model = model or self._model or f"large{self._chance.randrange(MODELS)}"
        return self.feature(0, 0, model), self.feature(LAYERS - 1, LAYERS - 1, model)

    def token(self) -> str:
        return f"tok:large-words/{self._chance.randrange(10_000)}"

    def word(self) -> str:
        return f"word{self._chance.randrange(997)}"


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ATLAS_STORE": str(folder)})


def _report(what: str, target: float, ask: Callable[[], Any], times: int = TIMES) -> None:
    """Percentiles of many questions, each of another node, after a few to warm up; milliseconds."""
    for _ in range(max(1, times // 20)):
        ask()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    middle, late = (1000 * np.quantile(seconds, [0.5, 0.95])).tolist()
    print(f"{what}: p50 {middle:.1f} ms, p95 {late:.1f} ms (target {target:g})")


def _timed(ask: Callable[[Any], Any], given: list[Any]) -> float:
    """Seconds for all of them, after one to warm up."""
    ask(given[0])
    began = time.perf_counter()
    for one in given:
        ask(one)
    return (time.perf_counter() - began) / len(given)


def _ratio(what: str, ours: float, theirs: float) -> None:
    print(f"{what}: {theirs:.3f} s, ours {1000 * ours:.1f} ms, {theirs / ours:.1f} times as long")
