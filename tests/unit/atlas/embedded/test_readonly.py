"""Somebody else's Cypher reads the graph and does nothing else, whatever it is dressed up as."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from atlas.errors import BadQuery, QueryTimeout, WriteRefused
from atlas.stores import Store
from atlas.stores.embedded import readonly
from atlas.stores.embedded.asking import Asker
from tests.toy import Toy

OUTSIDE = [
    "LOAD FROM 'FILE' RETURN *",
    "load from 'FILE' RETURN *",
    "LOAD/* */FROM 'FILE' RETURN *",
    "LOAD // from\nFROM 'FILE' RETURN *",
    "LOAD WITH HEADERS (a INT64) FROM 'FILE' RETURN *",
    "MATCH (f:Feature) LOAD FROM 'FILE' RETURN *",
    "MATCH (f:Feature) WITH f LIMIT 5LOAD FROM 'FILE' RETURN *",
    "MATCH (f:Feature) RETURN 1 AS n UNION ALL LOAD FROM 'FILE' RETURN 1 AS n",
    "// a comment\rLOAD FROM 'FILE' RETURN *",
    "RETURN 'it\\'s' AS a UNION LOAD FROM 'FILE' RETURN 'a' AS a",
    "EXPLAIN LOAD FROM 'FILE' RETURN *",
    "PROFILE LOAD FROM 'FILE' RETURN *",
    "LOAD\u00a0FROM 'FILE' RETURN *",
    "LOAD\u3000FROM 'FILE' RETURN *",
    "LOAD\u180eFROM 'FILE' RETURN *",
    "LOAD EXTENSION '/tmp/x.so'",
    "COPY (MATCH (f:Feature) RETURN f.key) TO 'OUT.csv'",
    "COPY (MATCH (f:Feature) RETURN f.key) TO 'OUT.parquet'",
    "EXPLAIN COPY (MATCH (f:Feature) RETURN f.key) TO 'OUT.csv'",
    "COPY Feature FROM 'FILE'",
    "EXPORT DATABASE 'OUT'",
    "IMPORT DATABASE 'OUT'",
    "ATTACH 'OUT' AS x (dbtype lbug)",
    "DETACH x",
    "USE x",
    "INSTALL httpfs",
    "UNINSTALL httpfs",
    "FORCE CHECKPOINT",
    "CHECKPOINT",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "CALL threads=1",
    "CALL timeout=1000000",
    "CALL enable_cached_prepared_statement='BOTH'",
    "CALL read_csv_serial('FILE') RETURN *",
    "CALL `read_csv_serial`('FILE') RETURN *",
    "MATCH (f:Feature) CALL read_parquet('FILE') RETURN *",
    "CALL bm_info() RETURN *",
    "CALL project_graph('g', ['Feature'], ['FEEDS'])",
    "CALL { MATCH (f:Feature) RETURN f } RETURN 1",
    "CREATE MACRO m(a) AS a + 1",
    "CREATE NODE TABLE x(key STRING PRIMARY KEY)",
    "DROP TABLE Feature",
    "ALTER TABLE Feature ADD x INT64",
    "COMMENT ON TABLE Feature IS 'x'",
    "RETURN 1; RETURN 2",
    "RETURN 1; DROP TABLE Feature",
    "RETURN 'open",
]

HARMLESS = {
    "RETURN 'LOAD FROM x; DROP TABLE y' AS x": "LOAD FROM x; DROP TABLE y",
    'RETURN "it\'s; COPY (x) TO y" AS x': "it's; COPY (x) TO y",
    "RETURN 'a \\' LOAD FROM b' AS x": "a ' LOAD FROM b",
    "RETURN 7 AS x // ; DROP TABLE Feature": 7,
    "RETURN /* LOAD FROM 'x' */ 7 AS x": 7,
    "RETURN 7 AS x;": 7,
    "MATCH (load:Feature) WHERE load.idx = 0 AND load.layer = 0 RETURN load.idx AS x": 0,
    "MATCH (f:Feature) WHERE f.set = 'toy/tc-40' RETURN count(*) AS x": 40,
    "WITH 3 AS call RETURN call AS x": 3,
}


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_reaches_outside_is_refused_and_leaves_no_file(
    text: str, graph: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.csv").write_text("a\nsecret\n")
    text = text.replace("FILE", str(tmp_path / "secret.csv")).replace("OUT", str(tmp_path / "out"))

    with pytest.raises((WriteRefused, BadQuery)) as refused:
        graph.ask(text, {}, timeout=10, max_rows=10)

    assert "secret\n" not in str(refused.value)
    assert os.listdir(tmp_path) == ["secret.csv"]


@pytest.mark.parametrize(("text", "expected"), HARMLESS.items())
def test_words_that_only_look_like_it_are_answered(text: str, expected: object, graph: Store):
    found, whole = graph.ask(text, {}, timeout=30, max_rows=10)

    assert (found["x"].tolist(), whole) == ([expected], True)


@pytest.mark.parametrize(
    "text",
    [
        "LOAD FROM 'FILE' (file_format = 'csv') RETURN *",
        "COPY (MATCH (f:Feature) RETURN f.key) TO 'OUT.csv'",
        "EXPORT DATABASE 'OUT'",
        "MATCH (f:Feature) SET f.idx = 1",
    ],
)
def test_the_process_that_answers_could_not_even_if_it_were_let(text: str, small: Toy, graph: Store, tmp_path: Path):
    (tmp_path / "secret.csv").write_text("a\nsecret\n")
    text = text.replace("FILE", str(tmp_path / "secret.csv")).replace("OUT", str(tmp_path / "out"))
    asker = Asker(Path(graph.address) / "current" / "atlas.lbug")

    try:
        with pytest.raises((WriteRefused, BadQuery)):
            asker.ask(text, {}, timeout=10, max_rows=10)
        rows, _, _ = asker.ask("MATCH (f:Feature) RETURN count(*) AS n", {}, timeout=10, max_rows=10)
    finally:
        asker.close()

    assert rows["n"].to_pylist() == [40]
    assert all(path.stat().st_size == 0 for path in tmp_path.rglob("out*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "raises"),
    [
        # the engine's own limit does not fire in either
        ("MATCH (a:Feature), (b:Feature), (c:Feature), (d:Feature), (e:Feature), (f:Feature) RETURN a.idx UNION "
         "MATCH (a:Feature), (b:Feature), (c:Feature), (d:Feature), (e:Feature), (f:Feature) RETURN a.idx",
         (QueryTimeout, BadQuery)),
        ("UNWIND range(1, 100000000) AS x UNWIND range(1, 1000) AS y RETURN sum(x * y) AS n", (QueryTimeout, BadQuery)),
    ],
)  # fmt: skip
def test_a_query_that_will_not_end_is_ended(text: str, raises: type[Exception], graph: Store):
    graph.ask("RETURN 1 AS x", {}, timeout=60, max_rows=1)
    start = time.monotonic()

    with pytest.raises(raises):
        graph.ask(text, {}, timeout=1, max_rows=10)

    assert time.monotonic() - start < 10
    assert graph.ask("RETURN 1 AS x", {}, timeout=60, max_rows=1)[1]


def test_a_query_that_ends_the_process_ends_only_that(graph: Store):
    asker = Asker(Path(graph.address) / "current" / "atlas.lbug")

    try:
        with pytest.raises(BadQuery, match="the engine gave up"):
            asker.ask("CALL read_csv_serial('/etc/hosts') RETURN *", {}, timeout=30, max_rows=10)
        rows, _, _ = asker.ask("RETURN 7 AS x", {}, timeout=30, max_rows=10)
    finally:
        asker.close()

    assert rows["x"].to_pylist() == [7]


def test_parameters_that_the_query_lacks_are_named_and_others_are_ignored(graph: Store):
    with pytest.raises(BadQuery, match=r"\$a, \$b, which"):
        graph.ask("RETURN $b + $a + $c AS x", {"c": 1}, timeout=30, max_rows=1)

    found, _ = graph.ask("RETURN $word AS x", {"word": "a\0b\\'\"", "other": 1}, timeout=30, max_rows=1)
    assert found["x"].tolist() == ["a\0b\\'\""]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("MATCH (f:Feature) RETURN f.key", "MATCH (f:Feature) RETURN f.key\nLIMIT 5"),
        ("MATCH (f:Feature) RETURN f.key // all", "MATCH (f:Feature) RETURN f.key // all\nLIMIT 5"),
        ("RETURN 1 AS a;", "RETURN 1 AS a\nLIMIT 5"),
        ("MATCH (f:Feature) WITH f LIMIT 3 RETURN f.key", "MATCH (f:Feature) WITH f LIMIT 3 RETURN f.key\nLIMIT 5"),
        ("MATCH (f:Feature) RETURN f.key LIMIT 7", None),
        ("RETURN 1 AS a UNION RETURN 2 AS a", None),
        ("RETURN 'LIMIT' AS a", "RETURN 'LIMIT' AS a\nLIMIT 5"),
    ],
)
def test_a_limit_is_added_only_where_none_is(query: str, expected: str | None):
    assert readonly.limited(query, 5) == (expected or query)
