"""Shapes counted against every combination there is, and a null that keeps what it says it keeps."""

from __future__ import annotations

import math
from collections import Counter
from itertools import accumulate, combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import queries
from atlas.errors import BadKey, BadSetting
from queries import instances, shapes
from queries.rewired import rewire
from tests.unit.queries.asked import Asked
from tests.unit.queries.occurring import Case, Edges, occurrences

SET = "toy/tc-40"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(sum))
    first = [0, *accumulate(sizes)]
    layer = [at for at, size in enumerate(sizes) for _ in range(size)]
    pairs = [(a, b) for a, b in combinations(range(first[-1]), 2) if layer[a] < layer[b]]
    strengths = st.none() | st.sampled_from([1.0, -1.0, 2.0, -0.5, 3.0]) | st.floats(0.1, 3)
    weights = draw(st.lists(strengths, min_size=len(pairs), max_size=len(pairs)))
    return Case(sizes, {pair: w for pair, w in zip(pairs, weights, strict=True) if w is not None})


@given(cases(), st.sampled_from([1, 7, 4_000_000]))
def test_counts_are_those_of_looking_at_every_combination(case: Case, at_once: int):
    truth: Counter[str] = Counter()
    for shape in shapes.SHAPES:
        for _, joined in occurrences(case, shape):
            signs = tuple(1 if case.edges[ends] > 0 else -1 for ends in joined)
            truth[shape] += 1
            truth[f"{shape} {'coherent' if math.prod(signs) > 0 else 'incoherent'}"] += 1
            if shape == "feed-forward-loop":
                truth[f"{shape} {shapes.KINDS[signs]}"] += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_WAYS_AT_ONCE", at_once)
        found = shapes.counts(case.links()[0], shapes.SHAPES)

    assert {name: n for name, n in found.items() if n} == dict(truth)


@given(cases(), st.sampled_from(shapes.SHAPES), st.booleans(), st.sampled_from([0, 1, -1]), st.integers(1, 8))
def test_the_strongest_instances_are_those_of_looking_at_all(case: Case, shape: str, by_product, sign: int, k: int):
    truth = []
    for nodes, joined in occurrences(case, shape):
        weights = [case.edges[ends] for ends in joined]
        if sign in (0, 1 if math.prod(weights) > 0 else -1):
            sizes = [abs(weight) for weight in weights]
            truth.append((-(math.prod(sizes) if by_product else min(sizes)), nodes))
    links, strength = case.links()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instances, "_FIRST", 1)
        patch.setattr(instances, "_GROWTH", 2)
        patch.setattr(instances, "_JOINED_AT_ONCE", 3)
        found = instances.strongest(links, strength, shape, k, product=by_product, sign=sign)

    best = sorted(truth)
    assert [one.score for one in found] == pytest.approx([-score for score, _ in best[:k]])
    scores = {nodes: -score for score, nodes in truth}
    assert [scores[one.features] for one in found] == pytest.approx([one.score for one in found])
    assert len({one.features for one in found}) == len(found)
    for one in found:
        ends = {(int(links.source[at]), int(links.target[at])) for at in one.connections}
        assert ends == set(dict(occurrences(case, shape))[one.features])


@given(cases(), st.integers(0, 5))
def test_rewiring_keeps_what_each_feature_reads_and_feeds_in_every_layer(case: Case, seed: int):
    layer = np.repeat(np.arange(len(case.sizes)), case.sizes)
    links, _ = case.links()
    group = (layer[links.source] * len(case.sizes) + layer[links.target]) * 2 + links.negative
    order = np.argsort(group, kind="stable")
    source, target, group = links.source[order], links.target[order].copy(), group[order]
    begins = np.searchsorted(group, np.arange(2 * len(case.sizes) ** 2 + 1))

    def degrees(ends: np.ndarray) -> set[tuple[tuple[int, int], int]]:
        return set(Counter(zip(ends.tolist(), group.tolist(), strict=True)).items())

    before = degrees(source), degrees(target)
    rewire(source, target, begins, np.random.default_rng(seed), 3)

    assert (degrees(source), degrees(target)) == before
    assert len(set(zip(source.tolist(), target.tolist(), strict=True))) == len(source)


