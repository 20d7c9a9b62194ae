"""Circuits: bounded, ranked by the product along the way, never through a token."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from itertools import pairwise

import networkx
import pytest

import queries
from atlas.errors import BadKey, BadSetting
from queries import present
from tests.toy import Toy
from tests.unit.queries.asked import Asked

ROOT = "toy/3-tc-40/2"


def grown(toy: Toy, roots: list[str], depth: int, width: int, inward: bool, least: float = 0):
    """The circuit as its docstring says, in plain Python: edges, nodes with depth and score."""
    around: dict[str, list[tuple[str, float, tuple[str, str, str]]]] = defaultdict(list)
    for kind, rows in toy.edges.items():
        for a, b, _, z, _ in rows:
            if abs(z) >= least:
                here, there = (b, a) if inward else (a, b)
                around[here].append((there, abs(z), (a, b, kind)))
    nodes = dict.fromkeys(roots, (0, 1.0))
    edges, frontier = set(), list(roots)
    for step in range(1, depth + 1):
        candidates = [
            (-nodes[at][1] * z, at, there, edge)
            for at in frontier
            for there, z, edge in around[at]
            if (edge[2] == ("ACTIVATES" if inward else "PROMOTES")) == there.startswith("tok:")
        ]
        fresh = []
        for score, _, there, edge in sorted(candidates)[: width * len(frontier)]:
            edges.add(edge)
            if there not in nodes and not there.startswith("tok:"):
                fresh.append(there)
            before = nodes.get(there, (step, 0.0))
            nodes[there] = (min(before[0], step), max(before[1], -score))
        frontier = fresh
    return edges, nodes


@pytest.mark.parametrize(("direction", "inward"), [("in", True), ("out", False)])
@pytest.mark.parametrize(("depth", "width", "least"), [(1, 4, 0), (2, 3, 0), (3, 2, 0), (2, 6, 0.8)])
def test_a_circuit_is_what_growing_it_by_hand_gives(depth, width, least, direction: str, inward: bool, asked: Asked):
    roots = [ROOT, "toy/2-tc-40/7"]
    edges, nodes = grown(asked.toy, roots, depth, width, inward, least)

    found = queries.circuit(asked.graph, roots, depth=depth, width=width, direction=direction, min=least)

    assert {tuple(row) for row in found.edges[["source", "target", "type"]].itertuples(index=False)} == edges
    assert {row.key: row.depth for row in found.nodes.itertuples()} == {key: node[0] for key, node in nodes.items()}
    for row in found.nodes.itertuples():
        assert row.score == pytest.approx(nodes[row.key][1])


def test_both_directions_are_the_two_beside_each_other(asked: Asked):
    both, inward, outward = (
        queries.circuit(asked.graph, ROOT, direction=direction, width=3) for direction in ("both", "in", "out")
    )

    ends = [set(zip(c.edges["source"], c.edges["target"], strict=True)) for c in (both, inward, outward)]
    assert ends[0] == ends[1] | ends[2]


def test_nothing_grows_through_a_token(asked: Asked):
    found = queries.circuit(asked.graph, ROOT, depth=3, width=6)

    assert not any(target.startswith("tok:") for target in found.edges["target"])
    assert found.nodes["key"].is_unique
    assert not found.edges.duplicated(["source", "target", "type"]).any()


def test_a_token_can_be_where_a_circuit_begins(asked: Asked):
    found = queries.circuit(asked.graph, "token:' rabbit'", direction="out", depth=1, width=4)

    assert set(found.edges["source"]) == {"tok:toy-words/1"}
    assert set(found.edges["type"]) == {"ACTIVATES"}


def test_a_circuit_between_two_nodes_is_the_union_of_the_best_paths(asked: Asked):
    start, end = "toy/0-tc-40/3", "toy/4-tc-40/1"

    found = queries.circuit(asked.graph, start, to=end, depth=3, width=2)

    best = queries.paths(asked.graph, start, end, k=6, max_hops=3)
    pairs = {pair for keys in best["keys"] for pair in pairwise(keys)}
    assert set(zip(found.edges["source"], found.edges["target"], strict=True)) == pairs


def test_an_explosive_circuit_is_refused_with_its_size(asked: Asked):
    with pytest.raises(BadSetting, match="up to 37,448 edges"):
        queries.circuit(asked.graph, ROOT, depth=5, width=8)
    with pytest.raises(BadSetting, match="quadrillion"):
        queries.circuit(asked.graph, ROOT, depth=10**9, width=10**9)
    with pytest.raises(BadSetting, match=r"^4,000 paths of 20 steps are up to 80,000 edges"):
        queries.circuit(asked.graph, "toy/0-tc-40/3", to=ROOT, depth=20, width=200)


@pytest.mark.parametrize("options", [{"depth": 0}, {"depth": -2}, {"width": 0}, {"direction": "up"}, {"min": -1}])
def test_a_circuit_that_makes_no_sense_is_refused(options, asked: Asked):
    with pytest.raises(BadSetting):
        queries.circuit(asked.graph, ROOT, **options)
    with pytest.raises(BadKey):
        queries.circuit(asked.graph, [])


def test_a_circuit_without_edges_says_why(asked: Asked):
    found = queries.circuit(asked.graph, ROOT, min=500)

    assert found.edges.empty
    assert list(found.nodes["key"]) == [ROOT]
    assert present.circuit_as("text", found) == "no connection passes min 500"


def test_every_form_holds_every_node_and_edge(asked: Asked):
    found = queries.circuit(asked.graph, "tok:toy-words/4", direction="out", depth=2, width=3)
    pairs = set(zip(found.edges["source"], found.edges["target"], strict=True))

    content = json.loads(present.circuit_as("json", found))
    assert {(edge["source"], edge["target"]) for edge in content["edges"]} == pairs
    assert {node["key"] for node in content["nodes"]} == set(found.nodes["key"])
    assert content["weight"] == "z"

    graph = networkx.parse_graphml(present.circuit_as("graphml", found))
    assert set(graph.edges()) == pairs
    assert graph.nodes["tok:toy-words/4"]["label"] == '"'
    one = found.edges.iloc[0]
    assert graph.edges[one["source"], one["target"]]["z"] == pytest.approx(one["z"])

    drawn = present.circuit_as("dot", found)
    assert all(f'"{a}" -> "{b}"' in drawn for a, b in pairs)
    chart = present.circuit_as("mermaid", found)
    assert chart.count("-->") + chart.count("-.->") == len(pairs)
    tree = present.circuit_as("text", found)
    assert all(key in tree for key in found.nodes["key"])


def test_no_label_breaks_out_of_its_form(asked: Asked):
    """The toy's tokens hold quotes, backslashes, line breaks and markup."""
    found = queries.circuit(asked.graph, [f"tok:toy-words/{i}" for i in range(17)], direction="out", depth=1, width=2)

    ElementTree.fromstring(present.circuit_as("graphml", found))
    for line in present.circuit_as("dot", found).splitlines()[3:-1]:
        assert line.startswith('  "')
        assert line.endswith("];")
        assert line.replace("\\\\", "").replace('\\"', "").count('"') % 2 == 0
    for line in present.circuit_as("mermaid", found).splitlines()[1:]:
        assert line.count('"') == 2
