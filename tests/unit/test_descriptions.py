"""Descriptions in a store: loaded with their build, searched, labels in the user's order, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import atlas
from atlas import descriptions
from atlas.descriptions.staging import Staging, scores, texts
from atlas.errors import BadDescriptions, BadSetting
from atlas.provenance import Run
from atlas.stores import Store, open_store
from tests import toy
from tests.toy import Toy

SAID = "MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description) RETURN f.key AS feature, d.key AS key, d.text AS text"
LABEL = "MATCH (f:Feature {key: $key}) RETURN f.label AS label, f.label_source AS source"


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


@pytest.fixture
def store(made: Toy, tmp_path: Path) -> Store:
    with open_store(tmp_path / "atlas", read_only=False) as opened:
        opened.create()
        opened.add(toy.write(tmp_path / "other", model="other", seed=5).build)
        atlas.load(made.build, opened)
        yield opened


def say(made: Toy, method: str, said: dict[int, str], about: str = "") -> descriptions.Descriptions:
    staging = Staging(
        made.build, method, Run({"build": made.run}, {"method": method, "about": about, "said": str(said)})
    )
    rows = [(feature, text, scores(confidence=0.5)) for feature, text in sorted(said.items())]
    table = texts(rows, "a test")
    return staging.finish(table, table.select(["feature"]), {})


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
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*") if path.is_file()}

    assert store.describe(made.build)

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*") if path.is_file()} == before


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


def test_loading_a_build_loads_what_is_said_of_it(made: Toy, tmp_path: Path):
    say(made, "atlas", {3: "rabbits"})

    atlas.load(made.build, tmp_path / "second")

    with atlas.open(tmp_path / "second") as graph:
        assert {text for _, _, text in said(graph)} == {"rabbits"}


def test_a_store_that_holds_another_build_of_the_set_is_left_alone(made: Toy, store: Store, tmp_path: Path):
    newer = toy.write(tmp_path / "newer", seed=9)
    say(newer, "atlas", {3: "rabbits"})

    assert not store.describe(newer.build)
    assert said(store) == set()


def test_several_things_said_of_one_feature_have_keys_of_their_own(made: Toy):
    staging = Staging(made.build, "user", Run({}, {}))
    found = staging.finish(texts([(3, "a", "{}"), (3, "b", "{}"), (4, "c", "{}")], "x"), texts([], "x"), {})

    assert [key.rpartition("#")[2] for key in found.keys.to_pylist()] == ["1", "1.2", "1"]


def test_descriptions_of_another_build_and_broken_ones_are_refused_in_one_line(made: Toy):
    found = say(made, "atlas", {3: "rabbits"})
    manifest = found.path / "manifest.json"
    content = json.loads(manifest.read_text())
    for text, said_so in (
        (json.dumps(content | {"build": "0123456789ab"}), "describes build 0123456789ab"),
        ("{", "cannot be read"),
        (json.dumps(content | {"format": 9}), "format 9"),
    ):
        manifest.write_text(text)
        with pytest.raises(BadDescriptions, match=said_so):
            descriptions.staged(made.build)
    manifest.write_text(json.dumps(content))
    with pytest.raises(BadDescriptions, match="has no descriptions by weightlens; it has atlas"):
        descriptions.find(made.build, "weightlens")


@pytest.mark.parametrize("order", [[], ["atlas", "atlas"], ["Atlas!"]])
def test_an_order_that_is_none_is_refused(made: Toy, order: list[str]):
    with pytest.raises(BadSetting, match="no order"):
        descriptions.set_order(made.build, order)


def test_a_label_is_cut_between_words():
    assert descriptions.shortened("rabbit,  hare") == "rabbit, hare"
    long = descriptions.shortened("words that go on and on, " * 9)
    assert len(long) <= descriptions.LABEL_LENGTH
    assert long.endswith("…")
