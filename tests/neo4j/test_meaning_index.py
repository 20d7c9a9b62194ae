"""The server's vector index gives what vectors on the reader's machine give, and is asked only while that is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import queries
from atlas.cli import main
from atlas.errors import BadKey, BadSetting, StoreError
from atlas.stores.neo4j import Neo4jStore, meaning
from queries.indexed import HERE, INDEX
from tests.neo4j import graphs
from tests.neo4j.servers import Place
from tests.toy import Toy
from tests.unit.exchange.builds import say
from tests.unit.queries.test_meaning import Bag

pytestmark = pytest.mark.neo4j


def ask(graph, text: str = "rabbit says", encoder=None, **scope) -> pd.DataFrame:
    return queries.search(graph, text, by="meaning", encoder=encoder or Bag(), **{"k": 8} | scope)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-6)


def test_the_index_answers_as_vectors_kept_here_and_the_reader_neither_makes_nor_sees_any(
    store: Neo4jStore, small: Toy, bystander: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store.add(small.build)
    scopes = [{}, {"k": 3, "layer": "1-2"}, {"set": "toy/tc-40", "k": 15}]
    typed = ["rabbit says", "`) DETACH DELETE n // '; $vector \\u0060 兔"]
    before = {text: [ask(store, text, **scope) for scope in scopes] for text in typed}
    assert before[typed[0]][0].attrs["matched_through"] == HERE

    for name in ("toy/tc-40", "bystander"):
        assert (queries.index(store, name, encoder=Bag())["kept"] == INDEX).all()
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "elsewhere"))

    for text, found in before.items():
        for scope, truth in zip(scopes, found, strict=True):
            reader = Bag()
            now = ask(store, text, reader, **scope)
            same(now, truth)
            assert now.attrs["matched_through"] == INDEX
            assert reader.read == [text]
    assert "through the vector index" in now.attrs["note"]
    shown, _ = store.ask("MATCH (f:Feature) RETURN f LIMIT 1", {}, timeout=20, max_rows=1)
    assert [name for name in shown["f"].iloc[0] if name.startswith("_")] == ["_label"]
    both = queries.search(store, "rabbit", by="all", encoder=Bag(), k=5)
    assert both.attrs["matched_through"] == HERE  # a hundred of each ranking are compared, and there are fewer features


def test_descriptions_are_in_the_index_and_what_is_said_anew_takes_the_set_out_until_it_is_indexed_again(
    store: Neo4jStore, small: Toy
):
    store.add(small.build)
    queries.index(store, "toy", encoder=Bag())
    key = small.keys("Feature")[7]
    say(small, "user", {7: "beach, walrus"})
    assert ask(store).attrs["matched_through"] == INDEX

    store.describe(small.build)
    stale = ask(store, "walrus beach", k=3)
    queries.index(store, "toy", encoder=Bag())
    fresh = ask(store, "walrus beach", k=3)

    assert stale.attrs["matched_through"] == HERE
    assert fresh.attrs["matched_through"] == INDEX
    same(fresh, stale)
    assert fresh["key"].iloc[0] == key
    assert fresh["score"].iloc[0] == pytest.approx(1, abs=2e-3)


def test_a_set_that_is_built_anew_or_removed_takes_its_vectors_along_and_others_keep_theirs(
    store: Neo4jStore, place: Place, small: Toy, bystander: Toy, tmp_path: Path
):
    store.add(small.build)
    for name in ("toy", "bystander"):
        queries.index(store, name, encoder=Bag())
    anew = graphs.stage(tmp_path / "home", seed=11)

    store.add(anew.build)

    truth = graphs.of(anew, bystander)
    assert graphs.on(place) == truth
    assert ask(store).attrs["matched_through"] == HERE
    assert ask(store, model="bystander", k=5).attrs["matched_through"] == INDEX
    assert vectors(place) == len(bystander.keys("Feature")) - blank(bystander)
    store.remove("bystander")
    assert vectors(place) == 0
    assert (store.doctor()["state"] == "right").all()


def test_indexing_again_writes_nothing_and_one_that_died_is_followed_by_one_that_writes_all(
    store: Neo4jStore, place: Place, small: Toy, monkeypatch: pytest.MonkeyPatch
):
    store.add(small.build)
    monkeypatch.setattr(meaning, "_FEATURES", 4)

    def stop(what: str, done: int, total: int) -> None:
        if what == "vectors" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queries.index(store, "toy", encoder=Bag(), progress=stop)
    half, through = vectors(place), ask(store).attrs["matched_through"]
    first = queries.index(store, "toy", encoder=Bag())
    place.query("MATCH (f:Feature) SET f.witness = f.label")
    again = queries.index(store, "toy", encoder=Bag(), progress=stop)

    whole = len(small.keys("Feature")) - blank(small)
    assert 0 < half < whole
    assert through == HERE
    assert first.equals(again)
    assert first["texts"].tolist() == [vectors(place)] == [whole]
    assert ask(store).attrs["matched_through"] == INDEX


def test_the_doctor_counts_vectors_and_mending_lets_search_do_without(store: Neo4jStore, place: Place, small: Toy):
    store.add(small.build)
    queries.index(store, "toy", encoder=Bag())
    truth = ask(store)
    assert (store.doctor()["state"] == "right").all()

    place.query("MATCH (f:Feature) WHERE f.layer = 1 REMOVE f.`_meaning_bag-of-words`")
    found = store.doctor().query("state == 'wrong'")
    store.doctor(mend=True)

    assert found[["check", "subject"]].values.tolist() == [["meaning", "toy/tc-40 by bag-of-words"]]
    assert "atlas index toy/tc-40" in found["advice"].iloc[0]
    assert (store.doctor()["state"] == "right").all()
    healed = ask(store)
    assert healed.attrs["matched_through"] == HERE
    same(healed, truth)


def test_without_its_indexes_search_goes_on_and_indexing_makes_them_again(store: Neo4jStore, place: Place, small: Toy):
    store.add(small.build)
    queries.index(store, "toy", encoder=Bag())
    truth = ask(store)

    place.query("DROP INDEX `atlas_meaning_Description_bag-of-words`")
    without = ask(store)
    wrong = store.doctor().query("state == 'wrong'")["found"].tolist()
    queries.index(store, "toy", encoder=Bag())
    again = ask(store)

    assert (without.attrs["matched_through"], again.attrs["matched_through"]) == (HERE, INDEX)
    assert wrong == ["no index"]
    same(without, truth)
    same(again, truth)


class Wide(Bag):
    def encode(self, texts) -> np.ndarray:
        return np.hstack([super().encode(texts)] * 2)


def test_what_cannot_be_indexed_is_refused_in_one_line(
    store: Neo4jStore, place: Place, small: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store.add(small.build)
    queries.index(store, "toy", encoder=Bag())
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "elsewhere"))

    with pytest.raises(BadSetting, match="of width 16, and this encoder gives 32"):
        queries.index(store, "toy", encoder=Wide())
    assert ask(store, encoder=Wide()).attrs["matched_through"] == HERE
    with pytest.raises(BadKey, match="there is no set 'toi'"):
        queries.index(store, "toi", encoder=Bag())
    with (
        Neo4jStore(place.address, user=place.user, password=place.password) as reading,
        pytest.raises(StoreError, match="opened for reading"),
    ):
        queries.index(reading, "toy", encoder=Bag())


def test_the_command_fills_the_index_and_the_next_question_goes_through_it(
    store: Neo4jStore, place: Place, small: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("queries.meaning.MiniLM", Bag)
    monkeypatch.setenv("ATLAS_NEO4J_USER", place.user)
    monkeypatch.setenv("ATLAS_NEO4J_PASSWORD", place.password)
    store.add(small.build)

    said = run(capsys, "index", "toy", "--store", place.address)
    found = run(capsys, "search", "rabbit", "--by", "meaning", "-k", "5", "--json", "--store", place.address)

    assert "toy/tc-40: 40 texts, in the vector index of the server" in said
    assert json.loads(found)["matched_through"] == INDEX


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    written = capsys.readouterr()
    assert not stopped.value.code, written.err
    return written.out


def vectors(place: Place) -> int:
    """Features that readers see with a vector."""
    return place.query("MATCH (f:Feature) WHERE f.`_meaning_bag-of-words` IS NOT NULL RETURN count(f) AS n")[0]["n"]


def blank(toy: Toy) -> int:
    return sum(not row["label"].strip() for row in toy.nodes["Feature"])
