"""Neo4j's own importer writes the graph that loading online writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.errors import BadBuild, StoreError
from atlas.server import CURRENT, LTS, VERSIONS, Server
from atlas.stores.neo4j import Neo4jStore, offline
from tests import toy, toy_heads
from tests.neo4j import graphs, servers
from tests.neo4j.servers import Place
from tests.toy import Toy


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def test_the_importers_files_carry_what_was_observed_of_edges_through_heads(tmp_path: Path):
    made = toy_heads.add(toy.write(tmp_path / "home" / "builds" / "toy"))
    said = toy_heads.see(made)["FEEDS_VIA"]

    offline.write([made.build], tmp_path / "files", silent)

    tables = [pq.read_table(file) for file in sorted((tmp_path / "files/edges/FEEDS_VIA").glob("*.parquet"))]
    found = [value for table in tables for value in table["attended:float"].to_pylist()]
    assert sorted(found, key=str) == sorted((row[0] for row in said.values()), key=str)


@pytest.fixture
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server of ours that has not run yet."""
    if servers.OWN:
        pytest.skip("needs servers of its own; unset NEO4J_TEST_URI to run this")
    servers.shared(request.param)  # skips or fails where there is none
    server = Server(tmp_path / request.param, version=request.param, auth=False, heap="256m")
    yield server
    server.stop()


@pytest.mark.timeout(900)  # starts a server several times
@pytest.mark.neo4j
@pytest.mark.parametrize("stopped", [LTS], indirect=True)
def test_the_importer_of_the_other_version_writes_the_same_graph(
    stopped: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    toy = graphs.stage(tmp_path / "home")

    plan = offline.write([toy.build], tmp_path / "files", silent)
    offline._run(stopped, plan, silent)
    assert (tmp_path / "files" / "import.report").exists()
    with stopped, offline.opened(stopped) as store:
        offline.finish(store, [toy.build])

        assert graphs.on(Place(stopped.address, "neo4j", "", stopped)) == graphs.of(toy)
        assert (store.doctor()["state"] == "right").all()


@pytest.mark.timeout(900)  # starts a server several times
@pytest.mark.neo4j
@pytest.mark.parametrize("stopped", VERSIONS if servers.EVERY else [CURRENT], indirect=True)
def test_both_ways_make_the_same_graph_and_nothing_is_lost_by_the_second(
    stopped: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    toy = graphs.stage(tmp_path / "home")
    other = graphs.stage(tmp_path / "home", model="other", set="tc-9", sizes=(4, 5), seed=7)
    place = Place(stopped.address, "neo4j", "", stopped)

    plan = offline.install(stopped, [toy.build, other.build], silent)

    assert not stopped.running  # as it was before
    assert plan.edges == toy.n_edges + other.n_edges
    with stopped, Neo4jStore(stopped.address, read_only=False) as store:
        assert graphs.on(place) == graphs.of(toy, other)
        assert (store.doctor()["state"] == "right").all()
        assert len(store.fulltext("rabbit", limit=1000)) > 5

        # what the importer wrote is an atlas like any: it takes more, and lets go
        newer = graphs.stage(tmp_path / "home", seed=5, sizes=(6, 2, 9))
        store.add(newer.build)
        store.remove("other")
        assert graphs.on(place) == graphs.of(newer)

        with pytest.raises(StoreError, match=r"toy/tc-40 would be lost; give their builds too"):
            offline.install(stopped, [other.build], silent)
        assert graphs.on(place) == graphs.of(newer)


def test_the_files_come_with_the_exact_call(tmp_path: Path):
    toy = graphs.stage(tmp_path)

    plan = offline.write([toy.build], tmp_path / "files", silent)

    assert plan.call.startswith("neo4j-admin database import full neo4j --input-type=parquet --id-type=integer ")
    assert (tmp_path / "files" / "import.txt").read_text() == plan.call + "\n"
    for option in plan.arguments:
        if option.startswith(("--nodes=", "--relationships=")):
            assert Path(option.split("=", 2)[2]).is_file()


def test_two_builds_of_one_set_cannot_be_in_one_database(tmp_path: Path):
    old, new = graphs.stage(tmp_path), graphs.stage(tmp_path, seed=1)

    with pytest.raises(BadBuild, match="are two builds of toy/tc-40; a database holds one of a set"):
        offline.write([old.build, new.build], tmp_path / "files", silent)


@pytest.mark.parametrize(
    ("new", "together", "way"),
    [
        (40_000_000, 40_000_000, "offline"),  # a first large model
        (40_000, 40_000, "online"),  # a small one: the restart costs more
        (40_000_000, 800_000_000, "online"),  # one more among many
    ],
)
def test_the_quicker_way_is_named_with_its_reason(new: int, together: int, way: str):
    chosen, why = offline.quicker(new, together)

    assert chosen == way
    assert why.startswith(f"{way} is quicker here: online sends {new:,} new edges")
    assert f"rewrites all {together:,}" in why


@pytest.mark.neo4j
def test_an_import_takes_the_builds_of_all_sets_that_the_server_holds(
    store: Neo4jStore, small: Toy, bystander: Toy, tmp_path: Path
):
    store.add(small.build)
    newer = graphs.stage(tmp_path / "home", seed=5)

    assert {build.id for build in offline.together(store, newer.build)} == {newer.build.id, bystander.build.id}
    assert f"{newer.n_edges + bystander.n_edges:,}" in offline.advice(store, newer.build)

    (bystander.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match=f"{bystander.build.id} is not on this machine; load online"):
        offline.together(store, newer.build)
