"""Search finds on a server what it finds in a folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import queries
from atlas.stores import open_store
from atlas.stores.neo4j import Neo4jStore
from atlas.stores.neo4j.fulltext import words
from tests.neo4j import graphs
from tests.toy import Toy
from tests.unit.queries.test_meaning import Bag

pytestmark = pytest.mark.neo4j

TYPED = [
    "rabbit",
    "rab",
    "RABBIT",
    "don't",
    "don",
    "t",
    "naive",
    "naïve",
    "NAÏ",
    "兔",
    "兔子",
    "子",
    "ä",
    "a",
    "say",
    "rabbit naïve",
    "naïve rabb",
    "a\\nb",
    "nb",
    "x",
    "{$x}",
    "--",
    "-- rabbit",
    '" OR *',
    "and",
    "rabbit AND",
    "label:rabbit",
    "ra*",
    "%_*",
    "🐇",
    "zzz",
    "rabbits",
    "naives",
    "saying",
    '"rabbit naive"',
    '"naive rabb"',
    '"say rabbit',
    '"--" rabbits',
]


def test_both_stores_find_the_same(store: Neo4jStore, small: Toy, tmp_path: Path):
    wide = graphs.stage(tmp_path / "home", model="wide", vocabulary="wide-words", n_tokens=60, seed=4)
    with open_store(tmp_path / "folder", read_only=False) as folder:
        for one in (store, folder):
            one.create()
            for toy in (small, wide):
                one.add(toy.build)
        for typed in TYPED:
            here, there = (one.fulltext(typed, limit=1000) for one in (store, folder))
            assert _found(here) == _found(there), typed
            assert (here.dtypes == there.dtypes).all()


def test_both_stores_find_the_same_by_meaning(store: Neo4jStore, small: Toy, bystander: Toy, tmp_path: Path):
    with open_store(tmp_path / "folder", read_only=False) as folder:
        folder.create()
        for toy in (small, bystander):
            folder.add(toy.build)
        store.add(small.build)

        here, there = (queries.search(one, "rabbit says", by="meaning", encoder=Bag(), k=15) for one in (store, folder))

    pd.testing.assert_frame_equal(here, there)
    assert len(here) == 15


def test_the_best_come_first_and_no_more_than_asked_for(store: Neo4jStore, small: Toy):
    store.add(small.build)

    every, some = store.fulltext("rabbit", limit=1000), store.fulltext("rabbit", limit=3)

    assert every["score"].is_monotonic_decreasing
    assert some["key"].tolist() == every["key"].tolist()[:3]
    assert len(every) > 3
    for _, tied in every.groupby("score"):
        assert tied["key"].is_monotonic_increasing


def test_what_has_been_removed_is_found_no_more(store: Neo4jStore, small: Toy, bystander: Toy):
    store.add(small.build)

    store.remove("toy")

    assert not store.fulltext("rabbit", limit=1000)["key"].str.startswith("toy/").any()


def test_words_are_cut_and_folded_as_the_folder_does():
    assert words("Don't say naïve_42, 兔子! Ä") == "don t say naive 42 兔子 a"
    assert words('-- % " *') == ""


def _found(frame) -> set[tuple[str, ...]]:
    return set(frame[["key", "type", "text", "matched_by"]].itertuples(index=False, name=None))
