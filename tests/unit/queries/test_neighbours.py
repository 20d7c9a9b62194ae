"""Inputs and outputs are the strongest of what is kept, and say truly whether they are the strongest of all."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import atlas
import queries
from atlas.errors import BadKey, BadSetting
from atlas.stores import Store
from queries.answers import NEIGHBOURS, TYPES
from tests import toy
from tests.unit.queries.asked import Asked
from tests.unit.queries.truth import Edge, Truth, strongest

DENSITIES = (0.15, 0.4, 1.0)


@pytest.fixture(scope="module", params=DENSITIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    """An atlas of one small build, cut at one density, and what was true before the cut."""
    folder: Path = tmp_path_factory.mktemp("cut")
    sizes = (9, 8, 10, 7)
    built = toy.write(folder / "build", sizes=sizes, n_tokens=14, density=request.param, seed=5)
    atlas.load(built.build, folder / "atlas")
    with atlas.open(folder / "atlas") as graph:
        yield graph, Truth(built, seed=5, density=request.param, n_tokens=14)


def passes(edge: Edge, of: str, sign: str, least: float | None, layer: str | None, by: str) -> bool:
    kind = {"all": ("Feature", "Token"), "features": ("Feature",), "tokens": ("Token",)}[of]
    first, last = map(int, layer.split("-")) if layer else (0, 99)
    return (
        edge.type in kind
        and (layer is None or (edge.layer is not None and first <= edge.layer <= last))
        and (sign == "both" or (edge.weight > 0) == (sign == "+"))
        and edge.size(by) >= (least or 0)
    )


def as_tuples(frame: pd.DataFrame) -> list[tuple]:
    return [
        (row.key, row.type, None if pd.isna(row.layer) else int(row.layer), row.weight, row.z, row.share)
        for row in frame.itertuples()
    ]


QUESTIONS = list(
    itertools.product(
        ("inputs", "outputs"),
        ("all", "features", "tokens"),
        ("z", "weight", "share"),
        ("both", "+", "-"),
        (None, 0.05, 1.0),
        (None, "0-1", "2-3"),
    )
)


def test_neighbours_are_the_strongest_kept_and_complete_only_if_nothing_stronger_was_cut(world: tuple[Store, Truth]):
    graph, truth = world
    rng = random.Random(1)
    nodes = [*truth.toy.keys("Feature"), *truth.toy.keys("Token")]
    claims: Counter[bool] = Counter()

    for direction, of, by, sign, least, layer in rng.sample(QUESTIONS, 60):
        key, k = rng.choice(nodes), rng.choice((1, 2, 5, 12, 60))
        options = {"of": of, "k": k, "by": by, "sign": sign, "min": least, "layer": layer}
        found = getattr(queries, direction)(graph, key, **options)
        kept, every = (
            strongest(
                [e for e in getattr(truth, direction)(key, kept=kept) if passes(e, of, sign, least, layer, by)], by, k
            )
            for kept in (True, False)
        )

        assert as_tuples(found) == [(e.key, e.type, e.layer, e.weight, e.z, e.share) for e in kept], (key, options)
        if found.attrs["complete"]:
            assert [e.size(by) for e in kept] == [e.size(by) for e in every], (key, options)
        if truth.density == 1:
            assert found.attrs["complete"] or key.startswith("tok:"), (key, options)
        claims[found.attrs["complete"]] += 1

    assert claims[True] > 8, "a flag that is never up says nothing"
    assert truth.density == 1 or claims[False] > 8


def test_the_few_strongest_features_of_a_token_are_complete_by_weight(world: tuple[Store, Truth]):
    graph, truth = world
    count = int(-(-truth.density * 34 // 1))  # what the build keeps for each token

    for token, ask in itertools.product(truth.toy.keys("Token"), ("inputs", "outputs")):
        found = getattr(queries, ask)(graph, token, by="weight", k=count)
        assert found.attrs["complete"] is True
        every = strongest(getattr(truth, ask)(token, kept=False), "weight", count)
        assert list(found["weight"]) == [e.weight for e in every]


def test_rows_above_the_bound_are_the_strongest_there_are(world: tuple[Store, Truth]):
    graph, truth = world
    for key, by in itertools.product(truth.toy.keys("Feature")[::5], ("z", "weight", "share")):
        found = queries.inputs(graph, key, by=by, k=500)
        bound = found.attrs["bound"]
        certain = {row[0] for row in as_tuples(found[found[by].abs() > bound])}
        assert certain == {e.key for e in truth.inputs(key, kept=False) if e.size(by) > bound}


def test_columns_have_the_types_of_the_contract_with_and_without_rows(asked: Asked):
    types = {name: str(pd.Series([], dtype=TYPES[kind]).dtype) for name, kind in NEIGHBOURS.items()}
    some = queries.inputs(asked.graph, "toy/3-tc-40/2")
    none = queries.inputs(asked.graph, "toy/3-tc-40/2", min=1e6)

    assert {name: str(dtype) for name, dtype in some.dtypes.items()} == types
    assert {name: str(dtype) for name, dtype in none.dtypes.items()} == types
    assert none.empty


def test_an_answer_names_what_it_rests_on(asked: Asked):
    found = queries.inputs(asked.graph, "toy/3-tc-40/2", by="weight")

    assert found.attrs["weight"] == "weight"
    assert (found.attrs["model"], found.attrs["set"], found.attrs["run"]) == ("toy", "toy/tc-40", asked.toy.run)
    assert found.attrs["cut"]["density"] == 0.4


def test_a_token_of_two_models_has_the_features_of_both_unless_one_set_is_named(asked: Asked):
    both = queries.outputs(asked.graph, "token:' rabbit'", k=500)
    one = queries.outputs(asked.graph, "token:' rabbit'", k=500, set="other/tc-x")

    excited = [
        {b for a, b, *_ in world.edges["ACTIVATES"] if a == "tok:toy-words/1"} for world in (asked.toy, asked.other)
    ]
    assert set(both["key"]) == excited[0] | excited[1]
    assert set(one["key"]) == excited[1]
    assert both.attrs["set"] == ["other/tc-x", "toy/tc-40"]
    assert one.attrs["set"] == "other/tc-x"


def test_many_keys_give_the_rows_of_each_below_each_other(asked: Asked):
    keys = ["toy/3-tc-40/2", "toy/4-tc-40/1", "tok:toy-words/3"]

    together = queries.inputs(asked.graph, keys, k=3)

    assert together.columns[0] == "of"
    for key in keys:
        alone = queries.inputs(asked.graph, key, k=3)
        assert as_tuples(together[together["of"] == key]) == as_tuples(alone)


@pytest.mark.parametrize(
    ("key", "options", "said"),
    [
        ("toy/0-tc-40/1", {"of": "features"}, "has no input of this kind"),
        ("toy/2-tc-40/1", {"min": 1e6}, "no input passes min 1e+06"),
        ("toy/2-tc-40/1", {"of": "heads"}, "nothing is kept through attention heads here"),
        ("tok:toy-words/1", {"of": "tokens"}, "inputs are features"),
        ("toy/2-tc-40/1", {"of": "tokens", "layer": "0-1"}, "tokens have no layer"),
    ],
)
def test_an_answer_without_rows_says_why(key: str, options, said: str, asked: Asked):
    found = queries.inputs(asked.graph, key, **options)

    assert found.empty
    assert said in found.attrs["note"]


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": -1},
        {"k": 1.5},
        {"k": True},
        {"k": 2**40},
        {"by": "size"},
        {"of": "logits"},
        {"sign": "plus"},
        {"min": -1},
        {"min": float("nan")},
        {"min": "3"},
        {"layer": "a-b"},
        {"layer": "3-1"},
        {"layer": "٣"},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_with_what_does(options, asked: Asked):
    with pytest.raises(BadSetting):
        queries.inputs(asked.graph, "toy/2-tc-40/1", **options)


def test_what_nodes_share_is_ranked_by_the_weakest_tie(asked: Asked):
    keys = ["toy/3-tc-40/2", "toy/4-tc-40/2", "toy/4-tc-40/0"]
    reads = [
        {a: (w, z) for edges in ("ACTIVATES", "FEEDS") for a, b, w, z, _ in asked.toy.edges[edges] if b == key}
        for key in keys
    ]
    shared = set.intersection(*map(set, reads))
    truth = sorted(
        ((min(abs(read[key][1]) for read in reads), key) for key in shared), key=lambda row: (-row[0], row[1])
    )

    found = queries.common(asked.graph, keys, k=500)

    assert list(zip(found["score"], found["key"], strict=True)) == truth
    assert [tuple(row) for row in found[keys].itertuples(index=False)] == [
        tuple(read[key][0] for read in reads) for _, key in truth
    ]
    assert list(found.columns) == ["key", "type", "layer", "label", *keys, "score"]


def test_features_of_two_models_share_tokens(asked: Asked):
    found = queries.common(asked.graph, ["toy/3-tc-40/2", "other/5-tc-x/2"])

    assert set(found["type"]) == {"Token"}
    assert found.attrs["model"] == ["other", "toy"]


def test_common_needs_two_nodes(asked: Asked):
    with pytest.raises(BadKey, match="two different nodes"):
        queries.common(asked.graph, ["toy/3-tc-40/2", "toy/3-tc-40/2"])


def test_a_matrix_holds_the_kept_edges_between_two_layers(asked: Asked):
    found = queries.matrix(asked.graph, "other/tc-x", 3, 9).tocoo()

    truth = {
        (int(b.rsplit("/")[-1]), int(a.rsplit("/")[-1]), w)
        for a, b, w, _, _ in asked.other.edges["FEEDS"]
        if a.startswith("other/3-") and b.startswith("other/9-")
    }
    assert found.shape == (3, 11)
    assert set(zip(found.row.tolist(), found.col.tolist(), found.data.tolist(), strict=True)) == truth


@pytest.mark.parametrize(
    ("layers", "error"), [((3, 3), BadSetting), ((4, 3), BadSetting), ((2, 3), BadKey), ((-1, 3), BadSetting)]
)
def test_a_matrix_between_layers_that_do_not_connect_is_refused(layers, error, asked: Asked):
    with pytest.raises(error):
        queries.matrix(asked.graph, "other/tc-x", *layers)
