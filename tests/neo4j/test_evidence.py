"""What was seen on a text travels to a server with its build, and out of it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from atlas.stores import adjacency
from atlas.stores.neo4j import Neo4jStore, fetched
from ingest.evidence.observe import Options, observe
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
