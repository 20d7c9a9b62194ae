"""Named queries: each file keeps its header, and says nothing that one of the engines would not understand."""

from __future__ import annotations

import re
from typing import Any

import pytest

import queries
from atlas.errors import BadQuery
from queries.answers import TYPES
from queries.catalog import FOLDER, find, parse
from tests.unit.queries.asked import Asked

NAMES = sorted(path.stem for path in FOLDER.rglob("*.cypher"))
FILES = sorted(FOLDER.rglob("*.cypher"))
SAMPLES: dict[str, Any] = {
    "key": "toy/3-tc-40/2",
    "a": "toy/3-tc-40/1",
    "b": "toy/3-tc-40/2",
    "source": "toy/0-tc-40/3",
    "target": "toy/4-tc-40/1",
    "set": "toy/tc-40",
    "model": "toy",
    "source_layer": 1,
    "target_layer": 3,
    "text": " rabbit",
    "head_key": "toy/L1H0",
    "head": 0,
    "layer": 1,
    "vocabulary": "toy-words",
    "keys": ["toy/3-tc-40/2", "toy/0-tc-40/3"],
}
TOKEN_KEYED = {
    "token",
    "token_features",
    "promoting_features",
    "token_features_via",
    "promoting_features_via",
    "predicted_tokens",
    "predicting_tokens",
}
OTHERS: dict[str, dict[str, Any]] = {
    "texts_of": {"keys": ["tok:toy-words/1"]},
    "counterparts": {"set": "other/tc-x"},
    "token_edge": {"source": "tok:toy-words/1", "target": "toy/0-tc-40/0"},
    "logit_edge": {"source": "toy/0-tc-40/0", "target": "tok:toy-words/1"},
}
NOTHING_YET = {
    "features_by_description",
    "descriptions",
    "description_runs",
    "said",
    "matches",
    "matched_sets",
}

OF_HEADS = {name for name in NAMES if name.endswith("_via") or name.startswith(("head_", "predict"))}
"""asked of an atlas with heads in test_through.py"""


def body(text: str) -> str:
    return re.sub(r"^//.*$", "", text, flags=re.MULTILINE).strip()


