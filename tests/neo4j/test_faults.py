"""Servers killed, connections cut, clients killed, memory and disk run out: nothing is lost and nothing doubled.

The plain suite kills three times; ``make faults`` runs the long form, on every version.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas.errors import AtlasError, NoSpace
from atlas.server import CURRENT, VERSIONS, Server
from atlas.stores.neo4j import Neo4jStore, load
from tests.neo4j import graphs, servers, wires
from tests.neo4j.servers import Place
from tests.toy import Toy

pytestmark = pytest.mark.neo4j
SEED = 11
BATCH = 60
SIZES = (23, 31, 29, 37, 19)
"""some fourteen thousand relationships: two hundred batches and more"""
TOKENS = 130

short = pytest.mark.parametrize(("version", "times"), [(CURRENT, 3)])
long = pytest.mark.parametrize(("version", "times"), [(version, 20) for version in VERSIONS])


@contextmanager
def own_server(version: str, folder: Path, **arguments: object) -> Iterator[Server]:
    """A server that may be hurt."""
    if servers.OWN:
        pytest.skip("kills servers, so it needs its own; unset NEO4J_TEST_URI to run this")
    server = Server(folder, version=version, auth=False, heap="256m", **arguments)  # type: ignore[arg-type]
    try:
        server.start()
    except AtlasError as error:
        servers.absent(str(error))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(load, "EDGES_A_BATCH", BATCH)
    return tmp_path / "home"


def prepared(server: Server, home: Path) -> tuple[Toy, Toy]:
    """A bystander that is loaded, and a build that is going to be."""
    bystander = graphs.stage(home, model="bystander", set="tc-9", sizes=(4, 5), n_tokens=TOKENS, seed=7)
    with Neo4jStore(server.address, read_only=False) as store:
        store.create()
        store.add(bystander.build)
    return graphs.stage(home, sizes=SIZES, n_tokens=TOKENS), bystander


def sound(server: Server, *toys: Toy) -> None:
    """The doctor is content, and the content is that of an undisturbed load."""
    with Neo4jStore(server.address, read_only=False) as store:
        findings = store.doctor()
    assert findings[findings["state"] != "right"].empty, findings
    place = Place(server.address, "neo4j", "", server)
    assert graphs.on(place) == graphs.of(*toys)
    assert graphs.internal(place) == {}


class Paced:
    """Progress that goes no faster than faults happen, so that all of them fall into the load."""

    def __init__(self, times: int) -> None:
        self.times, self.done, self.calls = times, 0, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        self.calls += 1
        while what == "edges" and self.done < self.times * done // total:
            time.sleep(0.02)


def during(load: Callable[[Paced], None], fault: Callable[[], None], times: int) -> None:
    """Load, and meanwhile let a fault happen so many times, at moments nobody chose, each after some progress."""
    pace, chance, failed, seen = Paced(times), random.Random(SEED), [], 0

    def run() -> None:
        try:
            load(pace)
        except BaseException as error:
            failed.append(error)

    loading = threading.Thread(target=run)
    loading.start()
    while pace.done < times and loading.is_alive():
        if pace.calls == seen:
            time.sleep(0.02)
            continue
        time.sleep(chance.uniform(0.05, 0.6))
        seen = pace.calls
        fault()
        pace.done += 1
    pace.done = times
    loading.join()
    if failed:
        raise failed[0]


def kill_the_server_during_a_load(version: str, times: int, tmp_path: Path, home: Path) -> None:
    with own_server(version, tmp_path / "server") as server:
        toy, bystander = prepared(server, home)

        def fault() -> None:
            server.kill()
            server.start()

        def loading(progress: Paced) -> None:
            with Neo4jStore(server.address, read_only=False) as store:
                store.add(toy.build, progress)

        during(loading, fault, times)
        sound(server, toy, bystander)


@pytest.mark.timeout(900)  # starts a server several times
@short
def test_a_server_killed_three_times_in_one_load(version: str, times: int, tmp_path: Path, home: Path):
    kill_the_server_during_a_load(version, times, tmp_path, home)


@long
@pytest.mark.faults
def test_a_server_killed_twenty_times_in_one_load(version: str, times: int, tmp_path: Path, home: Path):
    kill_the_server_during_a_load(version, times, tmp_path, home)


@long
@pytest.mark.faults
def test_connections_cut_again_and_again_in_mid_transaction(version: str, times: int, tmp_path: Path, home: Path):
    with own_server(version, tmp_path / "server") as server:
        toy, bystander = prepared(server, home)
        with wires.proxy(server.home.port) as proxy:

            def loading(progress: Paced) -> None:
                with Neo4jStore(proxy.address, read_only=False) as store:
                    store.add(toy.build, progress)

            during(loading, proxy.cut, times)
        assert proxy.cuts >= times
        sound(server, toy, bystander)


LOADER = """
import sys
from atlas import load
from atlas.stores.neo4j import load as loading
loading.EDGES_A_BATCH = {batch}
load(sys.argv[1], sys.argv[2])
"""


@long
@pytest.mark.faults
def test_clients_killed_at_moments_nobody_chose_and_followed_by_the_next(
    version: str, times: int, tmp_path: Path, home: Path
):
    chance = random.Random(SEED)
    with own_server(version, tmp_path / "server") as server:
        toy, bystander = prepared(server, home)
        command = [sys.executable, "-c", textwrap.dedent(LOADER.format(batch=BATCH)), str(toy.path), server.address]
        began = time.monotonic()
        subprocess.run([*command[:3], str(bystander.path), server.address], check=True, env=os.environ)
        ready = time.monotonic() - began  # how long a client takes to have loaded nothing new

        for _ in range(times):
            client = subprocess.Popen(command, env=os.environ)
            time.sleep(chance.uniform(0.7, 1.3) * ready)
            client.send_signal(signal.SIGKILL)
            client.wait()

        with Neo4jStore(server.address, read_only=False) as store:
            store.add(toy.build)
        sound(server, toy, bystander)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.faults
def test_batches_too_large_for_the_servers_memory_are_halved_until_they_fit(version: str, tmp_path: Path, home: Path):
    load.EDGES_A_BATCH = 10_000  # undone by the fixture's monkeypatch
    settings = {"db.memory.transaction.max": "6m"}
    with own_server(version, tmp_path / "server", settings=settings) as server:
        toy, bystander = prepared(server, home)
        with Neo4jStore(server.address, read_only=False) as store:
            store.add(toy.build)
        sound(server, toy, bystander)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.faults
def test_two_megabytes_for_a_transaction_are_enough_to_load(version: str, tmp_path: Path, home: Path):
    with own_server(version, tmp_path / "server") as server:
        toy, bystander = prepared(server, home)
        server.stop()
        poor = Server(
            server.home.path, version=version, port=server.home.port, auth=False, heap="256m",
            settings={"db.memory.transaction.max": "2m"},
        )  # fmt: skip
        load.EDGES_A_BATCH = 10_000
        with poor, Neo4jStore(server.address, read_only=False) as store:
            store.add(toy.build)

        server.start()
        sound(server, toy, bystander)


def fill(ballast: Path) -> None:
    """Leave no room on a disk."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.faults
def test_a_full_disk_is_told_and_the_load_goes_on_when_there_is_space(version: str, tmp_path: Path, home: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk of its own needs the right to mount one; run as root to lift this")
    try:
        settings = {"db.tx_log.preallocate": "false", "db.tx_log.rotation.size": "1m"}
        with own_server(version, disk / "server", settings=settings) as server:
            toy, bystander = prepared(server, home)
            ballast = disk / "ballast"
            fill(ballast)
            with Neo4jStore(server.address, read_only=False) as store, pytest.raises(NoSpace, match="is full"):
                store.add(toy.build)

            ballast.unlink()
            server.kill()
            server.start()
            with Neo4jStore(server.address, read_only=False) as store:
                store.add(toy.build)
            sound(server, toy, bystander)
    finally:
        subprocess.run(["umount", disk], check=True)
