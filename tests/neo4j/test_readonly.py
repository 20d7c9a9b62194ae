"""Somebody else's Cypher reads the graph and does nothing else, whatever a read transaction would let through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.errors import BadQuery, QueryTimeout, WriteRefused
from atlas.server.home import SETTINGS
from atlas.stores.neo4j import Neo4jStore
from tests.neo4j import graphs
from tests.neo4j.servers import Place
from tests.toy import Toy

pytestmark = pytest.mark.neo4j


Filled = tuple[Neo4jStore, Place, Toy]


@pytest.fixture(scope="module")
def filled(server: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """One atlas for all that follows: whatever is asked, it stays as it is."""
    small = graphs.stage(tmp_path_factory.mktemp("readonly"))
    server.wipe()
    with Neo4jStore(server.address, user=server.user, password=server.password, read_only=False) as store:
        store.create()
        store.add(small.build)
        yield store, server, small
    server.wipe()


@pytest.fixture
def store(filled: Filled) -> Neo4jStore:
    return filled[0]


def ask(store: Neo4jStore, query: str, *, timeout: float = 20, max_rows: int = 100, **parameters: object):
    return store.ask(query, parameters, timeout=timeout, max_rows=max_rows)


@pytest.mark.parametrize(
    "query",
    [
        "CREATE (:Feature {key: 'x'})",
        "MATCH (f:Feature) SET f.label = 'mine'",
        "MATCH (f:Feature) DETACH DELETE f",
        "MERGE (m:Model {key: 'x'}) RETURN m",
        "MATCH (f:Feature) CALL (f) { SET f.label = 'mine' } IN TRANSACTIONS RETURN count(f)",
        "CREATE INDEX mine IF NOT EXISTS FOR (f:Feature) ON (f.bias)",
        "DROP INDEX feature_model_layer_idx",
        "CREATE USER eve SET PASSWORD 'secret123'",
        "ALTER CURRENT USER SET PASSWORD FROM 'a' TO 'b'",
        "CALL db.createLabel('Mine')",
        "LOAD CSV FROM 'file:///etc/passwd' AS row RETURN row",
        "LOAD CSV FROM 'http://127.0.0.1:1/' AS row RETURN row",
        "MATCH (f:Feature) WITH f LIMIT 1 LOAD CSV FROM 'file:///x' AS row RETURN row UNION RETURN 1 AS row",
        "TERMINATE TRANSACTION 'neo4j-transaction-1'",
        "SHOW TRANSACTIONS YIELD transactionId AS id TERMINATE TRANSACTIONS id YIELD message RETURN message",
        "SHOW TRANSACTIONS",
        "SHOW SETTINGS",
        "SHOW USERS",
        "SHOW DATABASES",
        "CALL dbms.killConnection('bolt-1')",
        "CALL dbms.listConfig()",
        "CALL dbms.queryJmx('*:*')",
        "CALL db.clearQueryCaches()",
        "CALL tx.setMetaData({user: 'somebody else'})",
        "CALL db.prepareForReplanning(1)",
    ],
)
def test_it_is_refused_and_nothing_has_changed(query: str, filled: Filled):
    store, place, small = filled

    with pytest.raises(WriteRefused, match=r"only reading|which is not one of"):
        ask(store, query)

    assert graphs.on(place) == graphs.of(small)


def test_several_statements_are_refused(store: Neo4jStore):
    with pytest.raises(BadQuery, match="exactly one statement"):
        ask(store, "RETURN 1 AS one; MATCH (n) DETACH DELETE n")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("MATCH (f:Feature) RETURN f.key", 40),
        ("/* LOAD CSV */ MATCH (t:Token) WHERE t.text <> 'CREATE (n)' RETURN t.key;", 17),
        ("CALL { MATCH (f:Feature) RETURN f LIMIT 3 } RETURN f.key", 3),
        ("CALL db.labels() YIELD label WITH label WHERE label = 'Feature' RETURN label", 1),
        ("EXPLAIN MATCH (f:Feature) RETURN f.key", 0),
    ],
)
def test_reading_is_answered(query: str, count: int, store: Neo4jStore):
    frame, whole = ask(store, query)

    assert (len(frame), whole) == (count, True)


def test_an_answer_that_is_cut_says_so(store: Neo4jStore):
    query = "MATCH (f:Feature) RETURN f.key AS key ORDER BY key"

    (cut, whole), (all_of_it, really_whole) = ask(store, query, max_rows=39), ask(store, query, max_rows=40)

    assert (whole, really_whole) == (False, True)
    assert cut["key"].tolist() == all_of_it["key"].tolist()[:39]


def test_an_endless_answer_is_not_fetched_to_its_end(store: Neo4jStore):
    frame, whole = ask(store, "UNWIND range(1, 1000000000) AS n RETURN n", max_rows=5)

    assert (frame["n"].tolist(), whole) == ([1, 2, 3, 4, 5], False)


def test_a_query_runs_no_longer_than_it_may(store: Neo4jStore):
    with pytest.raises(QueryTimeout, match="raise --timeout"):
        ask(store, "UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b RETURN sum(a * b)", timeout=0.5)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("MATCH (f:Feature) WHERE\nRETURN f", r"line 2, column 8"),
        ("RETURN $mine", r"asks for \$mine, which was not given; on the command line: -p mine=VALUE"),
        ("RETURN nothing", "not defined"),
        ("CALL no.such()", "no procedure"),
    ],
)
def test_what_is_malformed_is_shown_where_it_is(query: str, said: str, store: Neo4jStore):
    with pytest.raises(BadQuery, match=said):
        ask(store, query)


def test_the_server_itself_reads_no_file_and_no_address(server: Place, tmp_path: Path):
    """The second wall, for whoever talks to the server without us."""
    if server.server is None:
        pytest.skip("another's server has its own settings; unset NEO4J_TEST_URI to run this")
    (tmp_path / "secret.csv").write_text("secret")

    for source in (f"file://{tmp_path}/secret.csv", "http://127.0.0.1:1/x.csv"):
        with pytest.raises(Exception, match=r"(?i)not permitted|disabled|not allowed|blocked|cannot load"):
            server.query(f"LOAD CSV FROM '{source}' AS row RETURN row")
    assert "dbms.security.allow_csv_import_from_file_urls" in SETTINGS
