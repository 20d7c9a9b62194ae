"""A circuit as the graph JSON of Neuronpedia and circuit-tracer: their schema, nothing invented, every edge there."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

import queries
from atlas.errors import BadSetting
from queries import present
from tests.unit.queries.asked import Asked

ROOT = "toy/3-tc-40/2"
TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def record(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields)}


SCHEMA = record(
    metadata=record(slug=TEXT, scan=TEXT, prompt_tokens={"type": "array", "items": TEXT}, prompt=TEXT),
    qParams=record(pinnedIds={"type": "array", "items": TEXT}, supernodes={"type": "array"}, linkType=TEXT),
    nodes={
        "type": "array",
        "items": record(
            node_id=TEXT,
            feature={"type": "integer"},
            layer=TEXT,
            ctx_idx={"type": "integer"},
            feature_type={"enum": ["cross layer transcoder", "embedding", "logit"]},
            jsNodeId=TEXT,
            clerp=TEXT,
        ),
    },
    links={"type": "array", "items": record(source=TEXT, target=TEXT, weight=NUMBER)},
)
"""what https://www.neuronpedia.org/graph/schema requires, of the kinds of node that weights have"""


def exported(circuit: queries.Circuit) -> dict[str, Any]:
    content = json.loads(present.circuit_as("neuronpedia", circuit))
    jsonschema.validate(content, SCHEMA)
    return content


@pytest.fixture(scope="module")
def both(asked: Asked) -> queries.Circuit:
    """Tokens that are read, features, and logits: a circuit of every kind of connection."""
    return queries.circuit(asked.graph, ROOT, direction="both", width=9)


def test_every_node_and_connection_is_there_once_with_its_weight(both: queries.Circuit):
    content = exported(both)
    nodes = {node["node_id"]: node for node in content["nodes"]}

    def key(node: dict[str, Any]) -> tuple[str, int, int]:
        layer, idx, _ = node["node_id"].split("_")
        return node["feature_type"], 0 if layer == "E" else int(layer), int(idx)

    def expected(of: str, kind: str, side: str) -> tuple[str, int, int]:
        name = int(of.rpartition("/")[2])
        if not of.startswith("tok:"):
            return "cross layer transcoder", int(of.split("/")[1].partition("-")[0]), name
        return ("embedding", 0, name) if side == "source" else ("logit", 6, name)

    assert set(both.edges["type"]) == {"ACTIVATES", "FEEDS", "PROMOTES"}
    assert len(nodes) == len(content["nodes"])
    links = [
        (key(nodes[link["source"]]), key(nodes[link["target"]]), pytest.approx(link["weight"]))
        for link in content["links"]
    ]
    assert links == [
        (expected(row.source, row.type, "source"), expected(row.target, row.type, "target"), row.weight)
        for row in both.edges.itertuples()
    ]


def test_nodes_are_named_as_the_pages_look_them_up(both: queries.Circuit):
    content = exported(both)
    labels = dict(zip(both.nodes["key"], both.nodes["label"], strict=True))

    for node in content["nodes"]:
        layer, name, position = node["node_id"].split("_")
        assert node["ctx_idx"] == int(position)
        if node["feature_type"] == "embedding":
            assert (node["layer"], node["jsNodeId"]) == ("E", f"E_{name}-{position}")
            assert content["metadata"]["prompt_tokens"][int(position)] == labels[f"tok:toy-words/{name}"]
        elif node["feature_type"] == "logit":
            assert (node["layer"], node["jsNodeId"]) == ("6", f"L_{name}-{position}")
            assert math.isnan(float(node["clerp"].split("(p=")[1].split(")")[0]))
        else:
            both_numbers = int(layer) + int(name)
            assert node["feature"] == both_numbers * (both_numbers + 1) // 2 + int(name)
            assert node["clerp"] == labels[f"toy/{layer}-tc-40/{name}"]
    assert content["qParams"]["pinnedIds"] == [f"3_2_{len(content['metadata']['prompt_tokens']) - 1}"]


def test_nothing_that_only_a_prompt_gives_is_invented(both: queries.Circuit):
    content = exported(both)

    assert not {"activation", "influence", "token_prob"} & {name for node in content["nodes"] for name in node}
    assert "node_threshold" not in content["metadata"]
    assert "not a prompt" in content["metadata"]["info"]["description"]
    assert content["metadata"]["info"]["description"].endswith(f"run {both.attrs['run']}.")
    assert len(content["metadata"]["prompt_tokens"]) >= 2


def test_a_set_that_neuronpedia_has_is_named_as_there(both: queries.Circuit):
    there = replace(both, attrs=both.attrs | {"neuronpedia": "gemma-2-2b/gemmascope-transcoder-16k"})

    metadata = exported(there)["metadata"]

    assert metadata["scan"] == "gemma-2-2b"
    assert metadata["feature_details"] == {"neuronpedia_source_set": "gemmascope-transcoder-16k"}
    assert "feature_details" not in exported(both)["metadata"]
    assert re.fullmatch(r"[a-z0-9-]{1,100}", metadata["slug"])


def test_features_of_two_sets_do_not_fit_into_one_graph(asked: Asked):
    two = queries.circuit(asked.graph, "token:' rabbit'", direction="out", depth=1)
    one = queries.circuit(asked.graph, "token:' rabbit'", direction="out", depth=1, set="tc-x")

    with pytest.raises(BadSetting, match="name one with set"):
        present.circuit_as("neuronpedia", two)
    assert set(one.nodes["key"].str.partition("/")[0]) == {"tok:toy-words", "other"}
    assert {node["feature_type"] for node in exported(one)["nodes"]} == {"embedding", "cross layer transcoder"}


def test_a_circuit_between_two_nodes_and_one_without_edges_are_exported_too(asked: Asked):
    between = exported(queries.circuit(asked.graph, "toy/0-tc-40/3", to="toy/4-tc-40/1", depth=3))
    alone = exported(queries.circuit(asked.graph, ROOT, min=500))

    assert between["links"]
    assert [len(alone["nodes"]), len(alone["links"])] == [1, 0]
