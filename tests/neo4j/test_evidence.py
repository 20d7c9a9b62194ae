"""What was seen on a text travels to a server with its build, and out of it again."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import atlas
import queries
from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from atlas.stores import adjacency
from atlas.stores.neo4j import Neo4jStore, fetched
from ingest.evidence.observe import Options, observe
from queries.neighbours import BY
from tests.unit.ingest.evidence.observed import ids_file, subject

pytestmark = pytest.mark.neo4j

EDGES = """
MATCH (a:Feature)-[e:FEEDS]->(b:Feature)
RETURN a.key AS source, b.key AS target, e.n_both AS n_both, e.kept_by AS kept_by, e.weight AS weight, e.twera AS twera
"""


def test_an_observation_replaces_the_set_with_its_evidence_and_the_edges_it_keeps(store: Neo4jStore, tmp_path: Path):
    tiny = subject(
        tmp_path / "home", "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW
    )
    store.add(tiny.build)
    before = store.run(EDGES)
    bare = store.adjacency(tiny.build.set_key)

    seen = observe(tiny, ids_file(tmp_path), Options(examples=3, strongest=3), name="one")
    store.add(tiny.build)
    after = store.run(EDGES)

    both = observed(tiny.build)
    keys = tiny.build.keys("Feature").to_pylist()
    names = ["n_both", "kept_by", "weight", "twera"]
    expected = {
        (keys[edge["source"]], keys[edge["target"]], *(edge[name] for name in names))
        for table in both.edges("FEEDS")
        for edge in table.to_pylist()
    }
    found = after.astype(object).where(after.notna(), None)
    assert before["n_both"].isna().all()
    assert set(found.itertuples(index=False, name=None)) == expected
    assert len(after) == len(before) + len(seen.extra())
    assert (store.doctor()["state"] == "right").all()
    found = store.adjacency(tiny.build.set_key)
    assert len(found.source) == len(after) > len(bare.source)
    assert bare.evidence == {}
    kept = pa.concat_tables(both.edges("FEEDS"))
    for name, column in adjacency.EVIDENCE.items():
        np.testing.assert_array_equal(found.evidence[name], kept[column].to_numpy(), err_msg=name)


def test_the_adjacency_is_the_same_from_the_build_and_from_the_server(
    store: Neo4jStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tests.neo4j import graphs

    toy = graphs.stage(tmp_path / "home")
    store.add(toy.build)
    from_build = store.adjacency(toy.set_key)

    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(fetched, "_TARGETS", 3)
    from_server = store.adjacency(toy.set_key)

    for name in ("offsets", "source", "weight", "z", "share"):
        assert getattr(from_server, name).tolist() == getattr(from_build, name).tolist(), name
    assert (from_server.run, from_server.layers) == (toy.run, list(toy.layers))
    assert from_server.features_per_layer == list(toy.sizes)

    # asked again, it comes from this machine
    asked: list[str] = []
    run = store.run
    monkeypatch.setattr(store, "run", lambda query, **given: asked.append(query) or run(query, **given))
    store.adjacency(toy.set_key)
    assert len(asked) == 1


NAMED = {
    "strongest_edges": {"set": "tiny/tc-test", "source_layer": 0, "target_layer": 2},
    "neighbourhood": {"key": "tiny/1-tc-test/7"},
    "two_step_paths": {"source": "SOURCE", "target": "TARGET"},
    "shared_tokens": {"a": "A", "b": "B"},
    "hubs": {"set": "tiny/tc-test"},
}


def test_questions_by_evidence_have_the_rows_of_the_embedded_store(store: Neo4jStore, tmp_path: Path):
    tiny = subject(
        tmp_path / "home", "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW
    )
    observe(tiny, ids_file(tmp_path), Options(examples=3, strongest=3), name="one")
    store.add(tiny.build)
    atlas.load(tiny.build, tmp_path / "atlas")

    with atlas.open(tmp_path / "atlas") as embedded:
        way = embedded.run(WAYS).iloc[0]
        both = embedded.run(PAIRS).iloc[0]
        names = {"SOURCE": way["source"], "TARGET": way["target"], "A": both["a"], "B": both["b"]}
        for name, live, by in product(NAMED, (0, 1), BY):
            given = {key: names.get(value, value) for key, value in NAMED[name].items()}
            asked = {**given, "by": by, "live": live, "limit": 1000}
            here, there = (queries.query(graph, name, **asked) for graph in (embedded, store))
            pd.testing.assert_frame_equal(here, there, rtol=1e-5)
            assert here.attrs == there.attrs
            assert len(here)
        key = str(way["target"])
        for by, live in product(BY, (False, True)):
            for ask in (
                partial(queries.hubs, of=by, live=live),
                partial(queries.similar, key=key, of=by, live=live, k=4),
                partial(queries.inputs, keys=key, of="features", by=by, live=live),
            ):
                here, there = ask(embedded), ask(store)
                pd.testing.assert_frame_equal(here, there, rtol=1e-5)
                assert (here.attrs["complete"], here.attrs.get("observation")) == (
                    there.attrs["complete"],
                    there.attrs.get("observation"),
                )
            matrices = [queries.matrix(graph, "tiny/tc-test", 0, 2, of=by, live=live) for graph in (embedded, store)]
            assert (matrices[0] != matrices[1]).nnz == 0


WAYS = """
MATCH (a:Feature)-[x:FEEDS]->(n:Feature)-[y:FEEDS]->(b:Feature) WHERE x.n_both > 0 AND y.n_both > 0
RETURN a.key AS source, b.key AS target, count(n) AS ways ORDER BY ways DESC, source, target LIMIT 1
"""
PAIRS = """
MATCH (a:Feature)<-[x:ACTIVATES]-(t:Token)-[y:ACTIVATES]->(b:Feature)
WHERE a.key < b.key AND x.n_both > 0 AND y.n_both > 0
RETURN a.key AS a, b.key AS b, count(t) AS tokens ORDER BY tokens DESC, a, b LIMIT 1
"""
