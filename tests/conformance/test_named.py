"""Every named query, and the questions about neighbours, have the same rows on every store; signs included."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

import queries
from queries.catalog import find
from tests.conformance.conftest import Both
from tests.unit.queries.test_catalog import NAMES, sample


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_every_named_query_answers_alike_on_every_store_by_every_number_and_sign(both: Both):
    store, beside, _ = both
    rows = 0

    for name in NAMES:
        named = find(name)
        words = {p.name: p.among for p in named.parameters}
        # nothing is observed here; by evidence is asked in tests/neo4j/test_evidence.py
        numbers = [by for by in words.get("by", ()) if by in ("z", "weight", "share")]
        options = [{"by": by} for by in numbers] or [{}]
        signs = [{"sign": sign} for sign in (0, 1, -1)] if "sign" in words else [{}]
        limit = {"limit": 500} if "limit" in words else {}
        for by, sign in product(options, signs):
            asked = sample(name) | by | sign | limit
            found, expected = (queries.query(graph, name, **asked) for graph in (store, beside))
            if (
                "ORDER BY" not in named.text and len(found) > 1
            ):  # those that read whole layers leave the order to the store
                found, expected = (frame.sort_values(list(frame), ignore_index=True) for frame in (found, expected))
            same(found, expected)
            rows += len(found)
    assert rows > 1000


@pytest.mark.parametrize("sign", ["both", "+", "-"])
def test_neighbours_are_the_edges_of_the_build_with_the_signs_that_are_asked_for(both: Both, sign: str):
    store, _, truth = both
    kept = {"both": lambda weight: True, "+": lambda weight: weight > 0, "-": lambda weight: weight < 0}[sign]
    key = "toy/3-tc-40/2"
    edges = [row for kind in ("ACTIVATES", "FEEDS", "PROMOTES") for row in truth.edges[kind]]
    ends = [(a.replace("truth/", "toy/"), b.replace("truth/", "toy/"), weight) for a, b, weight, *_ in edges]

    inputs = queries.inputs(store, key, k=1000, sign=sign)
    outputs = queries.outputs(store, key, k=1000, sign=sign)

    assert dict(zip(inputs["key"], inputs["weight"], strict=True)) == pytest.approx(
        {a: weight for a, b, weight in ends if b == key and kept(weight)}, rel=1e-5
    )
    assert dict(zip(outputs["key"], outputs["weight"], strict=True)) == pytest.approx(
        {b: weight for a, b, weight in ends if a == key and kept(weight)}, rel=1e-5
    )
    assert len(inputs) > 3
    assert len(outputs) > 3


def test_a_circuit_has_its_negative_connections_on_every_store(both: Both):
    store, beside, _ = both

    found, expected = (queries.circuit(graph, "toy/4-tc-40/1", depth=2, width=6) for graph in (store, beside))

    same(found.edges, expected.edges)
    same(found.nodes, expected.nodes)
    assert (found.edges["weight"] < 0).any()
