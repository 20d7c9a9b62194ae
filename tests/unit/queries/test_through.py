"""Questions about what passes through attention heads, against every connection of the toy taken by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import queries
from atlas.errors import BadSetting
from atlas.schema import MOST_POSITIONS
from atlas.stores import open_store
from queries import present
from tests import toy, toy_heads

KINDS = {"FEEDS_VIA", "ACTIVATES_VIA", "PROMOTES_VIA"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Iterator[SimpleNamespace]:
    root: Path = tmp_path_factory.mktemp("heads")
    made = toy_heads.add(toy.write(root / "build"))
    with open_store(root / "atlas", read_only=False) as store:
        store.create()
        store.add(made.build)
    with open_store(root / "atlas") as graph:
        yield SimpleNamespace(graph=graph, made=made, toy=made.toy)


def expected(asked, key: str, side: int, by: int = 3) -> list[tuple[str, str, float]]:
    """All neighbours of a key through heads, strongest first: other end, head, weight. ``side``: 0 out of, 1 into."""
    rows = [row for kind in KINDS for row in asked.made.edges[kind] if row[side] == key]
    rows.sort(key=lambda row: (-abs(row[by]), row[1 - side], f"L{row[5]}H{row[6]}"))
    return [(row[1 - side], f"L{row[5]}H{row[6]}", round(row[2], 4)) for row in rows]


def seen(frame) -> list[tuple[str, str, float]]:
    return [(row.key, row.via, round(row.weight, 4)) for row in frame.itertuples()]


@pytest.mark.parametrize(("question", "side"), [("inputs", 1), ("outputs", 0)])
@pytest.mark.parametrize("label", ["Feature", "Token"])
def test_neighbours_through_heads_are_those_that_are_kept_strongest_first(asked, question: str, side: int, label: str):
    key = asked.toy.keys(label)[15]

    found = getattr(queries, question)(asked.graph, key, of="heads", k=12)

    assert seen(found) == expected(asked, key, side)[:12]
    assert found.attrs["complete"] is False


def test_one_head_is_asked_for_by_its_name(asked):
    key = asked.toy.keys("Feature")[20]

    found = queries.inputs(asked.graph, key, of="L1H1", by="weight", k=50)

    assert set(found["via"]) == {"L1H1"}
    assert seen(found) == [row for row in expected(asked, key, 1, by=2) if row[1] == "L1H1"]
    assert len(queries.inputs(asked.graph, key, of="all")) > 0
    assert not any(queries.inputs(asked.graph, key, of="all", k=99)["via"])


def test_a_tokens_neighbours_among_tokens_are_what_it_predicts(asked):
    key = asked.toy.keys("Token")[4]

    found = queries.outputs(asked.graph, key, of="tokens", k=5)

    rows = sorted((row for row in asked.made.edges["PREDICTS"] if row[0] == key), key=lambda row: -abs(row[3]))[:5]
    assert [(row.key, round(row.weight, 4)) for row in found.itertuples()] == [
        (row[1], round(row[2], 4)) for row in rows
    ]


def test_what_is_not_known_of_heads_is_refused_and_a_head_has_a_name(asked):
    key = asked.toy.keys("Feature")[20]

    for ask in (queries.inputs, queries.outputs):
        with pytest.raises(BadSetting, match="nothing was observed for toy/tc-40"):
            ask(asked.graph, key, of="heads", by="drive")
    with pytest.raises(BadSetting, match="of is 'l1'"):
        queries.inputs(asked.graph, key, of="l1")
    with pytest.raises(BadSetting, match="write heads for any, or one head such as L5H3"):
        queries.paths(asked.graph, asked.toy.keys("Feature")[0], key, via="all")


def every_path(asked, a: str, b: str, via: str | None) -> list[tuple[float, list[str], list[str]]]:
    """By hand: product, keys and types of all paths between two features."""
    links: dict[str, list[tuple[str, str, float]]] = {}
    for source, target, weight, *_ in asked.toy.edges["FEEDS"]:
        links.setdefault(source, []).append((target, "FEEDS", weight))
    for source, target, weight, _, _, layer, head in asked.made.edges["FEEDS_VIA"]:
        name = f"L{layer}H{head}"
        if via in ("heads", name):
            links.setdefault(source, []).append((target, f"FEEDS_VIA:{name}", weight))
    found = []

    def walk(at: str, product: float, keys: list[str], types: list[str]) -> None:
        if at == b:
            found.append((product, keys, types))
            return
        for target, kind, weight in links.get(at, []):
            walk(target, product * weight, [*keys, target], [*types, kind])

    walk(a, 1.0, [a], [])
    return sorted(found, key=lambda path: -abs(path[0]))


@pytest.mark.parametrize("via", [None, "heads", "L3H1"])
def test_the_best_paths_through_heads_are_those_of_all_paths_taken_by_hand(asked, via: str | None):
    a, b = asked.toy.keys("Feature")[2], asked.toy.keys("Feature")[33]
    options = {} if via is None else {"via": via}

    found = queries.paths(asked.graph, a, b, k=25, max_hops=4, **options)

    best = every_path(asked, a, b, via)[:25]
    assert found["score"].tolist() == pytest.approx([path[0] for path in best], rel=1e-5)
    assert [list(types) for types in found["types"]] == [path[2] for path in best]
    assert [list(keys) for keys in found["keys"]] == [path[1] for path in best]
    if via is not None:
        assert any("_VIA:" in kind for types in found["types"] for kind in types)


def test_a_path_from_a_token_to_a_logit_says_every_head_it_passes(asked):
    a, b = asked.toy.keys("Token")[3], asked.toy.keys("Token")[7]

    found = queries.paths(asked.graph, a, b, k=40, via="heads")

    types = {kind.partition(":")[0] for types in found["types"] for kind in types}
    assert types & {"ACTIVATES_VIA", "PROMOTES_VIA"}
    text = present.paths_text(found)
    assert " via L" in text


def test_a_circuit_may_pass_through_heads_and_names_them(asked):
    key = asked.toy.keys("Feature")[33]

    plain = queries.circuit(asked.graph, key, depth=2, width=6)
    found = queries.circuit(asked.graph, key, depth=2, width=6, via="heads")

    assert not any(plain.edges["via"])
    through = found.edges[found.edges["via"] != ""]
    assert len(through) > 0
    assert set(through["type"]) <= KINDS
    stored = {(row[0], row[1], f"L{row[5]}H{row[6]}") for kind in KINDS for row in asked.made.edges[kind]}
    assert {(row.source, row.target, row.via) for row in through.itertuples()} <= stored
    tree = present.circuit_as("text", found)
    first = max(through.itertuples(), key=lambda edge: (edge.target == key, abs(edge.z)))
    assert any(f"  {first.source} via {first.via}  " in line for line in tree.splitlines())
    assert " via " not in present.circuit_as("text", plain)
    for form in ("dot", "mermaid"):
        assert f' {first.via}"' in present.circuit_as(form, found)
        assert f' {first.via}"' not in present.circuit_as(form, plain)


def test_a_card_names_the_heads_that_can_move_a_feature_most(asked):
    at = 20
    card = queries.card(asked.graph, asked.toy.keys("Feature")[at])

    heads, norms = asked.made.features[at]
    assert [(one["head"], round(one["norm"], 1)) for one in card["heads"]] == list(zip(heads, norms, strict=True))
    assert [(one["position"], one["weight"]) for one in card["positions"]] == [(3, -2.5), (1, 0.5)]
    assert "L0H0 9.5" in present.card_text(card)
    assert json.loads(present.card_json(card))["heads"][0]["head"] == heads[0]


def test_a_card_says_how_many_positions_there_are_beside_those_it_shows(asked):
    card = queries.card(asked.graph, asked.toy.keys("Feature")[20])
    assert "strongest of the" not in present.card_text(card)

    card["positions"] = [{"position": at, "weight": 0.5} for at in range(MOST_POSITIONS)]

    assert "the 8 strongest of the 16 that are kept" in present.card_text(card)


def test_what_passes_through_one_head_is_listed(asked):
    found = queries.query(asked.graph, "head_traffic", set="toy/tc-40", layer=2, head=1, limit=7)

    rows = [row for row in asked.made.edges["FEEDS_VIA"] if row[5:] == (2, 1)]
    rows.sort(key=lambda row: (-abs(row[3]), row[0], row[1]))
    assert list(zip(found["source"], found["target"], strict=True)) == [row[:2] for row in rows[:7]]
    counted = queries.query(asked.graph, "head_summary", set="toy/tc-40").set_index(["layer", "head"])["edges"]
    assert counted[2, 1] == len(rows)


def test_what_a_head_can_move_is_listed(asked):
    found = queries.query(asked.graph, "head_features", set="toy/tc-40", head_key="toy/L2H0", limit=99)

    keys = [key for key, (heads, _) in zip(asked.toy.keys("Feature"), asked.made.features, strict=True)
            if "toy/L2H0" in heads]  # fmt: skip
    assert sorted(found["key"]) == sorted(keys)
