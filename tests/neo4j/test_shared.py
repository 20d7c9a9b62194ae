"""Models come, are replaced and go on a server, while others ask."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import queries
from atlas.errors import BadKey, StoreLocked
from atlas.stores.neo4j import Neo4jStore, publish, state
from tests.neo4j import graphs
from tests.neo4j.servers import Place
from tests.toy import Toy

pytestmark = pytest.mark.neo4j


def test_a_loaded_build_is_on_the_server_row_for_row(store: Neo4jStore, place: Place, small: Toy, bystander: Toy):
    store.add(small.build)

    assert graphs.on(place) == graphs.of(small, bystander)
    assert graphs.internal(place) == {}


def test_the_same_build_again_changes_nothing(store: Neo4jStore, place: Place, small: Toy):
    store.add(small.build)
    before = place.query("MATCH (n) RETURN elementId(n) AS id ORDER BY id")

    store.add(small.build)

    assert place.query("MATCH (n) RETURN elementId(n) AS id ORDER BY id") == before


@pytest.mark.parametrize("at_once", [20_000, 7], ids=["in one transaction", "in pieces"])
def test_another_run_of_a_set_replaces_it_and_leaves_the_others(
    at_once: int,
    store: Neo4jStore,
    place: Place,
    small: Toy,
    bystander: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(publish, "AT_ONCE", at_once)
    store.add(small.build)
    newer = graphs.stage(tmp_path / "home", seed=5, sizes=(6, 2, 9), n_tokens=19)

    store.add(newer.build)

    assert graphs.on(place) == graphs.of(newer, bystander)
    assert graphs.internal(place) == {}


def test_a_reader_that_stays_open_is_told_of_sets_that_come_and_go(store: Neo4jStore, place: Place, small: Toy):
    with Neo4jStore(place.address, user=place.user, password=place.password) as reader:
        held = [list(queries.sets(reader)["set"])]
        store.add(small.build)
        held.append(list(queries.sets(reader)["set"]))
        store.remove("toy")
        held.append(list(queries.sets(reader)["set"]))

    assert held == [[], [small.set_key], []]


@pytest.mark.parametrize("at_once", [20_000, 7], ids=["in one transaction", "in pieces"])
def test_readers_see_the_old_set_or_the_new_one_and_never_half(
    at_once: int, store: Neo4jStore, place: Place, small: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(publish, "AT_ONCE", at_once)
    newer = graphs.stage(tmp_path / "home", seed=5, sizes=(6, 2, 9))
    wanted = {tuple(sorted((row["key"], row["bias"]) for row in one.nodes["Feature"])) for one in (small, newer)}
    store.add(small.build)
    seen, done = set(), threading.Event()

    def read() -> None:
        with Neo4jStore(place.address, user=place.user, password=place.password) as reader:
            while not done.is_set():
                rows = reader.run("MATCH (f:Feature) RETURN f.key AS key, f.bias AS bias ORDER BY key")
                seen.add(tuple(rows.itertuples(index=False, name=None)))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for toy in (newer, small, newer):
        store.add(toy.build)
    done.set()
    for reader in readers:
        reader.join()

    assert seen <= wanted
    assert len(seen) == 2


def test_nobody_sees_a_load_that_has_stopped(store: Neo4jStore, place: Place, small: Toy, bystander: Toy):
    with pytest.raises(KeyboardInterrupt):
        store.add(small.build, stop_in_the_edges)

    assert graphs.internal(place)["Loading"] > len(small.nodes["Feature"])
    found = {label: rows for label, rows in graphs.on(place).items() if label in small.nodes}
    assert found == {label: rows for label, rows in graphs.of(bystander).items() if label in small.nodes}
    assert (store.doctor()["state"] == "wrong").any()


def test_removing_a_model_leaves_every_other_count_and_the_tokens_that_others_use(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy
):
    store.add(small.build)

    removed = store.remove("toy")

    assert graphs.on(place) == graphs.of(bystander)
    assert removed == len(small.nodes["Feature"]) + 3  # the set, the model, the run; all tokens are the bystander's too


def test_tokens_go_with_the_last_model_that_has_their_vocabulary(
    store: Neo4jStore, place: Place, small: Toy, tmp_path: Path
):
    twin = graphs.stage(tmp_path / "home", model="twin", seed=2)
    foreign = graphs.stage(tmp_path / "home", model="foreign", vocabulary="other-words", n_tokens=19, seed=3)
    for toy in (small, twin, foreign):
        store.add(toy.build)

    store.remove("toy", "tc-40")
    assert graphs.on(place) == graphs.of(twin, foreign)
    store.remove("twin")

    assert graphs.on(place) == graphs.of(foreign)


def test_removing_what_is_not_there_says_so(store: Neo4jStore, bystander: Toy):
    with pytest.raises(BadKey, match=r"'toy/tc-40' is not in .*it holds bystander/tc-9"):
        store.remove("toy", "tc-40")
    with pytest.raises(BadKey, match="'bystander/tc-40' is not in"):
        store.remove("bystander", "tc-40")


def test_a_second_writer_is_refused_and_told_who_writes(store: Neo4jStore, place: Place, small: Toy, bystander: Toy):
    with (
        state.writing(store._driver, store._database, place.address, "loading toy/tc-40"),
        pytest.raises(StoreLocked, match=r"loading toy/tc-40 has been going on for \d+ s \(process \d+ on"),
    ):
        store.add(small.build)

    store.add(small.build)
    assert graphs.on(place) == graphs.of(small, bystander)


def test_the_lease_of_a_writer_that_was_killed_is_taken_over_at_once(
    store: Neo4jStore, place: Place, small: Toy, monkeypatch: pytest.MonkeyPatch
):
    place.query(
        "MATCH (s:AtlasState) SET s.owner = 'gone', s.host = $host, s.pid = $pid, s.expires = timestamp() + 60000",
        host=state._host(),
        pid=2**22 + 1,  # above any process number there is
    )

    store.add(small.build)

    assert graphs.on(place) == graphs.of(small)


def stop_in_the_edges(what: str, done: int, total: int) -> None:
    if what == "edges" and done:
        raise KeyboardInterrupt
