"""Hostile text on a real server: an answer or one line of ours, no write; and every named query as it is pasted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import neo4j
import pytest

import queries
from atlas.stores.neo4j import Neo4jStore
from queries.catalog import FOLDER, find
from tests.neo4j import graphs
from tests.neo4j.servers import Place
from tests.toy import Toy
from tests.unit.queries.hostile import EVERYWHERE, NASTY, answered, strings
from tests.unit.queries.test_catalog import SAMPLES, TOKEN_KEYED

pytestmark = pytest.mark.neo4j

NAMES = sorted(path.stem for path in FOLDER.glob("*.cypher"))


@pytest.fixture
def reading(place: Place, store: Neo4jStore, small: Toy) -> Iterator[Neo4jStore]:
    store.add(small.build)
    with Neo4jStore(place.address, user=place.user, password=place.password) as opened:
        yield opened


def pasted(place: Place, text: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """What the server makes of a text, with nothing but its own driver in between."""
    auth = (place.user, place.password) if place.password else None
    with neo4j.GraphDatabase.driver(place.address, auth=auth, notifications_min_severity="OFF") as driver:
        return [record.data() for record in driver.execute_query(text, parameters).records]


def fuzz(place: Place, reading: Neo4jStore, count: int, seed: int) -> None:
    before, refused = graphs.on(place), 0
    for at, text in enumerate(strings(count, seed)):
        refused += bool(answered(reading, EVERYWHERE[at % len(EVERYWHERE)], text))
    assert graphs.on(place) == before
    assert 0.3 * count < refused < count


def test_a_thousand_fuzzed_texts_are_answered_or_refused_and_write_nothing(place: Place, reading: Neo4jStore):
    fuzz(place, reading, 1_000, seed=26)


@pytest.mark.faults
def test_twenty_thousand_fuzzed_texts_are_answered_or_refused_and_write_nothing(place: Place, reading: Neo4jStore):
    fuzz(place, reading, 20_000, seed=27)


def test_nasty_text_is_answered_or_refused_where_cypher_and_lucene_would_read_it(place: Place, reading: Neo4jStore):
    before = graphs.on(place)

    for where in ("search.text", "resolve.key", "query's key", "query's words", "cypher.text", "cypher's parameter"):
        for text in NASTY:
            answered(reading, where, text)

    assert graphs.on(place) == before


def test_every_named_query_answers_as_it_stands_when_it_is_pasted(place: Place, reading: Neo4jStore):
    """The file as it is, header and all, with its parameters set as ``:param`` would; nothing of ours in between."""
    different, answering = {}, 0
    for name in NAMES:
        named = find(name, "neo4j")
        needed = {p.name: SAMPLES[p.name] if p.default is None else p.default for p in named.parameters}
        needed |= {"key": "tok:toy-words/1"} if name in TOKEN_KEYED else {}
        rows = pasted(place, named.text, needed)
        ours = queries.query(reading, name, **{p.name: needed[p.name] for p in named.parameters})
        if len(rows) != len(ours) or any([*row] != [*named.columns] for row in rows):
            different[name] = rows[:1]
        answering += bool(rows)

    assert different == {}
    assert answering > len(NAMES) // 2  # this toy has no heads and no matches
