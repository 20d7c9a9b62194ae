"""Servers and stores for the tests of the store over Bolt.

The plain suite runs all of them on the current version, and on the LTS those where versions differ: what a server's
errors are called and what its plans look like. (``tests/conformance`` runs whole on both.) ``make faults`` runs all of
them on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.stores.neo4j import Neo4jStore
from tests.neo4j import graphs, servers
from tests.neo4j.servers import Place
from tests.toy import Toy

WHERE_VERSIONS_DIFFER = ("test_connection", "test_readonly", "test_meaning_index")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        every = servers.EVERY or metafunc.module.__name__.rpartition(".")[2] in WHERE_VERSIONS_DIFFER
        names = servers.NAMES if every else servers.NAMES[-1:]
        metafunc.parametrize("server", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Place:
    """A server of each version, one after the other."""
    return servers.shared(request.param)


@pytest.fixture
def place(server: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The server with nothing in it, and a home with no builds in it."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    server.wipe()
    yield server
    server.wipe()


@pytest.fixture
def store(place: Place) -> Iterator[Neo4jStore]:
    with Neo4jStore(place.address, user=place.user, password=place.password, read_only=False) as opened:
        opened.create()
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Toy:
    """40 features over 5 layers, 17 tokens; in the home, as ingest would leave it."""
    return graphs.stage(tmp_path / "home")


@pytest.fixture
def bystander(store: Neo4jStore, tmp_path: Path) -> Toy:
    """Another model of the same vocabulary, already in the atlas: it must survive whatever happens to the first."""
    other = graphs.stage(tmp_path / "home", model="bystander", set="tc-9", sizes=(4, 5), n_tokens=23, seed=7)
    store.add(other.build)
    return other
