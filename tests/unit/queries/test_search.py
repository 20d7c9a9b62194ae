"""Search puts the features that a person would call the word's on top."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

import queries
from atlas.errors import BadKey, BadSetting
from atlas.stores.neo4j.fulltext import words
from tests.toy import Toy
from tests.unit.queries.asked import Asked


def excited(toy: Toy, token: str) -> dict[str, float]:
    """Features that a token excites, with the z of the connection."""
    return {b: z for a, b, w, z, _ in toy.edges["ACTIVATES"] if a == token and w > 0}


def test_a_word_finds_the_features_that_read_its_tokens_or_name_it(asked: Asked):
    found = queries.search(asked.graph, "rabbit", k=500)

    for toy in (asked.toy, asked.other):
        own = {key for key in found["key"] if key.startswith(f"{toy.model}/")}
        labelled = {row["key"] for row in toy.nodes["Feature"] if "rabbit" in row["label"]}
        assert own == labelled | excited(toy, "tok:toy-words/1").keys() | excited(toy, "tok:toy-words/2").keys()
    assert found.attrs["complete"] is True


def test_a_row_scores_by_its_best_token_and_by_where_the_word_stands_in_its_label(asked: Asked):
    found = queries.search(asked.graph, "rabbit", k=500, model="toy").set_index("key")
    labels = {row["key"]: row["label"].split(", ") for row in asked.toy.nodes["Feature"]}

    for key, row in found.iterrows():
        # Without a space before it a token mostly continues another word, so it counts for less.
        token = max(near * excited(asked.toy, f"tok:toy-words/{i}").get(key, 0.0) for i, near in ((1, 1.0), (2, 0.8)))
        label = 5 / (1 + labels[key].index("rabbit")) if "rabbit" in labels[key] else 0.0
        assert row["score"] == pytest.approx(token + label, rel=1e-5)
        assert row["matched_by"] == "+".join(["label"] * (label > 0) + ["token"] * (token > 0))


def test_another_form_of_a_word_finds_what_the_word_finds(asked: Asked):
    one, other = (queries.search(asked.graph, word, k=500) for word in ("rabbit", "rabbits"))

    assert set(other["key"]) == set(one["key"])
    assert len(one)
    assert "rabbit" in other["text"].iloc[0]


def test_words_in_quotes_are_found_next_to_each_other(asked: Asked):
    labels = {row["key"]: words(row["label"]).split() for row in asked.toy.nodes["Feature"]}

    def split(first: str, second: str) -> tuple[set[str], set[str]]:
        """Labels that hold both words: next to each other, and otherwise."""
        both = {key for key, said in labels.items() if {first, second} <= {*said}}
        near = {key for key in both if any(a == first and b.startswith(second) for a, b in pairwise(labels[key]))}
        return near, both - near

    pairs = sorted({pair for said in labels.values() for pair in permutations(dict.fromkeys(said), 2)})
    first, second = next(pair for pair in pairs if all(split(*pair)))
    near, apart = split(first, second)
    found = []
    for typed in (f'"{first} {second}"', f"{first} {second}"):
        hits = asked.graph.fulltext(typed, limit=1000)
        found.append({*hits[hits["matched_by"] == "label"]["key"]})

    phrase, words_alone = found
    assert near <= phrase
    assert not apart & phrase
    assert near | apart <= words_alone
    assert near & {*queries.search(asked.graph, f'"{first} {second}"', model="toy", k=500)["key"]} == near


def test_where_no_token_says_a_word_those_that_hold_most_of_it_stand_for_it(asked: Asked):
    found = queries.search(asked.graph, "Rabbits'", model="toy", k=5)

    truth = sorted(excited(asked.toy, "tok:toy-words/1").items(), key=lambda item: (-item[1], item[0]))
    assert set(found["matched_by"]) == {"part"}
    assert "no token says \"rabbits'\": by its part ' rabbit', 'rabbit'" in found.attrs["note"]
    assert found["score"].iloc[0] >= truth[0][1] * 6 / 8 - 1e-5


def test_rows_are_in_the_order_of_their_scores_and_ties_in_that_of_their_keys(asked: Asked):
    found = queries.search(asked.graph, "rabbit", k=500)

    order = list(zip(-found["score"], found["key"], strict=True))
    assert order == sorted(order)


def test_a_model_or_a_set_holds_for_every_row_and_still_fills_the_answer(asked: Asked):
    for scope in ({"model": "other"}, {"set": "tc-x"}):
        found = queries.search(asked.graph, "rabbit", k=4, **scope)
        whole = queries.search(asked.graph, "rabbit", k=500)

        assert len(found) == 4
        assert list(found["key"]) == [key for key in whole["key"] if key.startswith("other/")][:4]


@pytest.mark.parametrize("text", [" rabbit", "tok:toy-words/1", "token:' rabbit'"])
def test_by_token_only_what_the_token_excites_counts_by_z(text: str, asked: Asked):
    found = queries.search(asked.graph, text, by="token", model="toy", k=6)

    truth = sorted(excited(asked.toy, "tok:toy-words/1").items(), key=lambda item: (-item[1], item[0]))[:6]
    assert list(zip(found["key"], found["score"], strict=True)) == truth
    assert set(found["text"]) == {" rabbit"}
    assert set(found["matched_by"]) == {"token"}


def test_nothing_found_is_an_answer(asked: Asked):
    nothing = queries.search(asked.graph, "walrus")
    blank = queries.search(asked.graph, "  \n ")

    assert nothing.empty
    assert "nothing says 'walrus'" in nothing.attrs["note"]
    assert blank.empty
    assert "blank" in blank.attrs["note"]
    assert dict(nothing.dtypes) == dict(queries.search(asked.graph, "rabbit").dtypes)


def test_what_cannot_be_searched_for_is_refused(asked: Asked):
    with pytest.raises(BadKey, match="no token says 'walrus'"):
        queries.search(asked.graph, "walrus", by="token")
    with pytest.raises(BadKey, match="did you mean 'other'"):
        queries.search(asked.graph, "rabbit", model="othr")
    for options in ({"by": "smell"}, {"k": 0}):
        with pytest.raises(BadSetting):
            queries.search(asked.graph, "rabbit", **options)
    with pytest.raises(BadSetting):
        queries.search(asked.graph, 7)