def sample(name: str) -> dict[str, Any]:
    needed = [p.name for p in find(name).parameters if p.default is None]
    given = {parameter: SAMPLES[parameter] for parameter in needed}
    return given | ({"key": "tok:toy-words/1"} if name in TOKEN_KEYED else {}) | OTHERS.get(name, {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_parameters_of_the_header_are_those_of_the_text(path):
    named = parse(path.stem, path.read_text(encoding="utf-8"))

    assert {p.name for p in named.parameters} == set(re.findall(r"\$(\w+)", body(named.text)))


@pytest.mark.parametrize("name", NAMES)
def test_a_query_returns_the_columns_of_its_header_with_their_types(name: str, asked: Asked):
    named = find(name)

    found = queries.query(asked.graph, name, **sample(name))

    assert list(found.columns) == list(named.columns) == list(asked.graph.run(named.text, **_all(name)).columns)
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == {
        column: str(TYPES[kind]) if not isinstance(TYPES[kind], str) else TYPES[kind]
        for column, kind in named.columns.items()
    }
    assert found.empty == (name in NOTHING_YET or name in OF_HEADS)


def _all(name: str) -> dict[str, Any]:
    defaults = {p.name: p.default for p in find(name).parameters if p.default is not None}
    return defaults | sample(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_query_is_portable(path):
    text = body(path.read_text(encoding="utf-8"))
    variables = set(re.findall(r"[(\[](\w+)?:", text)) - {""}
    aliases = set(re.findall(r"\bAS (\w+)", text))

    assert not aliases & variables, "an alias that is also a variable sorts by the variable in one engine"
    assert not re.search(r"\((\w*)\)\s*[-<]|[->]\((\w*)\)", text), "every node of a pattern needs a label"
    assert not re.search(r"\[\w*\]|--|-->", text), "every relationship needs a type"
    beyond = re.sub(r"\AUNWIND \$\w+ AS \w+$", "", text, flags=re.MULTILINE)
    assert not re.search(r"\bUNWIND\b|\w\[\d", beyond), "UNWIND only of a parameter and first; no index into a list"
    for clause in re.findall(r"\bWITH\b.*?(?=\b(?:WITH|RETURN)\b)", text, re.DOTALL):
        assert "ORDER BY" not in clause or "LIMIT" in clause
    assert ("LIMIT" not in text) or re.search(r"ORDER BY [^\n]*\w+\s*\nLIMIT", text), "what is limited is ordered"


@pytest.mark.parametrize("path", [p for p in FILES if "LIMIT" in p.read_text()], ids=lambda path: path.stem)
def test_ties_are_broken_by_key(path):
    order = re.findall(r"ORDER BY (.*)", body(path.read_text(encoding="utf-8")))[-1]

    assert {part.strip() for part in order.split(",")} & {"key", "source", "text"}


def test_the_catalog_lists_every_file_with_what_it_answers():
    listed = queries.catalog()

    assert list(listed["name"]) == sorted(set(NAMES))
    assert (listed["answers"].str.len() > 20).all()
    assert set(SAMPLES) >= {p for row in listed["parameters"] for p in row.split() if not p.startswith("[")}


def test_inputs_asked_by_name_are_the_edges_into_a_feature(asked: Asked):
    target = "toy/4-tc-40/1"
    truth = {(a, w, z, s) for a, b, w, z, s in asked.toy.edges["FEEDS"] if b == target}

    found = queries.query(asked.graph, "inputs", key=target, limit=1000)

    assert {tuple(row) for row in found[["key", "weight", "z", "share"]].itertuples(index=False)} == truth
    assert found.attrs["complete"] is True


def test_as_many_rows_as_the_limit_are_marked_as_perhaps_not_all(asked: Asked):
    found = queries.query(asked.graph, "inputs", key="toy/4-tc-40/1", limit=2)

    assert len(found) == 2
    assert found.attrs["complete"] is False
    assert "may be more" in found.attrs["note"]


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("imputs", {}, "did you mean 'inputs'"),
        ("../catalog", {}, "no query named"),
        ("inputs", {}, "needs key"),
        ("inputs", {"key": "a", "lmit": 3}, "no parameter 'lmit'"),
        ("inputs", {"key": "a", "limit": 0}, "1 row or more"),
        ("inputs", {"key": "a", "limit": "many"}, "no int"),
        ("inputs", {"key": "a", "limit": 2**70}, "no int"),
        ("inputs", {"key": "\ud800"}, "surrogate"),
        ("inputs", {"key": None}, "no text"),
        ("labels_of", {"keys": "toy/0-tc-40/3"}, "no texts"),
        ("labels_of", {"keys": ["\ud800"]}, "surrogate"),
        ("inputs", {"key": "a", "min": float("nan")}, "no float"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_what_does(name, parameters, said: str, asked: Asked):
    with pytest.raises(BadQuery, match=re.escape(said)):
        queries.query(asked.graph, name, **parameters)


def test_labels_of_no_features_are_none_and_a_question_of_many_asks_each_once(asked: Asked):
    keys = ["toy/3-tc-40/2", "toy/0-tc-40/3"]

    assert queries.query(asked.graph, "labels_of", keys=[]).empty
    assert sorted(queries.query(asked.graph, "labels_of", keys=keys)["key"]) == sorted(keys)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("inputs", {"key": "toy/3-tc-40/999"}, "no feature or token 'toy/3-tc-40/999' here"),
        (
            "common_inputs",
            {"a": "toy/3-tc-40/1", "b": "3/2"},
            "no feature or token '3/2' here; a key is written in full",
        ),
        ("hubs", {"set": "toy"}, "no set 'toy' here; there is other/tc-x, toy/tc-40"),
        ("strongest_edges", {"set": "toy/tc-40", "source_layer": 3, "target_layer": 1}, "to later layers only"),
    ],
)
def test_no_rows_say_why_where_a_parameter_names_nothing(name: str, parameters, said: str, asked: Asked):
    found = queries.query(asked.graph, name, **parameters)

    assert found.empty
    assert said in found.attrs["note"]
    assert "note" not in queries.query(asked.graph, "inputs", key="toy/0-tc-40/1").attrs


def test_the_text_of_a_query_is_the_file_with_its_header():
    assert queries.query_text("outputs") == (FOLDER / "outputs.cypher").read_text(encoding="utf-8")


def test_ones_own_cypher_is_answered_and_says_whether_it_is_whole(asked: Asked):
    text = "MATCH (f:Feature {model: $model}) RETURN f.key AS key ORDER BY key"

    whole = queries.cypher(asked.graph, text, {"model": "toy"})
    part = queries.cypher(asked.graph, text, {"model": "toy"}, max_rows=7)

    assert list(whole["key"]) == sorted(asked.toy.keys("Feature"))
    assert whole.attrs == {"complete": True}
    assert list(part["key"]) == sorted(asked.toy.keys("Feature"))[:7]
    assert part.attrs["complete"] is False


@pytest.mark.parametrize(
    "parameters", [{"x y": 1}, {"x": 2**64}, {"x": "\udc00"}, {"x": object()}, {"x": [{"y": "\ud800"}]}]
)
def test_a_parameter_no_engine_can_take_is_refused(parameters, asked: Asked):
    with pytest.raises(BadQuery):
        queries.cypher(asked.graph, "RETURN $x AS x", parameters)
