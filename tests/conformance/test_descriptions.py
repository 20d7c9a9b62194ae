"""Descriptions in every store: loaded with their build, searched, labels in the user's order, nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import atlas
from atlas import descriptions
from atlas.stores import Store
from tests.conformance.conftest import Place
from tests.toy import Toy
from tests.unit.exchange.builds import say

SAID = "MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description) RETURN f.key AS feature, d.key AS key, d.text AS text"
LABEL = "MATCH (f:Feature {key: $key}) RETURN f.label AS label, f.label_source AS source"


@pytest.fixture
def made(stage: Callable[..., Toy]) -> Toy:
    return stage()


@pytest.fixture
def store(made: Toy, stage: Callable[..., Toy], place: Place) -> Iterator[Store]:
    with place.writing() as opened:
        opened.create()
        opened.add(stage(model="other", seed=5).build)
        atlas.load(made.build, opened)
        yield opened


def said(store: Store) -> set[tuple[str, str, str]]:
    return set(store.run(SAID).itertuples(index=False, name=None))


def label(store: Store, key: str) -> tuple[str, str]:
    return tuple(store.run(LABEL, key=key).iloc[0])


def test_a_described_set_says_it_in_the_store_and_a_bystander_stays(made: Toy, store: Store):
    features = made.keys("Feature")
    before = label(store, "other/0-tc-40/3")
    say(made, "atlas", {3: "rabbits & hares", 9: "the Queen's croquet"})

    assert store.describe(made.build)

    assert said(store) == {
        (features[3], f"{features[3]}#atlas#1", "rabbits & hares"),
        (features[9], f"{features[9]}#atlas#1", "the Queen's croquet"),
    }
    assert label(store, features[3]) == ("rabbits & hares", "atlas")
    assert label(store, features[4])[1] == "tokens"
    assert label(store, "other/0-tc-40/3") == before
    found = store.fulltext("croquet", limit=5)
    assert (features[9], "description") in set(zip(found["key"], found["matched_by"], strict=True))


def test_saying_it_again_changes_nothing_not_even_a_file(made: Toy, store: Store, tmp_path: Path):
    say(made, "atlas", {3: "rabbits"})
    store.describe(made.build)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*") if path.is_file()}

    before = said(store), label(store, made.keys("Feature")[3]), files()

    assert store.describe(made.build)

    assert (said(store), label(store, made.keys("Feature")[3]), files()) == before


def test_labels_follow_the_users_order_and_all_descriptions_stay(made: Toy, store: Store):
    key = made.keys("Feature")[3]
    own = label(store, key)
    say(made, "weightlens", {3: "bunny"})
    say(made, "neuronpedia", {3: "animals in Wonderland"})
    say(made, "atlas", {3: "rabbits"})
    seen = []
    for order in (None, ["neuronpedia", "atlas"], ["tokens"], ["weightlens", "tokens"]):
        if order:
            descriptions.set_order(made.build, order)
        store.describe(made.build)
        seen.append(label(store, key))

    assert seen == [("rabbits", "atlas"), ("animals in Wonderland", "neuronpedia"), own, ("bunny", "weightlens")]
    assert {text for _, _, text in said(store)} == {"bunny", "animals in Wonderland", "rabbits"}


def test_the_newest_run_gives_the_label_and_one_that_is_removed_goes(made: Toy, store: Store):
    key = made.keys("Feature")[3]
    say(made, "atlas", {3: "rabbits"}, "first")
    newer = say(made, "atlas", {3: "hares"}, "second")
    store.describe(made.build)
    assert label(store, key) == ("hares", "atlas")
    assert {name for _, name, _ in said(store)} == {f"{key}#atlas#1", f"{key}#atlas#2"}

    descriptions.remove(made.build, "atlas", newer.run)
    store.describe(made.build)

    assert label(store, key) == ("rabbits", "atlas")
    assert {name for _, name, _ in said(store)} == {f"{key}#atlas#1"}


def test_loading_a_build_loads_what_is_said_of_it(made: Toy, place: Place):
    say(made, "atlas", {3: "rabbits"})
    with place.writing() as graph:
        graph.create()
        atlas.load(made.build, graph)

    with place.reading() as graph:
        assert {text for _, _, text in said(graph)} == {"rabbits"}


def test_a_store_that_holds_another_build_of_the_set_is_left_alone(store: Store, stage: Callable[..., Toy]):
    newer = stage(seed=9)
    say(newer, "atlas", {3: "rabbits"})

    assert not store.describe(newer.build)
    assert said(store) == set()
