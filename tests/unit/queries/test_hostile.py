"""Whatever text is given anywhere: an answer, or one of our own errors in one line. Never anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import queries
from atlas.errors import AtlasError
from atlas.stores import Store
from tests.unit.queries.asked import Asked

FEATURE, LATER = "toy/0-tc-40/3", "toy/4-tc-40/1"
NASTY = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "'",
    '"',
    "`",
    "\\",
    "\\'",
    "';--",
    "' OR 1=1 //",
    "'}) DETACH DELETE n //",
    "{key: 'x'}",
    "$key",
    "{$x}",
    "%_*",
    '" OR "',
    "rabbit*",
    '"rabbit',
    "NEAR(a b)",
    "a AND NOT b",
    "col:val",
    "^rabbit",
    "-rabbit",
    "(((",
    "rabbit OR (",
    "\n",
    "\u2028",
    "\u202e",
    "🐇" * 50,
    "x" * 10_000,
    "9" * 400,
    "-1",
    "1e999",
    "NaN",
    "null",
    "../../etc/passwd",
    "toy/1-tc-40/" + "9" * 12,
    "toy/999999999999-tc-40/1",
    "tok:toy-words/999999999999",
    "token:'",
    "token:''",
    "token:\x00",
    "token:'\ud800'",
    "a:b:1",
    "toy-tc-40-release:\x00:1",
    "https://www.neuronpedia.org/%00/%ff/1",
    "٣/٤",
]

QUESTIONS: dict[str, Callable[[Store, str], Any]] = {
    "resolve": lambda graph, text: queries.resolve(graph, text),
    "resolve within": lambda graph, text: queries.resolve(graph, "1/2", set=text),
    "card": lambda graph, text: queries.card(graph, text, set=text),
    "inputs": lambda graph, text: queries.inputs(graph, text),
    "inputs of": lambda graph, text: queries.inputs(graph, FEATURE, of=text),
    "outputs by": lambda graph, text: queries.outputs(graph, FEATURE, by=text),
    "outputs sign": lambda graph, text: queries.outputs(graph, FEATURE, sign=text),
    "outputs layer": lambda graph, text: queries.outputs(graph, FEATURE, layer=text),
    "outputs set": lambda graph, text: queries.outputs(graph, "tok:toy-words/1", set=text),
    "common": lambda graph, text: queries.common(graph, [FEATURE, text]),
    "search": lambda graph, text: queries.search(graph, text),
    "search by token": lambda graph, text: queries.search(graph, text, by="token"),
    "search model": lambda graph, text: queries.search(graph, "rabbit", model=text),
    "search set": lambda graph, text: queries.search(graph, "rabbit", set=text),
    "circuit": lambda graph, text: queries.circuit(graph, [text], to=text),
    "paths": lambda graph, text: queries.paths(graph, text, LATER),
    "paths score": lambda graph, text: queries.paths(graph, FEATURE, LATER, score=text),
    "paths set": lambda graph, text: queries.paths(graph, "tok:toy-words/1", "tok:toy-words/3", set=text),
    "motifs": lambda graph, text: queries.motifs(graph, text, shape="chain", samples=1),
    "motifs shape": lambda graph, text: queries.motifs(graph, "toy/tc-40", shape=text),
    "instances": lambda graph, text: queries.motif_instances(graph, text, shape="chain", score=text),
    "hubs": lambda graph, text: queries.hubs(graph, text, by="through"),
    "matrix": lambda graph, text: queries.matrix(graph, text, 0, 1),
    "sets": lambda graph, text: queries.sets(graph, model=text),
    "query": lambda graph, text: queries.query(graph, text),
    "query text": lambda graph, text: queries.query_text(text),
    "query parameter": lambda graph, text: queries.query(graph, "inputs", **{text: 1}),
    "query by text": lambda graph, text: queries.query(graph, "features_by_description", text=text),
    "query by key": lambda graph, text: queries.query(graph, "inputs", key=text, by=text),
    "cypher": lambda graph, text: queries.cypher(graph, text),
    "cypher parameter": lambda graph, text: queries.cypher(graph, "RETURN $x AS x", {"x": text}),
}


def answered(graph: Store, question: str, text: str) -> None:
    said = ""
    try:
        QUESTIONS[question](graph, text)
    except AtlasError as error:
        said = str(error)
    assert "\n" not in said
    said.encode()


@pytest.mark.parametrize("question", QUESTIONS)
def test_nasty_text_is_answered_or_refused_in_a_line(question: str, asked: Asked):
    before = asked.graph.run("MATCH (n:Feature) RETURN count(n) AS n")["n"].iloc[0]

    for text in NASTY:
        answered(asked.graph, question, text)

    assert asked.graph.run("MATCH (n:Feature) RETURN count(n) AS n")["n"].iloc[0] == before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    question=st.sampled_from(sorted(QUESTIONS)),
    text=st.text(max_size=40) | st.text("'\"\\{}$()*:/-`; \n\x00", max_size=12),
)
def test_any_text_is_answered_or_refused_in_a_line(question: str, text: str, asked: Asked):
    answered(asked.graph, question, text)
