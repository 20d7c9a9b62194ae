"""What people wrote on graphs of circuit-tracer and Neuronpedia becomes descriptions of the features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import atlas
import queries
from atlas import descriptions
from atlas.errors import BadDescriptions
from atlas.exchange import circuit_tracer
from queries.present import circuit_as
from tests import toy
from tests.toy import Toy


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


def feature(layer: int, idx: int, position: int, clerp: str = "") -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{idx}_{position}",
        "feature": (layer + idx) * (layer + idx + 1) // 2 + idx,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": "cross layer transcoder",
        "jsNodeId": f"{layer}_{idx}-0",
        "clerp": clerp,
        "activation": 3.5,
    }


def others() -> list[dict[str, Any]]:
    """An error whose old id reads like that of feature 2 of layer 0, a token and a logit: none of them a feature."""
    error = {"node_id": "0_2_1", "feature": -1, "layer": "2", "feature_type": "mlp reconstruction error"}
    token = {"node_id": "E_5_0", "feature": 0, "layer": "E", "feature_type": "embedding"}
    logit = {"node_id": "6_9_3", "feature": 9, "layer": "6", "feature_type": "logit"}
    return [{**node, "ctx_idx": 0, "jsNodeId": "", "clerp": "no feature"} for node in (error, token, logit)]


def graph(nodes: list[dict[str, Any]], groups: Any = (), scan: str = "toy", **metadata: Any) -> dict[str, Any]:
    about = {"slug": "the-prompt", "scan": scan, "prompt_tokens": ["a", "b"], "prompt": "ab", **metadata}
    params = {"pinnedIds": [], "supernodes": groups, "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": about, "qParams": params, "nodes": nodes, "links": []}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def said(found: descriptions.Descriptions) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for node in found.nodes().to_pylist():
        texts.setdefault(node["key"].partition("#")[0], []).append(node["text"])
    return texts


def test_words_on_features_and_names_of_groups_become_descriptions(made: Toy, tmp_path: Path):
    nodes = [feature(0, 2, 1, " rabbits "), feature(0, 2, 3, "rabbits"), feature(4, 1, 3), *others()]
    groups = [["burrows", "0_2_3", "4_1_3", "E_5_0", "no such node"], ["", "4_1_3"]]
    write(tmp_path / "graphs" / "one.json", graph(nodes, groups))
    write(tmp_path / "graphs" / "two.json", graph([feature(3, 2, 0, "digging")], scan="toy/tc-40", slug="second"))
    write(tmp_path / "graphs" / "graph-metadata.json", {"graphs": []})

    found = circuit_tracer.read(made.build, tmp_path / "graphs")

    assert said(found) == {
        "toy/0-tc-40/2": ["rabbits", "burrows"],
        "toy/4-tc-40/1": ["burrows"],
        "toy/3-tc-40/2": ["digging"],
    }
    told = {node["text"]: json.loads(node["scores"]) for node in found.nodes().to_pylist()}
    assert told["burrows"] == {"graph": "the-prompt", "said_as": "supernode"}
    assert told["digging"] == {"graph": "second", "said_as": "clerp"}
    assert circuit_tracer.read(made.build, tmp_path / "graphs").run == found.run


def test_a_circuit_that_was_exported_and_written_on_comes_back_with_what_was_written(made: Toy, tmp_path: Path):
    atlas.load(made.build, tmp_path / "atlas")
    with atlas.open(tmp_path / "atlas") as store:
        circuit = queries.circuit(store, "toy/4-tc-40/1", depth=2, width=3)
        exported = json.loads(circuit_as("neuronpedia", circuit))
    features = [key for key in circuit.nodes["key"] if not key.startswith("tok:")]
    by_key = dict(zip(circuit.nodes["key"], circuit.nodes["label"], strict=True))
    root = exported["qParams"]["pinnedIds"][0]
    exported["qParams"]["supernodes"] = [["what I think it is", root]]

    found = circuit_tracer.read(made.build, write(tmp_path / "graph.json", exported))

    expected = {key: [by_key[key].strip()] if by_key[key].strip() else [] for key in features}
    expected["toy/4-tc-40/1"].append("what I think it is")
    assert said(found) == {key: texts for key, texts in expected.items() if texts}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("{", "cannot be read as JSON"),
        ([1], "has no metadata, qParams, nodes"),
        ({"metadata": {}, "qParams": {}}, "has no nodes"),
        (graph([feature(0, 2, 1, "x")], scan="gemma-2-2b"), "is of gemma-2-2b, not toy/tc-40"),
        (graph([feature(0, 2, 1, "x")], feature_details={"neuronpedia_source_set": "clt"}), "is of toy/clt, not"),
        (graph([feature(0, 4000, 1, "x")]), "has feature 0/4000, which toy/tc-40 does not have"),
        (graph([feature(9, 1, 1, "x")]), "has feature 9/1, which"),
        (graph([feature(0, 2, 1, "x") | {"layer": "1"}]), "no pair of layer and index"),
        (graph([feature(0, 2, 1, "x") | {"feature": "7"}]), "no pair of layer and index"),
        (graph([{"feature": 1}]), "a node without a node_id"),
        (graph([feature(0, 2, 1)], [["name", 3]]), "no list of a name and node ids"),
        (graph([feature(0, 2, 1), *others()]), "says nothing of any feature"),
    ],
)
def test_what_is_no_graph_of_this_set_is_refused_in_a_line_and_nothing_is_staged(
    content: Any, line: str, made: Toy, tmp_path: Path
):
    with pytest.raises(BadDescriptions) as refused:
        circuit_tracer.read(made.build, write(tmp_path / "graph.json", content))

    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert descriptions.staged(made.build) == []


def test_a_folder_without_graphs_is_refused(made: Toy, tmp_path: Path):
    write(tmp_path / "graphs" / "graph-metadata.json", {"graphs": []})

    for place in (tmp_path / "graphs", tmp_path / "nowhere"):
        with pytest.raises(BadDescriptions):
            circuit_tracer.read(made.build, place)
