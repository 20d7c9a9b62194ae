"""What comes back from the engine: typed columns, and errors that say what to do."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ladybug
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from atlas.errors import BadQuery, QueryTimeout, StoreError, StoreVersion, WriteRefused
from atlas.stores import Store
from atlas.stores.embedded.engine import Engine
from tests.toy import Toy

TEXT = pd.StringDtype(na_value=np.nan)


@pytest.mark.parametrize(
    ("query", "dtype"),
    [
        ("MATCH (f:Feature) RETURN f.key AS x", TEXT),
        ("MATCH (f:Feature) WHERE f.layer = 99 RETURN f.key AS x", TEXT),
        ("OPTIONAL MATCH (f:Feature {key: 'none'}) RETURN f.key AS x", TEXT),
        ("MATCH (f:Feature) RETURN f.idx AS x", np.dtype("int64")),
        ("MATCH (f:Feature) RETURN sum(f.idx) AS x", np.dtype("int64")),
        ("MATCH (f:Feature) RETURN f.n_fires AS x", pd.Int64Dtype()),
        ("MATCH (f:Feature) RETURN f.bias AS x", np.dtype("float32")),
        ("MATCH (f:Feature) RETURN avg(f.bias) AS x", np.dtype("float64")),
        ("MATCH (f:Feature) RETURN f.idx = 1 AS x", np.dtype("bool")),
        ("MATCH (f:Feature) RETURN f.live AS x", pd.BooleanDtype()),
        ("MATCH (f:Feature) RETURN f.cuts_in_by_layer AS x", pd.ArrowDtype(pa.list_(pa.field("l", pa.float32())))),
        ("MATCH (f:Feature) RETURN collect(f.key) AS x", pd.ArrowDtype(pa.list_(pa.field("l", pa.string())))),
        ("RETURN $n AS x", np.dtype("int64")),
    ],
)
def test_every_column_has_a_type(query: str, dtype: object, graph: Store):
    frame = graph.run(query, **({"n": 3} if "$n" in query else {}))

    assert frame["x"].dtype == dtype


def test_nodes_and_relationships_are_their_properties(graph: Store, small: Toy):
    source, target, weight, z, share = small.edges["FEEDS"][0]

    found = graph.run("MATCH (:Feature {key: $a})-[e:FEEDS]->(b:Feature {key: $b}) RETURN e, b", a=source, b=target)

    edge, node = found["e"][0], found["b"][0]
    assert edge == {"_label": "FEEDS", "weight": weight, "z": z, "share": share}
    expected = next(row for row in small.nodes["Feature"] if row["key"] == target)
    assert {name: node[name] for name in expected} == expected
    assert node["_label"] == "Feature"


def test_numbers_of_numpy_are_parameters_like_any_other(graph: Store):
    found = graph.run(
        "MATCH (f:Feature) WHERE f.layer = $l AND f.bias > $b RETURN f.key", l=np.int64(2), b=np.float32(0)
    )

    assert len(found) == 13


@pytest.mark.parametrize(
    ("query", "parameters", "error", "says"),
    [
        ("MATCH (f:Feature RETURN f", {}, BadQuery, "Parser exception"),
        ("MATCH (f:Feature) RETURN f.nothing", {}, BadQuery, "nothing"),
        ("MATCH (f:Nothing) RETURN f", {}, BadQuery, "Nothing"),
        ("RETURN $x", {}, BadQuery, r"\$x, which was not given"),
        ("RETURN 1 AS a, 2 AS a", {}, BadQuery, "two columns"),
        ("RETURN 1 / 0", {}, BadQuery, "zero"),
        ("RETURN $x AS x", {"x": 2**70}, BadQuery, "64 bits"),
        ("RETURN $x AS x", {"x": "\ud800"}, BadQuery, "no text"),
        ("RETURN $x AS x", {"x": object()}, BadQuery, "object"),
        ("CREATE (:Run {key: 'x'})", {}, WriteRefused, "reading"),
        ("MATCH (f:Feature) DETACH DELETE f", {}, WriteRefused, "reading"),
    ],
)
def test_an_error_of_the_engine_is_one_line_that_says_what_is_wrong(
    query: str, parameters: dict[str, object], error: type[Exception], says: str, graph: Store
):
    with pytest.raises(error, match=says) as raised:
        graph.run(query, **parameters)

    assert "\n" not in str(raised.value)


def test_a_query_past_its_time_is_an_error_and_the_next_is_answered(graph: Store):
    engine = Engine(Path(graph.address) / "current" / "atlas.lbug", read_only=True, timeout=0.2)
    try:
        with pytest.raises(QueryTimeout, match=r"0\.2 s"):
            engine.table("UNWIND range(1, 20000) AS x UNWIND range(1, 100000) AS y RETURN sum(x * y) AS n")

        assert engine.values("RETURN 1 AS n") == [(1,)]
    finally:
        engine.close()


def test_threads_may_share_a_store(graph: Store, small: Toy):
    keys = small.keys("Feature")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: graph.run("MATCH (f:Feature {key: $k}) RETURN f.key AS k", k=key), keys * 5))

    assert [frame["k"][0] for frame in found] == keys * 5


def test_many_stores_may_be_open_in_one_process(graph: Store):
    path = Path(graph.address) / "current" / "atlas.lbug"
    engines = [Engine(path, read_only=True, timeout=10) for _ in range(40)]

    counts = {engine.values("MATCH (f:Feature) RETURN count(*)")[0] for engine in engines}

    for engine in engines:
        engine.close()
    assert counts == {(40,)}


def test_only_the_tested_version_of_the_engine_is_used(graph: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ladybug, "__version__", "0.22.0")

    with pytest.raises(StoreVersion, match=r"pip install ladybug==0\.20\.4"):
        Engine(Path(graph.address) / "current" / "atlas.lbug", read_only=True, timeout=1)


def test_a_file_that_is_no_graph_is_one_line(tmp_path: Path):
    (tmp_path / "atlas.lbug").write_bytes(os.urandom(8192))

    with pytest.raises(StoreError, match=r"atlas\.lbug cannot be opened") as raised:
        Engine(tmp_path / "atlas.lbug", read_only=True, timeout=1)
    assert "\n" not in str(raised.value)
