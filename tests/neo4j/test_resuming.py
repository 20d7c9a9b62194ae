"""A load that died goes on where it stopped; nothing is lost and nothing is there twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from atlas.errors import StoreError
from atlas.stores.neo4j import Neo4jStore, batches, load, publish
from tests.neo4j import graphs, wires
from tests.neo4j.servers import Place
from tests.toy import Toy

pytestmark = pytest.mark.neo4j


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    """Some fifty batches for a toy of a thousand edges."""
    monkeypatch.setattr(load, "EDGES_A_BATCH", 20)


class StopAt:
    """Progress that ends the load after some rows of a kind, as Ctrl-C would."""

    def __init__(self, what: str, rows: int) -> None:
        self.what, self.rows = what, rows
        self.first: int | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what == self.what and done:
            self.first = done if self.first is None else self.first
        if what == self.what and done >= self.rows:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("what", "rows"), [("nodes", 12), ("edges", 1), ("edges", 300)])
def test_a_load_that_was_interrupted_goes_on_where_it_stopped(
    what: str, rows: int, store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    with pytest.raises(KeyboardInterrupt):
        store.add(small.build, StopAt(what, rows))
    done = place.query("MATCH (b:AtlasBatch) RETURN elementId(b) AS id")

    again = StopAt("none", 0)
    again.what, again.rows = what, 10**9
    store.add(small.build, again)

    assert done
    assert graphs.on(place) == graphs.of(small, bystander)
    assert graphs.internal(place) == {}


def test_what_was_loaded_is_not_sent_again(
    store: Neo4jStore, place: Place, small: Toy, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(KeyboardInterrupt):
        store.add(small.build, StopAt("edges", 300))
    kept = place.query("MATCH ()-[e:ACTIVATES|FEEDS|PROMOTES]->() RETURN count(e) AS n")[0]["n"]
    sent: list[int] = []
    grouping = batches._grouping

    def counted(anchors, others, columns):
        make = grouping(anchors, others, columns)
        return lambda: sent.append(len(anchors)) or make()

    monkeypatch.setattr(batches, "_grouping", counted)
    store.add(small.build)

    assert kept >= 300
    assert sum(sent) == small.n_edges - kept


@pytest.mark.parametrize("phase", ["retiring", "publishing", "published"])
def test_a_writer_that_died_while_it_published_is_followed_by_one_that_finishes(
    phase: str,
    store: Neo4jStore,
    place: Place,
    small: Toy,
    bystander: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    store.add(small.build)
    newer = graphs.stage(tmp_path / "home", seed=5, sizes=(6, 2, 9))
    monkeypatch.setattr(publish, "AT_ONCE", 4)
    enter, piecewise = publish._enter, publish._piecewise

    def die_after_entering(writer, at, name, after):
        result = enter(writer, at, name, after)
        if name == phase:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(publish, "_enter", die_after_entering)
    with pytest.raises(KeyboardInterrupt):
        store.add(newer.build)
    with pytest.raises(StoreError, match="stopped half-way; `atlas doctor --mend` finishes it"):
        store.run("MATCH (f:Feature) RETURN count(f) AS n")
    monkeypatch.setattr(publish, "_enter", enter)
    monkeypatch.setattr(publish, "_piecewise", piecewise)

    findings = store.doctor(mend=True)

    assert set(findings["state"]) == {"right", "mended"}
    assert graphs.on(place) == graphs.of(newer, bystander)
    assert graphs.internal(place) == {}


def test_a_removal_that_died_half_way_is_finished_by_the_next_writer(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store.add(small.build)
    monkeypatch.setattr(publish, "AT_ONCE", 7)
    piecewise = publish._piecewise

    def die_after_some(writer, steps):
        query, parameters = steps[1]
        piecewise(writer, steps[:1])
        writer.run(query, owner=writer.owner, limit=7, **parameters)
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "_piecewise", die_after_some)
    with pytest.raises(KeyboardInterrupt):
        store.remove("toy")
    monkeypatch.setattr(publish, "_piecewise", piecewise)

    twin = graphs.stage(tmp_path / "home", model="twin", seed=2)
    store.add(twin.build)

    assert graphs.on(place) == graphs.of(twin, bystander)


def test_a_half_load_without_its_build_is_dropped_by_the_doctor(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    with pytest.raises(KeyboardInterrupt):
        store.add(small.build, StopAt("edges", 100))
    (small.path / "manifest.json").unlink()

    before, after = store.doctor(), store.doctor(mend=True)

    halves = before[before["check"] == "load"]
    assert halves["found"].tolist() == ["stopped while loading"]
    assert "drops it: its build is not on this machine" in halves["advice"].iloc[0]
    assert set(after["state"]) == {"right", "mended"}
    assert graphs.on(place) == graphs.of(bystander)
    assert graphs.internal(place) == {}


def test_the_doctor_finds_lost_and_doubled_edges_and_loads_the_set_again(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    store.add(small.build)
    place.query("MATCH (:Feature {model: 'toy'})-[e:FEEDS]->() WITH e LIMIT 1 DELETE e")
    place.query("MATCH (t:Token)-[e:ACTIVATES]->(f {model: 'toy'}) WITH t, f LIMIT 2 CREATE (t)-[:ACTIVATES]->(f)")

    found = store.doctor()
    wrong = found[found["state"] == "wrong"]
    counted = {row.check: int(row.found) - int(row.expected) for row in wrong.itertuples()}
    assert counted == {"FEEDS of set": -1, "ACTIVATES of set": 2}
    store.doctor(mend=True)

    assert graphs.on(place) == graphs.of(small, bystander)
    assert (store.doctor()["state"] == "right").all()


def test_another_run_of_the_set_drops_the_half_load_of_the_first(
    store: Neo4jStore, place: Place, small: Toy, tmp_path: Path
):
    with pytest.raises(KeyboardInterrupt):
        store.add(small.build, StopAt("edges", 100))
    newer = graphs.stage(tmp_path / "home", seed=5, sizes=(6, 2, 9))

    store.add(newer.build)

    assert graphs.on(place) == graphs.of(newer)
    assert graphs.internal(place) == {}


def test_half_loads_of_two_models_with_one_vocabulary_both_go_on(
    store: Neo4jStore, place: Place, small: Toy, tmp_path: Path
):
    twin = graphs.stage(tmp_path / "home", model="twin", seed=2, n_tokens=19)
    for toy in (small, twin):
        with pytest.raises(KeyboardInterrupt):
            store.add(toy.build, StopAt("edges", 100))

    for toy in (twin, small):
        store.add(toy.build)

    assert graphs.on(place) == graphs.of(twin, small)
    assert graphs.internal(place) == {}


def test_a_connection_cut_in_the_middle_of_a_transaction_loses_and_doubles_nothing(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    port = int(place.address.rpartition(":")[2])
    with (
        wires.proxy(port) as proxy,
        Neo4jStore(proxy.address, user=place.user, password=place.password, read_only=False) as through,
    ):
        proxy.cut_every = 20_000
        through.add(small.build)

    assert proxy.cuts >= 3
    assert graphs.on(place) == graphs.of(small, bystander)
    assert graphs.internal(place) == {}


LOADER = """
import sys
from atlas import load
from atlas.stores.neo4j import load as loading
loading.EDGES_A_BATCH = 20
load(sys.argv[1], sys.argv[2])
"""


def test_a_client_that_was_killed_is_followed_by_one_that_goes_on(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    command = [sys.executable, "-c", textwrap.dedent(LOADER), str(small.path), place.address]
    environment = os.environ | {"ATLAS_NEO4J_USER": place.user, "ATLAS_NEO4J_PASSWORD": place.password}
    client = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while not place.query("MATCH (b:AtlasBatch) WHERE b.key CONTAINS 'FEEDS' RETURN b LIMIT 1"):
        assert time.monotonic() < deadline, "the client loaded nothing in a minute"
        assert client.poll() is None
    client.send_signal(signal.SIGKILL)
    client.wait()
    half = graphs.internal(place)

    store.add(small.build)

    assert half["AtlasLoad"] == 1
    assert graphs.on(place) == graphs.of(small, bystander)
    assert (store.doctor()["state"] == "right").all()
