"""Conditions on paths, several ends and one-to-all, each against every path of the toy atlas."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import queries
from atlas.errors import AtlasError, BadKey, BadSetting
from queries import present
from tests.unit.queries.asked import Asked
from tests.unit.queries.test_paths import FEATURE, LATER, OTHER_TOKEN, TOKEN, as_found, edges
from tests.unit.queries.truth import layer_of
from tests.unit.queries.walks import Walk, walks

MIDDLE, OTHER_MIDDLE = "toy/2-tc-40/11", "toy/3-tc-40/2"
SCORED = {"product": math.prod, "share": math.prod, "bottleneck": min}


def visits(walk: Walk[str], place: str | int) -> bool:
    inner = [key for key in walk.nodes if key.startswith("toy/")]
    return place in inner if isinstance(place, str) and "/" in place else int(place) in map(layer_of, inner)


def lies_between(walk: Walk[str], place: str | int) -> bool:
    inner = [key for key in walk.nodes[1:-1] if key.startswith("toy/")]
    return place in inner if isinstance(place, str) and "/" in place else int(place) in map(layer_of, inner)


def every(asked: Asked, a: str, ends: list[str] | None, score: str = "product", **options: Any) -> list[Walk[str]]:
    """All paths from a node to any of some ends (to any feature, if there are none) that meet the conditions."""
    found = []
    for b in ends or [""]:
        end = "end " + b if b.startswith("tok:") else b or None
        for walk in walks(edges(asked.toy, a, b, score, options.get("min") or 0), a, end):
            hops = len(walk.weights)
            if (
                options.get("min_hops", 1) <= hops <= (options.get("max_hops") or 99)
                and all(visits(walk, place) for place in options.get("through", ()))
                and not any(lies_between(walk, place) for place in options.get("avoid", ()))
                and walk.sign in {"+": (1,), "-": (-1,)}.get(options.get("sign", "both"), (1, -1))
            ):
                found.append(walk)
    return found


def scores(found: list[Walk[str]], score: str, k: int) -> list[float]:
    return sorted((SCORED[score](map(abs, walk.weights)) for walk in found), reverse=True)[:k]


PLACES = st.sampled_from([1, 2, "3", "toy/1-tc-40/7", MIDDLE, OTHER_MIDDLE, "toy/2-tc-40/5", "toy/0-tc-40/3"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    a=st.sampled_from([FEATURE, TOKEN]),
    ends=st.lists(st.sampled_from([LATER, OTHER_TOKEN, TOKEN, "toy/3-tc-40/3", MIDDLE]), min_size=1, unique=True),
    score=st.sampled_from(sorted(SCORED)),
    through=st.lists(PLACES, max_size=2, unique=True),
    avoid=st.lists(PLACES, max_size=2, unique=True),
    hops=st.sampled_from([(1, None), (2, None), (1, 3), (3, 4)]),
    sign=st.sampled_from(["both", "+", "-"]),
    least=st.sampled_from([0.0, 0.6]),
)
def test_paths_under_any_conditions_are_the_best_of_all_paths_that_meet_them(
    a, ends, score, through, avoid, hops, sign, least, asked: Asked
):
    options = {"through": through, "avoid": avoid, "min_hops": hops[0], "max_hops": hops[1], "min": least}
    wanted = every(asked, a, ends, score, sign=sign, **options)
    ask = partial(queries.paths, asked.graph, a, ends, k=30, score=score, sign=sign, set="toy/tc-40", **options)
    if {a, *ends} & {*avoid}:
        with pytest.raises(BadKey, match="is an end of these paths"):
            ask()
        return
    found = ask()

    assert [score for score, _ in as_found(found)] == pytest.approx(scores(wanted, score, 30), rel=1e-9)
    allowed = {tuple(node.removeprefix("end ") for node in walk.nodes) for walk in wanted}
    assert {keys for _, keys in as_found(found)} <= allowed
    assert len({keys for _, keys in as_found(found)}) == len(found)


@pytest.mark.parametrize("through", [2, MIDDLE])
def test_an_end_may_lie_in_a_layer_that_is_to_be_passed_and_avoided(through, asked: Asked):
    options = {"through": [through], "avoid": [2]}
    wanted = every(asked, FEATURE, [MIDDLE], **options)
    assert wanted

    found = queries.paths(asked.graph, FEATURE, [MIDDLE], k=30, **options)

    assert [score for score, _ in as_found(found)] == pytest.approx(scores(wanted, "product", 30), rel=1e-9)


def test_the_total_is_that_of_the_paths_that_meet_the_conditions(asked: Asked):
    options = {"through": [MIDDLE], "avoid": [1], "max_hops": 4}
    ends = [LATER, OTHER_TOKEN]
    products = [math.prod(walk.weights) for walk in every(asked, FEATURE, ends, **options)]

    found = queries.paths(asked.graph, FEATURE, ends, k=3, total=True, **options)

    total = found.attrs["total"]
    assert total["signed"] == pytest.approx(sum(products))
    assert total["absolute"] == pytest.approx(sum(map(abs, products)))
    assert total["part_of_absolute"] == pytest.approx(found["score"].abs().sum() / sum(map(abs, products)))
    assert f"these carry {total['part_of_absolute']:.1%}" in present.paths_text(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"through": [MIDDLE, "toy/2-tc-40/5"]}, "lie in the same layer; a path visits a layer once"),
        ({"through": MIDDLE, "avoid": 2}, f"{MIDDLE} is to be passed and avoided"),
        ({"through": "1", "avoid": "0-2"}, "layer 1 is to be passed and avoided"),
        ({"through": 2, "max_hops": 1}, "no path with at most 1 hops through layer 2 leads from"),
        ({"avoid": "1-3", "min_hops": 3}, "no path with at least 3 hops avoiding layer 1-3 leads from"),
    ],
)
def test_conditions_that_no_path_meets_are_an_answer_with_the_reason(options, said: str, asked: Asked):
    found = queries.paths(asked.graph, FEATURE, LATER, **options)

    assert found.empty
    assert said in found.attrs["note"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"through": TOKEN}, BadKey, "a token is an end of a path, never between"),
        ({"through": "other/3-tc-x/1"}, BadKey, "is no feature of toy/tc-40"),
        ({"through": 7}, BadKey, "there is no layer 7; the set has the layers 0-4"),
        ({"through": 2.5}, BadKey, "is no feature and no layer"),
        ({"avoid": LATER}, BadKey, "is an end of these paths"),
        ({"avoid": "3-1"}, BadSetting, "write 1-3"),
        ({"min_hops": 3, "max_hops": 2}, BadSetting, "no path is like that"),
        ({"min_hops": 0}, BadSetting, "1 or more"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(options, error: type[AtlasError], said: str, asked: Asked):
    with pytest.raises(error, match=said):
        queries.paths(asked.graph, FEATURE, LATER, **options)


def test_ends_of_several_sets_are_asked_for_one_at_a_time(asked: Asked):
    with pytest.raises(AtlasError, match="several sets, other/tc-x and toy/tc-40"):
        queries.paths(asked.graph, TOKEN, [LATER, "other/9-tc-x/1"])


def test_ends_that_cannot_be_reached_do_not_hide_those_that_can(asked: Asked):
    some = queries.paths(asked.graph, MIDDLE, [LATER, FEATURE, "other/9-tc-x/1"])
    none = queries.paths(asked.graph, MIDDLE, [FEATURE, "toy/1-tc-40/1"])

    assert as_found(some) == as_found(queries.paths(asked.graph, MIDDLE, LATER))
    assert none.empty
    assert none.attrs["note"].endswith("and so on for all 2 ends")


@pytest.mark.parametrize("a", [FEATURE, TOKEN])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "share"},
        {"score": "bottleneck"},
        {"max_hops": 2},
        {"sign": "-"},
        {"avoid": [2, OTHER_MIDDLE]},
        {"min": 0.7, "sign": "+"},
        {"layer": "2-3"},
    ],
)
def test_what_a_node_reaches_is_what_all_its_paths_say(a: str, total: bool, options: dict[str, Any], asked: Asked):
    score, layers = options.get("score", "product"), options.get("layer", "0-9")
    if total and score == "bottleneck":
        with pytest.raises(BadSetting, match="no total of bottlenecks"):
            queries.reach(asked.graph, a, total=total, score=score, set="toy/tc-40")
        return
    conditions = {name: value for name, value in options.items() if name in ("max_hops", "avoid", "min")}
    truth: dict[str, float] = {}
    by_end = defaultdict(list)
    for walk in every(asked, a, None, score, **conditions):
        by_end[walk.nodes[-1]].append(SCORED[score](map(abs, walk.weights)) * walk.sign)
    for end, values in by_end.items():
        wanted = {"+": (1,), "-": (-1,)}.get(options.get("sign", "both"), (1, -1))
        if not total:
            values = [value for value in values if math.copysign(1, value) in wanted]
        value = sum(values) if total else max(values, key=abs, default=0)
        first, last = map(int, layers.split("-"))
        if value and math.copysign(1, value) in wanted and first <= layer_of(end) <= last:
            truth[end] = value

    found = queries.reach(asked.graph, a, total=total, k=500, set="toy/tc-40", **options)

    assert dict(zip(found["key"], found["score"], strict=True)) == pytest.approx(truth)
    assert found["score"].abs().is_monotonic_decreasing
    assert [float(row.score) > 0 for row in found.itertuples()] == [row.sign == "+" for row in found.itertuples()]
    assert found.attrs["reached"] >= len(found)


def test_what_reaches_nothing_says_so(asked: Asked):
    found = queries.reach(asked.graph, LATER)

    assert found.empty
    assert "reaches no such feature" in found.attrs["note"]
    assert dict(found.dtypes) == dict(queries.reach(asked.graph, FEATURE).dtypes)
