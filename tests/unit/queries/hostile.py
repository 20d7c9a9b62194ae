"""Hostile text, and every place of every question where text goes. Used on the embedded store and on a real server.

Places are found by the signatures of :mod:`queries`, so that a new argument is tried without anybody thinking of it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

import queries
from atlas.errors import AtlasError
from atlas.stores import Store

FEATURE, LATER, TOKEN = "toy/0-tc-40/3", "toy/4-tc-40/1", "tok:toy-words/1"
_SHORT = {FEATURE: "0/3", LATER: "4/1"}
_FIRES = pd.DataFrame({name: pd.Series(dtype="int64") for name in ("position", "token", "feature", "value")})
_CIRCUIT: dict[str, Any] = {"keys": FEATURE, "depth": 1, "width": 2}
_OTHERS: dict[str, dict[str, Any]] = {
    "card": {"key": FEATURE},
    "circuit": _CIRCUIT,
    "common": {"keys": ["0/3", "4/1"], "set": "toy/tc-40"},
    "compare": {"a": "toy/tc-40", "b": "toy/tc-40"},
    "cypher": {"text": "RETURN 1 AS one"},
    "examples": {"key": FEATURE},
    "fired": {"fires": _FIRES},
    "fired_edges": {"fires": _FIRES},
    "inputs": {"keys": FEATURE},
    "matrix": {"set_key": "toy/tc-40", "source_layer": 0, "target_layer": 1},
    "motif_instances": {"set": "toy/tc-40", "shape": "chain", "k": 1},
    "motifs": {"set": "toy/tc-40", "samples": 0},
    "outputs": {"keys": FEATURE},
    "paths": {"a": TOKEN, "b": LATER, "k": 2},
    "query": {"name": "inputs"},
    "query_text": {"name": "inputs"},
    "reach": {"key": FEATURE, "k": 2},
    "resolve": {"key": "1/2"},
    "search": {"text": "rabbit", "k": 3},
    "similar": {"key": FEATURE, "k": 2},
}
"""What the other arguments are while one of them is hostile."""
_TEXT = ("str", "Key", "Place")
_TRIED_BY_HAND = {"translate", "keep"}
"""a circuit's translation stands in :data:`FURTHER`; to keep is no question, and writes"""

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
    "999999-9999999",
    "0-999999",
]
_PIECES = [
    *NASTY[:33],
    *("MATCH (n) ", "RETURN 1", "DETACH DELETE n", "CREATE (:X)", "SET n.key = 1", "CALL db.labels()", "UNION", "//"),
    *("LOAD CSV FROM 'http://x' AS r", "CALL { ", "} IN TRANSACTIONS", "$", "0x", "1e", ";", ":param x => 1", "/*"),
    *("rabbit", "rab", " rabbit", "toy", "toy/tc-40", "0/3", "L0 F3", "tok:", "token:", "toy/0-tc-40/", "toy-words/"),
    *("*", "?", "~", "~2", "^3", "[a TO b]", "+", "-", "&&", "||", "!", "{", "}", "(", ")", "NEAR", "NOT", "AND", "^"),
    *("\t", "\r\n", "\u200b", "\ufeff", "é", "e\u0301", "ß", "İ", "兔", "\U0010ffff", "\udfff", "\x1b[31m", "0", "7"),
    *("\\u0000", "-", "/", ":", ".", ",", "#"),
]


def places() -> dict[str, tuple[Callable[..., Any], str]]:
    """Every argument of a question that takes text, as ``question.argument``: the question and the argument's name."""
    found = {}
    for name in queries.__all__:
        question = getattr(queries, name)
        if inspect.isfunction(question) and name not in _TRIED_BY_HAND:
            for parameter in inspect.signature(question).parameters.values():
                kinds = str(parameter.annotation).replace("|", " ").replace("[", " ").replace("]", " ").split()
                if set(kinds) & {*_TEXT} and parameter.kind != parameter.VAR_KEYWORD:
                    found[f"{name}.{parameter.name}"] = (question, parameter.name)
    return found


PLACES = places()
FURTHER: dict[str, Callable[[Store, str], Any]] = {
    "translate.to": lambda graph, text: queries.translate(graph, queries.circuit(graph, **_CIRCUIT), text),
    "translate.by": lambda graph, text: queries.translate(graph, queries.circuit(graph, **_CIRCUIT), "toy", by=text),
    "query's parameter": lambda graph, text: queries.query(graph, "inputs", **{text: 1}),
    "query's key": lambda graph, text: queries.query(graph, "inputs", key=text, by=text),
    "query's words": lambda graph, text: queries.query(graph, "features_by_description", text=text),
    "query's set": lambda graph, text: queries.query(graph, "label_sources", set=text),
    "cypher's parameter": lambda graph, text: queries.cypher(graph, "RETURN $x AS x", {"x": text}),
    "cypher's parameter's name": lambda graph, text: queries.cypher(graph, "RETURN 1 AS one", {text: 1}),
    "one of many keys": lambda graph, text: queries.inputs(graph, [FEATURE, text]),
    "one of many ends": lambda graph, text: queries.paths(graph, TOKEN, [LATER, text], through=[text, 1]),
    "a key of the named set": lambda graph, text: queries.resolve(graph, text, set="toy/tc-40"),
    "words and a token": lambda graph, text: queries.search(graph, text, by="token", set="toy/tc-40"),
}
EVERYWHERE = sorted([*PLACES, *FURTHER])


def ask(graph: Store, place: str, text: str) -> Any:
    """Ask one question with hostile text in one place."""
    if place in FURTHER:
        return FURTHER[place](graph, text)
    question, argument = PLACES[place]
    given = {**_OTHERS.get(question.__name__, {}), argument: text}
    if argument == "set":  # a key that needs the set, or it would not be looked at
        given = {name: _SHORT.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    return question(**given) if question is queries.query_text else question(graph, **given)


def answered(graph: Store, place: str, text: str) -> str:
    """Ask, and demand an answer or one line of ours; returns the line."""
    said = ""
    try:
        ask(graph, place, text)
    except AtlasError as error:
        said = str(error)
    assert "\n" not in said, (place, text)
    said.encode()
    return said


def strings(count: int, seed: int) -> Iterator[str]:
    """Fuzzed text: pieces of Cypher, of Lucene's and of FTS5's syntax, of keys and of strange characters."""
    chance = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(chance.choice((1, 1, 2, 2, 3, 4, 6))):
            if chance.random() < 0.8:
                parts.append(chance.choice(_PIECES))
            else:
                parts.append("".join(chr(chance.randrange(chance.choice((128, 0x3000, 0x110000)))) for _ in range(3)))
        yield "".join(parts)[: chance.choice((8, 40, 200))]
