"""Whatever text is given anywhere: an answer or an error of ours in one line. Never anything else, never a write."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.queries.asked import Asked
from tests.unit.queries.hostile import EVERYWHERE, NASTY, answered, strings

FUZZED = 10_000


def content(asked: Asked) -> dict[str, str]:
    """Every file of the atlas, by the hash of what is in it; a sentence encoder's vectors are a cache beside it."""
    folder = Path(asked.graph.address)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "meaning" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("place", EVERYWHERE)
def test_nasty_text_is_answered_or_refused_in_a_line(place: str, asked: Asked):
    for text in NASTY:
        answered(asked.graph, place, text)


def test_ten_thousand_fuzzed_texts_over_every_argument_are_answered_or_refused_and_write_nothing(asked: Asked):
    before = content(asked)
    refused = 0

    for at, text in enumerate(strings(FUZZED, seed=8)):
        refused += bool(answered(asked.graph, EVERYWHERE[at % len(EVERYWHERE)], text))

    assert content(asked) == before
    assert 0.3 * FUZZED < refused < FUZZED  # most is nonsense, and some is a question all the same


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.sampled_from(EVERYWHERE),
    text=st.text(max_size=40) | st.text("'\"\\{}$()*:/-`; \n\x00", max_size=12),
)
def test_any_text_is_answered_or_refused_in_a_line(place: str, text: str, asked: Asked):
    answered(asked.graph, place, text)


def test_every_question_is_among_those_that_are_tried():
    tried = {place.partition(".")[0] for place in EVERYWHERE}

    assert {"card", "circuit", "inputs", "outputs", "paths", "reach", "search", "similar", "common", "query"} <= tried
    assert {"paths.a", "paths.b", "paths.through", "search.layer", "search.by", "circuit.to"} <= {*EVERYWHERE}
