"""Words find what says them, best first, and follow what comes and goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas import stores
from atlas.stores import Store
from tests import toy

COLUMNS = ["key", "type", "text", "matched_by", "score"]


def test_every_word_must_match_as_a_prefix_at_least(graph: Store, small: toy.Toy):
    labels = {row["key"]: row["label"] for row in small.nodes["Feature"]}

    found = graph.fulltext("RABB na", limit=1000)

    expected = {key for key, label in labels.items() if "rabbit" in label and "naïve" in label}
    assert set(found["key"]) == expected
    assert expected


def test_the_best_comes_first_and_ties_go_by_key(graph: Store):
    found = graph.fulltext("rabbit", limit=1000)

    order = list(zip(-found["score"], found["key"], strict=True))
    assert order == sorted(order)
    assert list(graph.fulltext("rabbit", limit=3)["key"]) == list(found["key"][:3])
    assert (found["type"][found["matched_by"] == "token"] == "Token").all()
    assert (found["type"][found["matched_by"] == "label"] == "Feature").all()


@given(st.text(max_size=30))
def test_whatever_is_typed_is_only_words(graph: Store, text: str):
    found = graph.fulltext(text, limit=5)

    assert list(found.columns) == COLUMNS
    assert str(found["key"].dtype) == "str"


@pytest.mark.parametrize("text", ["", " ", "\n", "--", '"', "'", "*", "\0", "🐇"])
def test_what_holds_no_word_finds_nothing(text: str, graph: Store):
    assert len(graph.fulltext(text, limit=5)) == 0


def test_words_come_and_go_with_their_owners(tmp_path: Path):
    sizes = {"sizes": (3, 4), "n_tokens": 6}
    first = toy.write(tmp_path / "first", model="first", **sizes)
    second = toy.write(tmp_path / "second", model="second", seed=1, **sizes | {"n_tokens": 9})
    anew = toy.write(tmp_path / "anew", model="second", seed=2, **sizes | {"n_tokens": 9})

    def owners(store: Store) -> dict[str, set[str]]:
        found = store.fulltext("rabbit", limit=1000)
        features = found["key"][found["type"] == "Feature"]
        return {"models": {key.partition("/")[0] for key in features}, "tokens": set(found["key"]) - set(features)}

    tokens = {"tok:toy-words/1", "tok:toy-words/2"}
    with stores.open_store(tmp_path / "atlas", read_only=False) as store:
        store.add(first.build)
        store.add(second.build)
        assert owners(store) == {"models": {"first", "second"}, "tokens": tokens}
        assert "tok:toy-words/8" in set(store.fulltext("naive", limit=99)["key"])  # only the second brought it

        store.add(anew.build)
        labels = {row["key"]: row["label"] for row in anew.nodes["Feature"] if "rabbit" in row["label"]}
        found = store.fulltext("rabbit", limit=99)
        assert {key: text for key, text in zip(found["key"], found["text"], strict=True) if "second" in key} == labels

        store.remove("second")
        assert owners(store) == {"models": {"first"}, "tokens": tokens}
        store.remove("first")
        assert len(store.fulltext("rabbit", limit=99)) == 0
