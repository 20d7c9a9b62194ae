"""What every store promises: what goes in comes out, models come and go alone, readers read and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atlas import schema, staging
from atlas.errors import AtlasError, BadBuild, BadKey, BadQuery, NoAtlas, QueryTimeout, StoreError, WriteRefused
from atlas.stores import Store
from tests import toy as toy_builds
from tests.conformance.conftest import Place
from tests.toy import Toy

Stage = Callable[..., Toy]
BYSTANDER = {"model": "bystander", "set": "tc-9", "sizes": (4, 5), "n_tokens": 23, "vocabulary": "toy-words", "seed": 7}


def edges(store: Store, kind: str, model: str) -> set[tuple[object, ...]]:
    edge = schema.EDGE[kind]
    end = "a" if edge.source == "Feature" else "b"
    found = store.run(
        f"MATCH (a:{edge.source})-[e:{kind}]->(b:{edge.target}) WHERE {end}.model = $model "
        "RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.share AS share",
        model=model,
    )
    return {_rounded(row) for row in found.itertuples(index=False)}


def _rounded(row: object) -> tuple[object, ...]:
    source, target, *numbers = row  # type: ignore[misc]
    return (source, target, *(float(f"{number:.5g}") for number in numbers))


def truth(toy: Toy, kind: str) -> set[tuple[object, ...]]:
    return {_rounded(row) for row in toy.edges[kind]}


def counts(store: Store) -> dict[str, int]:
    return {
        node.label: int(store.run(f"MATCH (n:{node.label}) RETURN count(n) AS n")["n"].iloc[0]) for node in schema.NODES
    }


@pytest.mark.parametrize("edge", staging.ALWAYS)
def test_every_edge_of_a_build_comes_out_as_it_went_in(edge: str, place: Place, stage: Stage):
    toy = stage()

    with place.writing() as store:
        store.create()
        store.add(toy.build)

    with place.reading() as store:
        assert edges(store, edge, toy.model) == truth(toy, edge)


@pytest.mark.parametrize("label", ["Feature", "Token", "TranscoderSet", "Model", "Run"])
def test_every_property_of_a_node_comes_out_as_it_went_in(label: str, place: Place, stage: Stage):
    toy = stage()
    names = [p.name for p in schema.NODE[label].properties]

    with place.writing() as store:
        store.create()
        store.add(toy.build)
        found = store.run(f"MATCH (n:{label}) RETURN {', '.join(f'n.{name} AS {name}' for name in names)} ORDER BY key")

    expected = sorted(toy.nodes[label], key=lambda row: row["key"])
    for name in names:
        column = [
            list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value for value in found[name]
        ]
        if _numeric(expected, name):
            assert column == pytest.approx([row[name] for row in expected]), name
        else:
            assert [_plain(value) for value in column] == [_plain(row[name]) for row in expected], name


def _numeric(rows: list[dict[str, object]], name: str) -> bool:
    return all(isinstance(row[name], int | float) for row in rows)


def _plain(value: object) -> object:
    return [round(float(item), 4) for item in value] if isinstance(value, list) else value


def test_a_second_model_changes_nothing_for_the_first_and_leaves_it_when_it_goes(place: Place, stage: Stage):
    toy, bystander = stage(), stage(**BYSTANDER)
    with place.writing() as store:
        store.create()
        store.add(bystander.build)
        before = counts(store)

        store.add(toy.build)
        together = edges(store, "FEEDS", "bystander"), edges(store, "ACTIVATES", "bystander")
        removed = store.remove(toy.model)

        assert together == (truth(bystander, "FEEDS"), truth(bystander, "ACTIVATES"))
        assert counts(store) == before
        assert removed >= len(toy.keys("Feature"))
        assert edges(store, "PROMOTES", "bystander") == truth(bystander, "PROMOTES")


def test_shared_tokens_stay_until_their_last_user_goes(place: Place, stage: Stage):
    toy, bystander = stage(), stage(**BYSTANDER)
    with place.writing() as store:
        store.create()
        store.add(toy.build)
        store.add(bystander.build)
        assert counts(store)["Token"] == 23

        store.remove("toy")
        after_one = counts(store)["Token"]
        store.remove("bystander")

        assert after_one >= 23 - 6
        assert edges_left(store) == 0
        assert counts(store)["Token"] == 0


def edges_left(store: Store) -> int:
    return int(store.run("MATCH (:Feature)-[e:FEEDS]->(:Feature) RETURN count(e) AS n")["n"].iloc[0])


def test_the_same_build_again_changes_nothing(place: Place, stage: Stage):
    toy = stage()
    with place.writing() as store:
        store.create()
        store.add(toy.build)
        before = counts(store), edges(store, "FEEDS", "toy")

        store.add(toy.build)

        assert (counts(store), edges(store, "FEEDS", "toy")) == before


def test_a_new_build_of_a_set_replaces_the_old_one(place: Place, stage: Stage):
    old, new, bystander = stage(seed=1), stage(seed=2), stage(**BYSTANDER)
    assert old.run != new.run
    with place.writing() as store:
        store.create()
        store.add(bystander.build)
        store.add(old.build)

        store.add(new.build)

        assert edges(store, "FEEDS", "toy") == truth(new, "FEEDS")
        assert edges(store, "FEEDS", "bystander") == truth(bystander, "FEEDS")
        runs = store.run("MATCH (s:TranscoderSet)-[:LOADED_BY]->(r:Run) RETURN s.key AS set_key, r.key AS run")
        assert {tuple(row) for row in runs.itertuples(index=False)} == {
            ("toy/tc-40", new.run),
            ("bystander/tc-9", bystander.run),
        }


def test_another_vocabulary_or_model_by_the_same_name_is_refused(
    place: Place, stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    toy, wider = stage(), stage(set="tc-wide", n_tokens=19)
    monkeypatch.setattr(toy_builds, "WORDS", tuple(reversed(toy_builds.WORDS)))
    other_words = stage(model="other")
    with place.writing() as store:
        store.create()
        store.add(toy.build)
        before = counts(store)

        with pytest.raises(BadBuild, match="another vocabulary under the name toy-words"):
            store.add(other_words.build)
        with pytest.raises(BadBuild, match=r"another model under the name toy \(n_vocab differs\)"):
            store.add(wider.build)

        assert counts(store) == before
        assert (store.doctor()["state"] == "right").all()


def test_every_node_and_edge_can_be_traced_to_its_run(place: Place, stage: Stage):
    toy, bystander = stage(), stage(**BYSTANDER)
    with place.writing() as store:
        store.create()
        for one in (toy, bystander):
            store.add(one.build)

        traced = store.run(
            "MATCH (f:Feature)<-[:FEEDS]-(:Feature) "
            "MATCH (s:TranscoderSet {key: f.set})-[:LOADED_BY]->(r:Run) RETURN DISTINCT f.model AS model, r.key AS run"
        )

    assert set(traced.itertuples(index=False, name=None)) == {("toy", toy.run), ("bystander", bystander.run)}


def test_a_sound_atlas_has_nothing_to_mend(place: Place, stage: Stage):
    toy, bystander = stage(), stage(**BYSTANDER)
    with place.writing() as store:
        store.create()
        store.add(toy.build)
        store.add(bystander.build)
        store.remove("toy")

        findings = store.doctor()

    assert set(findings.columns) == {"check", "subject", "expected", "found", "state", "advice"}
    assert list(findings["state"][findings["state"] != "right"]) == []


def test_what_is_not_there_cannot_be_removed(place: Place, stage: Stage):
    toy = stage()
    with place.writing() as store:
        store.create()
        store.add(toy.build)

        with pytest.raises(BadKey, match="toy"):
            store.remove("nobody")

        assert edges(store, "FEEDS", "toy") == truth(toy, "FEEDS")


def test_nothing_to_read_is_an_error_that_says_how_to_make_an_atlas(place: Place):
    with pytest.raises(NoAtlas, match="atlas ingest"):
        place.reading().close()


def test_a_reader_cannot_change_the_atlas(place: Place, stage: Stage):
    toy = stage()
    with place.writing() as store:
        store.create()
        store.add(toy.build)

    with place.reading() as store:
        with pytest.raises(StoreError):
            store.remove("toy")
        with pytest.raises(StoreError):
            store.add(toy.build)


WRITES = (
    "CREATE (:Model {key: 'x'})",
    "MATCH (f:Feature) DETACH DELETE f",
    "MATCH (f:Feature) SET f.label = 'x' RETURN f.key",
    "MERGE (m:Model {key: 'x'}) RETURN m.key",
    "MATCH (f:Feature) REMOVE f.label RETURN f.key",
    "MATCH (f:Feature) WITH f LIMIT 1 /* harmless */ DELETE f",
)
REACHES = (
    "LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
    "LOAD CSV FROM 'http://127.0.0.1:9/x' AS line RETURN line",
    "CALL dbms.listConfig() YIELD name RETURN name",
    "SHOW SETTINGS",
    "SHOW USERS",
    "TERMINATE TRANSACTIONS 'x'",
    "CALL dbms.killConnection('bolt-1')",
    "LOAD FROM '/etc/passwd' (file_format = 'csv') RETURN *",
    "COPY (MATCH (f:Feature) RETURN f.key) TO 'out.csv'",
    "ATTACH 'x' AS y (dbtype postgres)",
    "INSTALL httpfs",
    "EXPORT DATABASE 'x'",
    "DROP TABLE Feature",
)


@pytest.fixture
def asked(place: Place, stage: Stage):
    toy = stage()
    with place.writing() as store:
        store.create()
        store.add(toy.build)
    with place.reading() as store:
        yield store, toy


@pytest.mark.parametrize("text", [*WRITES, *REACHES])
def test_somebody_elses_cypher_cannot_write_or_reach_outside(text: str, asked: tuple[Store, Toy]):
    store, toy = asked

    with pytest.raises((WriteRefused, BadQuery)):
        store.ask(text, {}, timeout=10, max_rows=10)

    assert len(store.run("MATCH (f:Feature) RETURN f.key AS key")) == len(toy.keys("Feature"))


@pytest.mark.parametrize("word", ["CREATE", "DELETE (n)", "LOAD CSV", "; DROP", "it's", 'say "no"', "\\"])
def test_words_inside_strings_are_only_words(word: str, asked: tuple[Store, Toy]):
    store, _ = asked

    found, whole = store.ask("RETURN $word AS word", {"word": word}, timeout=10, max_rows=10)

    assert (list(found["word"]), whole) == ([word], True)


def test_an_answer_that_is_cut_short_says_so(asked: tuple[Store, Toy]):
    store, toy = asked
    n = len(toy.keys("Feature"))

    some = store.ask("MATCH (f:Feature) RETURN f.key AS key ORDER BY key", {}, timeout=10, max_rows=n - 1)
    every = store.ask("MATCH (f:Feature) RETURN f.key AS key ORDER BY key", {}, timeout=10, max_rows=n)

    assert (len(some[0]), some[1]) == (n - 1, False)
    assert (len(every[0]), every[1]) == (n, True)


def test_a_missing_parameter_is_named(asked: tuple[Store, Toy]):
    store, _ = asked

    with pytest.raises(BadQuery, match="missing_one"):
        store.ask("MATCH (f:Feature {key: $missing_one}) RETURN f.key AS key", {}, timeout=10, max_rows=10)


def test_a_query_that_runs_too_long_is_an_error_not_an_empty_answer(asked: tuple[Store, Toy]):
    store, _ = asked
    names = "abcdefg"
    # A sum over seven features at a time: 40 ** 7 terms that no engine can guess.
    nodes, terms = ", ".join(f"({name}:Feature)" for name in names), " + ".join(f"{name}.bias" for name in names)
    endless = f"MATCH {nodes} RETURN sum(sqrt(abs({terms}))) AS n"

    with pytest.raises(QueryTimeout):
        store.ask(endless, {}, timeout=0.5, max_rows=10)

    assert len(store.run("MATCH (m:Model) RETURN m.key AS key")) == 1


@pytest.mark.parametrize("text", ["", "   ", '"', "rab*bit", "NEAR(", "a AND b OR", "(((", "\\", "label:x", "ra"])
def test_whatever_a_person_types_searches_and_nothing_else(text: str, asked: tuple[Store, Toy]):
    store, _ = asked

    found = store.fulltext(text, limit=5)

    assert list(found.columns) == ["key", "type", "text", "matched_by", "score"]
    assert len(found) <= 5


def test_words_find_labels_and_tokens(asked: tuple[Store, Toy]):
    store, toy = asked
    labelled = {row["key"] for row in toy.nodes["Feature"] if "rabbit" in row["label"]}

    found = store.fulltext("rabb", limit=1000)

    assert labelled <= set(found["key"][found["matched_by"] == "label"])
    assert "tok:toy-words/1" in set(found["key"][found["matched_by"] == "token"])


def test_the_adjacency_holds_the_edges_of_its_set(asked: tuple[Store, Toy]):
    store, toy = asked
    keys = toy.keys("Feature")

    adjacency = store.adjacency(toy.set_key)

    found = {
        (keys[source], keys[target], float(f"{weight:.5g}"))
        for target in range(len(keys))
        for source, weight in zip(
            adjacency.source[adjacency.offsets[target] : adjacency.offsets[target + 1]],
            adjacency.weight[adjacency.offsets[target] : adjacency.offsets[target + 1]],
            strict=True,
        )
    }
    assert found == {row[:3] for row in truth(toy, "FEEDS")}
    with pytest.raises(AtlasError):
        store.adjacency("nobody/nothing")
