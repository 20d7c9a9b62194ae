"""Features alike: the cosine of what is kept, checked against plain Python."""

from __future__ import annotations

import math

import pytest

import queries
from atlas.errors import BadKey, BadSetting
from tests.toy import Toy
from tests.unit.queries.asked import Asked

FEATURE = "toy/3-tc-40/2"


def profile(toy: Toy, key: str, by: str) -> dict[str, float]:
    kinds = ("ACTIVATES", "FEEDS") if by == "inputs" else ("PROMOTES", "FEEDS")
    here, there = (1, 0) if by == "inputs" else (0, 1)
    return {row[there]: row[3] for kind in kinds for row in toy.edges[kind] if row[here] == key}


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    lengths = math.sqrt(sum(z * z for z in a.values()) * sum(z * z for z in b.values()))
    return sum(z * b[key] for key, z in a.items() if key in b) / lengths


def tokens(of: dict[str, float]) -> dict[str, float]:
    return {key: z for key, z in of.items() if key.startswith("tok:")}


@pytest.mark.parametrize("by", ["inputs", "outputs"])
def test_the_most_alike_of_a_set_are_those_of_the_largest_cosine(by: str, asked: Asked):
    mine = profile(asked.toy, FEATURE, by)
    truth = {key: cosine(mine, profile(asked.toy, key, by)) for key in asked.toy.keys("Feature") if key != FEATURE}

    found = queries.similar(asked.graph, FEATURE, by=by, set="toy/tc-40", k=40)

    for row in found.itertuples():
        assert row.score == pytest.approx(truth[row.key], rel=1e-5)
    # The toy is so small that its 24 strongest neighbours lead to every feature that is alike at all.
    assert [row.key for row in found.head(5).itertuples()] == sorted(truth, key=lambda key: -truth[key])[:5]


def test_features_of_another_model_are_compared_by_the_tokens_they_share(asked: Asked):
    mine = tokens(profile(asked.toy, FEATURE, "inputs"))

    found = queries.similar(asked.graph, FEATURE, model="other", k=5)

    assert len(found) == 5
    for row in found.itertuples():
        assert row.key.startswith("other/")
        assert row.score == pytest.approx(cosine(mine, tokens(profile(asked.other, row.key, "inputs"))), rel=1e-5)
        assert row.text.startswith('"')


def test_without_a_scope_all_that_share_the_vocabulary_are_looked_at(asked: Asked):
    found = queries.similar(asked.graph, FEATURE, k=60)

    assert {key.split("/")[0] for key in found["key"]} == {"toy", "other"}
    assert FEATURE not in set(found["key"])
    assert list(found["score"]) == sorted(found["score"], reverse=True)


def test_what_cannot_be_compared_is_refused(asked: Asked):
    with pytest.raises(BadKey, match="is a token"):
        queries.similar(asked.graph, "tok:toy-words/1")
    with pytest.raises(BadSetting, match="inputs, outputs"):
        queries.similar(asked.graph, FEATURE, by="smell")
