"""A Neo4j server: what a loaded edge costs it, how fast a question is answered, and what many readers notice of a load.

Server CPU per edge is the firm number; edges a second depends on who else uses the machine. Targets on two quiet cores
shared with the server: online at most 33 µs and at least 40,000 edges/s, offline at most 6 µs and at least 160,000
edges/s to a running server; strongest 20 in or out with p95 of 10 ms at most, flat as models are added.
``ATLAS_BENCH_FEATURES`` (default 4096) features a layer, six layers, 80 edges each; 16384 make 7.5 million edges.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atlas.server import CURRENT, VERSIONS, Server
from atlas.staging import Build
from atlas.stores.neo4j import Neo4jStore, offline
from tests.bench import large

FEATURES = int(os.environ.get("ATLAS_BENCH_FEATURES", "4096"))
READERS = 50
STRONGEST = {
    way: f"MATCH (:Feature {{key: $key}}){arrow}(n:Feature) "
    "RETURN n.key AS key, e.z AS z ORDER BY abs(e.z) DESC, key LIMIT 20"
    for way, arrow in (("in", "<-[e:FEEDS]-"), ("out", "-[e:FEEDS]->"))
}


def quiet(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def server_seconds(server: Server) -> float:
    """CPU the server has used."""
    times = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return large.write(tmp_path_factory.mktemp("build") / "large", features=FEATURES)


@pytest.fixture(params=VERSIONS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server", version=request.param, auth=False, heap="1g") as running:
        yield running


@pytest.mark.parametrize("server", [CURRENT], indirect=True)
def test_online(server: Server, build: Build):
    with Neo4jStore(server.address, read_only=False) as store:
        store.create()
        _warm(store, build.path.parent)
        began, used = time.perf_counter(), server_seconds(server)
        store.add(build, quiet)
        _report("online", build, time.perf_counter() - began, server_seconds(server) - used)
        _strongest(store, [build])


def test_offline(server: Server, build: Build, tmp_path: Path):
    began, used = time.perf_counter(), os.times()
    offline.install(server, [build], quiet)
    spent = os.times()
    cpu = sum(spent[:4]) - sum(used[:4]) + server_seconds(server)
    _report(f"offline {server.home.version}, to a running server", build, time.perf_counter() - began, cpu)


@pytest.mark.parametrize("server", [CURRENT], indirect=True)
def test_answers_stay_as_fast_as_models_are_added(server: Server, build: Build, tmp_path: Path):
    builds = [build, *(large.write(tmp_path / f"b{n}", model=f"large{n}", features=FEATURES, seed=n) for n in (1, 2))]
    for count in (1, 3):
        offline.install(server, builds[:count], quiet)
        with Neo4jStore(server.address) as store:
            _strongest(store, builds[:count])


@pytest.mark.parametrize("server", [CURRENT], indirect=True)
def test_readers_during_a_load(server: Server, build: Build, tmp_path: Path):
    second = large.write(tmp_path / "second", model="second", features=FEATURES, seed=5)
    waits: list[float] = []
    errors: list[BaseException] = []
    done = threading.Event()
    with Neo4jStore(server.address, read_only=False) as store:
        store.create()
        store.add(build, quiet)
        alone = _timed(store, [build], 300)

        def read() -> None:
            with Neo4jStore(server.address) as reader:
                while not done.is_set():
                    try:
                        waits.extend(_timed(reader, [build], 1))
                    except BaseException as error:
                        errors.append(error)
                    time.sleep(0.2)

        readers = [threading.Thread(target=read) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        store.add(second, quiet)
        done.set()
        for reader in readers:
            reader.join()
    print(
        f"\n{READERS} readers: alone {_percentiles(alone)}; during a load {_percentiles(waits)}, {len(errors)} errors"
    )
    assert not errors


def _warm(store: Neo4jStore, folder: Path) -> None:
    """Let the server compile what it will run."""
    small = large.write(folder / "warm", model="warm", features=256, tokens=10_000, seed=9)
    store.add(small, quiet)
    store.remove("warm")


def _strongest(store: Neo4jStore, builds: list[Build]) -> None:
    for way, query in STRONGEST.items():
        _timed(store, builds, 200, query)
        found = _timed(store, builds, 500, query)
        print(f"strongest 20 {way}, {len(builds)} models of {builds[0].n_edges:,} edges: {_percentiles(found)}")


def _timed(store: Neo4jStore, builds: list[Build], times: int, query: str = STRONGEST["in"]) -> list[float]:
    chance, found = random.Random(1), []
    for _ in range(times):
        one = chance.choice(builds)
        key = f"{one.model}/{chance.randrange(1, 6)}-tc/{chance.randrange(FEATURES)}"
        began = time.perf_counter()
        store.run(query, key=key)
        found.append(time.perf_counter() - began)
    return found


def _percentiles(seconds: list[float]) -> str:
    middle, late = (1000 * np.quantile(seconds, [0.5, 0.95])).tolist()
    return f"p50 {middle:.1f} ms, p95 {late:.1f} ms"


def _report(what: str, build: Build, seconds: float, cpu: float) -> None:
    rate, each = build.n_edges / seconds, 1e6 * cpu / build.n_edges
    print(f"\n{what}: {build.n_edges:,} edges in {seconds:.0f} s, {rate:,.0f} edges/s, {each:.1f} µs of CPU an edge")
