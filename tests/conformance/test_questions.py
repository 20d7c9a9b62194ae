"""Every question in Python has the same rows on every store, and says the same of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

import queries
from atlas.stores import Store
from tests.conformance.conftest import Both
from tests.conformance.test_named import same

A, B, LATE, TOKEN = "toy/0-tc-40/3", "toy/3-tc-40/2", "toy/4-tc-40/1", "tok:toy-words/1"

QUESTIONS: dict[str, Callable[[Store], Any]] = {
    "models": queries.models,
    "sets": queries.sets,
    "search for a word": partial(queries.search, text="rabbit"),
    "search for a token": partial(queries.search, text=" rabbit", by="token"),
    "card of a feature": partial(queries.card, key=B),
    "card of a token": partial(queries.card, key=TOKEN),
    "inputs of a token": partial(queries.inputs, keys=TOKEN),
    "outputs of a token": partial(queries.outputs, keys=TOKEN, by="weight"),
    "inputs of several": partial(queries.inputs, keys=[B, LATE, TOKEN], by="share", layer="0-2"),
    "inputs through heads": partial(queries.inputs, keys=B, of="heads"),
    "outputs through heads": partial(queries.outputs, keys=A, of="heads"),
    "common inputs": partial(queries.common, keys=[B, LATE]),
    "circuit outward": partial(queries.circuit, keys=A, direction="out", depth=2, width=4),
    "circuit between": partial(queries.circuit, keys=A, to=LATE, depth=3, width=3),
    "paths": partial(queries.paths, a=A, b=LATE, k=20),
    "paths to any, with the total": partial(queries.paths, a=A, b=[LATE, B], k=20, total=True),
    "paths of shares from a token to a token": partial(
        queries.paths, a=TOKEN, b="tok:toy-words/2", k=20, score="share", set="toy/tc-40"
    ),
    "reach": partial(queries.reach, key=A),
    "hubs": partial(queries.hubs, set="toy/tc-40"),
    "motifs": partial(queries.motifs, set="toy/tc-40", samples=3, rounds=2),
    "instances of a motif": partial(queries.motif_instances, shape="feed-forward-loop", set="toy/tc-40"),
    "similar in inputs": partial(queries.similar, key=B, by="inputs"),
    "similar in outputs": partial(queries.similar, key=B, by="outputs"),
    "compare": partial(queries.compare, a="toy/tc-40", b="other/tc-x"),
}


def test_every_question_has_the_same_answer_on_every_store(both: Both):
    store, beside, _ = both

    for name, ask in QUESTIONS.items():
        found, expected = ask(store), ask(beside)
        for ours, theirs in zip(_frames(found), _frames(expected), strict=True):
            same(ours, theirs)
            assert _said(ours) == _said(theirs), name
        assert sum(map(len, _frames(found))), name


def _frames(answer: Any) -> list[pd.DataFrame]:
    if isinstance(answer, pd.DataFrame):
        return [answer]
    if isinstance(answer, dict):  # a card
        rest = {name: value for name, value in answer.items() if not isinstance(value, pd.DataFrame)}
        return [answer["inputs"], answer["outputs"], pd.DataFrame([{"rest": repr(_rounded(rest))}])]
    return [answer.nodes, answer.edges]


def _said(frame: pd.DataFrame) -> Any:
    return _rounded(dict(frame.attrs))


def _rounded(value: Any) -> Any:
    """Numbers to six digits: servers keep them wider."""
    match value:
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
        case float():
            return float(f"{value:.6g}")
    return value