@pytest.mark.parametrize(
    "ends",
    [
        [(0, 0), (1, 1), (2, 2), (3, 3)],
        [(0, 0), (0, 1), (1, 0), (2, 2)],
        [(0, 0), (0, 1), (1, 2), (1, 0), (2, 1), (3, 3)],
    ],
)
def test_every_rewiring_with_the_same_degrees_is_as_likely(ends: list[tuple[int, int]]):
    source, target = (np.array(column, np.int32) for column in zip(*ends, strict=True))
    rng = np.random.default_rng(0)

    seen: Counter[tuple[tuple[int, int], ...]] = Counter()
    for _ in range(3_000):
        rewire(source, target, np.array([0, len(source), len(source)]), rng, 10)
        seen[tuple(sorted(zip(source.tolist(), target.tolist(), strict=True)))] += 1

    into = Counter(target.tolist())
    cells = list(product(set(source.tolist()), into))
    possible = [
        chosen
        for chosen in combinations(cells, len(source))
        if Counter(s for s, _ in chosen) == Counter(source.tolist()) and Counter(t for _, t in chosen) == into
    ]
    assert set(seen) == {tuple(sorted(chosen)) for chosen in possible}
    assert len(possible) > 4
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_a_set_of_loops_has_more_of_them_than_chance():
    rng = np.random.default_rng(1)
    edges: Edges = {}
    for a, b, c in zip(range(60), 60 + rng.permutation(60), 120 + rng.permutation(60), strict=True):
        edges |= {(int(a), int(b)): 1.0, (int(b), int(c)): 1.0, (int(a), int(c)): -1.0}
    links, _ = Case([60] * 3, edges).links()
    group = ((links.source // 60) * 3 + links.target // 60) * 2 + links.negative
    order = np.argsort(group, kind="stable")
    links = shapes.Links(links.source[order], links.target[order], links.negative[order], 180)
    actual = shapes.counts(links, ("feed-forward-loop",))

    begins = np.searchsorted(group[order], np.arange(19))
    rewire(links.source, links.target, begins, rng)

    assert actual["feed-forward-loop incoherent 3"] == actual["feed-forward-loop"] == 60
    assert shapes.counts(links, ("feed-forward-loop",))["feed-forward-loop"] < 10


def toy_case(asked: Asked, least: float = 0.0) -> tuple[Case, list[str]]:
    keys = asked.toy.keys("Feature")
    number = {key: at for at, key in enumerate(keys)}
    rows = [row for row in asked.toy.edges["FEEDS"] if abs(row[3]) >= least]
    return Case(
        list(asked.toy.sizes), {(number[a], number[b]): math.copysign(abs(z), w) for a, b, w, z, _ in rows}
    ), keys


@pytest.mark.parametrize("least", [None, 1.0])
def test_the_motifs_of_a_set_are_its_counts_beside_what_chance_would_make(least: float | None, asked: Asked):
    case, _ = toy_case(asked, least or 0.0)

    found = queries.motifs(asked.graph, SET, samples=9, min=least)

    assert dict(zip(found["shape"], found["count"], strict=True)) == {
        shape: len(occurrences(case, shape)) for shape in shapes.SHAPES
    }
    assert ((found["p"] >= 0.1) & (found["p"] <= 1)).all()
    by_shape = found.set_index("shape")
    loops = by_shape.loc["feed-forward-loop"]
    # with degrees fixed, what closes is what does not stay open
    assert by_shape.loc["chain", "count"] + loops["count"] == by_shape.loc["chain", "expected"] + loops["expected"]
    assert by_shape.loc["chain", "z"] == pytest.approx(-loops["z"])
    assert found.attrs["set"] == SET
    assert found.attrs["run"] == asked.toy.run
    assert found.equals(queries.motifs(asked.graph, SET, samples=9, min=least))


def test_signs_split_a_shape_into_its_variants(asked: Asked):
    found = queries.motifs(asked.graph, SET, shape="feed-forward-loop", signs=True, samples=0).set_index("shape")[
        "count"
    ]

    assert found["feed-forward-loop"] == found["feed-forward-loop coherent"] + found["feed-forward-loop incoherent"]
    kinds = found[[name for name in found.index if name[-1].isdigit()]]
    assert len(kinds) == 8
    assert kinds.sum() == found["feed-forward-loop"]


@pytest.mark.parametrize("score", ["product", "bottleneck"])
def test_instances_come_with_keys_labels_and_their_connections(score: str, asked: Asked):
    case, keys = toy_case(asked)
    truth = []
    for nodes, joined in occurrences(case, "feed-forward-loop"):
        sizes = [abs(case.edges[ends]) for ends in joined]
        if math.prod(case.edges[ends] for ends in joined) < 0:
            truth.append((-(math.prod(sizes) if score == "product" else min(sizes)), nodes))
    best = sorted(truth)[:4]

    found = queries.motif_instances(asked.graph, SET, shape="feed-forward-loop", k=4, score=score, sign="-")

    assert list(found["score"]) == pytest.approx([-value for value, _ in best], rel=1e-6)
    assert [list(row) for row in found["keys"]] == [[keys[n] for n in nodes] for _, nodes in best]
    weights = {row[:2]: (row[2], row[3]) for row in asked.toy.edges["FEEDS"]}
    for row in found.itertuples():
        a, b, c = row.keys
        assert list(zip(row.weights, row.z, strict=True)) == [weights[ends] for ends in ((a, b), (b, c), (a, c))]
    assert set(found["sign"]) == {"-"}


def test_hubs_are_the_features_with_the_most_readers(asked: Asked):
    readers = Counter(row[0] for row in asked.toy.edges["FEEDS"])
    sources = Counter(row[1] for row in asked.toy.edges["FEEDS"])

    found = queries.hubs(asked.graph, SET, k=6)
    through = queries.hubs(asked.graph, SET, by="through", k=1)

    assert list(found["readers"]) == sorted(readers.values(), reverse=True)[:6]
    assert all(readers[row.key] == row.readers and sources[row.key] == row.sources for row in found.itertuples())
    assert through["through"].iloc[0] == max(readers[key] * sources[key] for key in asked.toy.keys("Feature"))


def test_what_makes_no_sense_is_refused_in_a_line(asked: Asked):
    with pytest.raises(BadSetting, match="bi-fan"):
        queries.motifs(asked.graph, SET, shape="square")
    with pytest.raises(BadSetting, match="k is 0"):
        queries.motif_instances(asked.graph, SET, shape="chain", k=0)
    with pytest.raises(BadSetting, match="samples"):
        queries.motifs(asked.graph, SET, samples=-1)
    with pytest.raises(BadKey, match="no set"):
        queries.hubs(asked.graph, "toy/nowhere")
    assert queries.motif_instances(asked.graph, SET, shape="chain", min=1e6).attrs["note"].startswith("no chain")
