"""Paths between features and tokens, against every path of the toy atlas."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

import queries
from atlas.errors import Ambiguous, BadKey, BadSetting
from tests.toy import Toy
from tests.unit.queries.asked import Asked
from tests.unit.queries.walks import Walk, best, walks

FEATURE, LATER = "toy/0-tc-40/3", "toy/4-tc-40/1"
TOKEN, OTHER_TOKEN = "tok:toy-words/1", "tok:toy-words/4"
COLUMN = {"product": 2, "share": 4, "bottleneck": 3}


def edges(toy: Toy, a: str, b: str, score: str, least: float = 0) -> dict[tuple[str, str], float]:
    """Connections with the number the score is made of, signed by the weight. A token at the end is another node."""
    found = {}
    kinds = {"FEEDS": True, "ACTIVATES": a.startswith("tok:"), "PROMOTES": b.startswith("tok:")}
    for kind, wanted in kinds.items():
        for row in toy.edges[kind] if wanted else []:
            source, target, weight, z, _ = row
            if (kind != "ACTIVATES" or source == a) and (kind != "PROMOTES" or target == b) and abs(z) >= least:
                ends = (source, "end " + target if kind == "PROMOTES" else target)
                found[ends] = float(np.copysign(abs(row[COLUMN[score]]), weight))
    return found


def truth(
    toy: Toy, a: str, b: str, score: str, k: int, *, sign: int = 0, max_edges: int | None = None, least: float = 0
):
    number = {key: place for place, key in enumerate(toy.keys("Feature"))}
    every = walks(edges(toy, a, b, score, least), a, "end " + b if b.startswith("tok:") else b)
    combine, neutral = (min, float("inf")) if score == "bottleneck" else (lambda x, y: x * y, 1.0)
    return best(
        every,
        k,
        combine=combine,
        neutral=neutral,
        number=lambda key: number.get(key, -1),
        sign=sign,
        max_edges=max_edges,
    )


def as_found(frame: pd.DataFrame) -> list[tuple[float, tuple[str, ...]]]:
    return [(abs(score), tuple(keys)) for score, keys in zip(frame["score"], frame["keys"], strict=True)]


def as_true(rows: list[tuple[float, tuple[str, ...]]]) -> list[tuple[float, tuple[str, ...]]]:
    return [(score, tuple(key.removeprefix("end ") for key in keys)) for score, keys in rows]


@pytest.mark.parametrize("score", ["product", "share", "bottleneck"])
@pytest.mark.parametrize(("a", "b"), list(itertools.product((FEATURE, TOKEN), (LATER, OTHER_TOKEN, TOKEN))))
def test_the_best_paths_are_the_best_of_all_paths_over_kept_connections(a: str, b: str, score: str, asked: Asked):
    found = queries.paths(asked.graph, a, b, k=25, score=score, set="toy/tc-40")

    assert as_found(found) == as_true(truth(asked.toy, a, b, score, 25))


@pytest.mark.parametrize(
    "options", [{"sign": "+"}, {"sign": "-"}, {"max_hops": 1}, {"max_hops": 2}, {"max_hops": 3}, {"min": 0.9}]
)
def test_conditions_hold_for_every_path_and_lose_none(options, asked: Asked):
    conditions = {
        "sign": {"+": 1, "-": -1}.get(options.get("sign"), 0),
        "max_edges": options.get("max_hops"),
        "least": options.get("min", 0),
    }
    for a, b in ((FEATURE, LATER), (TOKEN, LATER), (FEATURE, TOKEN)):
        found = queries.paths(asked.graph, a, b, k=12, **options)

        expected = as_true(truth(asked.toy, a, b, "product", 12, **conditions))
        assert as_found(found) == expected


def test_a_path_tells_its_connections(asked: Asked):
    found = queries.paths(asked.graph, TOKEN, OTHER_TOKEN, k=5, set="toy/tc-40").iloc[0]
    weights = {(kind, a, b): w for kind, rows in asked.toy.edges.items() for a, b, w, _, _ in rows}
    labels = {row["key"]: row["label"] for row in asked.toy.nodes["Feature"]}

    steps = list(zip(found["types"], found["keys"], found["keys"][1:], strict=False))
    assert [weights[step] for step in steps] == list(found["weights"])
    assert found["types"][0] == "ACTIVATES"
    assert found["types"][-1] == "PROMOTES"
    assert found["hops"] == len(found["weights"]) == len(found["keys"]) - 1
    assert found["score"] == pytest.approx(np.prod(found["weights"]))
    assert found["sign"] == ("+" if found["score"] > 0 else "-")
    assert list(found["labels"]) == [" rabbit", *(labels[key] for key in found["keys"][1:-1]), '"']


@pytest.mark.parametrize(("a", "b"), [(FEATURE, LATER), (TOKEN, LATER), (TOKEN, OTHER_TOKEN)])
@pytest.mark.parametrize("max_hops", [None, 2])
def test_the_total_says_how_much_of_all_paths_the_rows_carry(a: str, b: str, max_hops: int | None, asked: Asked):
    end = "end " + b if b.startswith("tok:") else b
    every = [
        np.prod(walk.weights)
        for walk in walks(edges(asked.toy, a, b, "product"), a, end)
        if max_hops is None or len(walk.weights) <= max_hops
    ]

    found = queries.paths(asked.graph, a, b, k=4, max_hops=max_hops, total=True, set="toy/tc-40")

    total = found.attrs["total"]
    assert total["signed"] == pytest.approx(sum(every))
    assert total["absolute"] == pytest.approx(sum(map(abs, every)))
    assert total["part_of_signed"] == pytest.approx(found["score"].sum() / sum(every))
    assert total["part_of_absolute"] == pytest.approx(found["score"].abs().sum() / sum(map(abs, every)))
    with pytest.raises(BadSetting, match="no total of bottlenecks"):
        queries.paths(asked.graph, a, b, score="bottleneck", total=True)


def test_columns_and_types_are_the_same_with_and_without_paths(asked: Asked):
    some = queries.paths(asked.graph, FEATURE, LATER)
    none = queries.paths(asked.graph, LATER, FEATURE)

    names = ["rank", "score", "score_kind", "sign", "hops", "keys", "types", "labels", "weights"]
    assert list(some.columns) == list(none.columns) == names
    assert dict(some.dtypes) == dict(none.dtypes)
    assert str(some.dtypes["keys"]) == "list<item: string>[pyarrow]"
    assert str(some.dtypes["weights"]) == "list<item: float>[pyarrow]"


@pytest.mark.parametrize(
    ("a", "b", "options", "said"),
    [
        (LATER, FEATURE, {}, f"{LATER} lies in a later layer than {FEATURE}"),
        (FEATURE, "toy/0-tc-40/4", {}, "lie in the same layer"),
        (FEATURE, "other/9-tc-x/1", {}, "of different sets"),
        (FEATURE, LATER, {"min": 99.0}, "no path with abs(z) of 99 or more"),
        ("toy/0-tc-40/1", TOKEN, {"max_hops": 1}, "no path with at most 1 hops"),
    ],
)
def test_no_path_is_an_answer_with_the_reason(a: str, b: str, options, said: str, asked: Asked):
    if options.get("max_hops") == 1:
        direct = [(x, y) for x, y, *_ in asked.toy.edges["PROMOTES"] if (x, y) == (a, b)]
        if direct:
            pytest.skip("this toy connects the two directly; choose another pair")
    found = queries.paths(asked.graph, a, b, **options)

    assert found.empty
    assert said in found.attrs["note"]


@pytest.mark.parametrize(
    ("a", "b", "options", "error"),
    [
        (FEATURE, FEATURE, {}, BadKey),
        (TOKEN, OTHER_TOKEN, {}, Ambiguous),
        (FEATURE, LATER, {"k": 0}, BadSetting),
        (FEATURE, LATER, {"k": 10**6}, BadSetting),
        (FEATURE, LATER, {"score": "sum"}, BadSetting),
        (FEATURE, LATER, {"max_hops": 0}, BadSetting),
    ],
)
def test_a_question_about_paths_that_makes_no_sense_is_refused(a: str, b: str, options, error, asked: Asked):
    with pytest.raises(error):
        queries.paths(asked.graph, a, b, **options)


def test_brute_force_itself_finds_the_paths_of_a_diamond():
    diamond = {("a", "b"): 2.0, ("a", "c"): -3.0, ("b", "d"): 5.0, ("c", "d"): 7.0, ("a", "d"): 1.0}

    assert set(walks(diamond, "a", "d")) == {
        Walk(("a", "b", "d"), (2.0, 5.0)),
        Walk(("a", "c", "d"), (-3.0, 7.0)),
        Walk(("a", "d"), (1.0,)),
    }
