"""Evidence travels with the build into a store, and out of it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import atlas
from atlas import observations
from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from ingest.evidence.observe import Options, observe
from tests.unit.ingest.evidence.observed import ids_file, subject

EDGES = """
MATCH (a:Feature)-[e:FEEDS]->(b:Feature)
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.n_both AS n_both, e.twera AS twera,
  e.drive_active AS drive, e.kept_by AS kept_by
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("home")
    return subject(home, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)


def test_a_store_holds_the_default_observation_and_lets_it_go(tiny, tmp_path: Path):
    store = tmp_path / "store"
    atlas.load(tiny.build, store)
    with atlas.open(store) as graph:
        before = graph.run(EDGES)
    assert before["n_both"].isna().all()
    assert len(before) == tiny.build.rows("edges/FEEDS/")

    seen = observe(tiny, ids_file(tmp_path), Options(examples=3, strongest=3), name="one")
    atlas.load(tiny.build, store)
    with atlas.open(store) as graph:
        found = graph.run(EDGES)
        counted = graph.run("MATCH (s:TranscoderSet) RETURN s.n_edges AS n, s.observation AS observation").iloc[0]
        features = graph.run(
            "MATCH (f:Feature) RETURN f.key AS key, f.n_fires AS n, f.live AS live ORDER BY f.layer, f.idx"
        )
        adjacency = graph.adjacency(tiny.build.set_key)
        wrong = graph.doctor().query("state == 'wrong'")

    both = observed(tiny.build)
    keys = tiny.build.keys("Feature").to_pylist()
    expected = {
        (keys[edge["source"]], keys[edge["target"]], edge["n_both"], edge["kept_by"])
        for table in both.edges("FEEDS")
        for edge in table.to_pylist()
    }
    assert set(found[["source", "target", "n_both", "kept_by"]].itertuples(index=False, name=None)) == expected
    assert len(found) == len(before) + len(seen.extra()) == len(adjacency.source)
    assert len(seen.extra()) > 20
    assert found["z"].notna().all()
    assert counted["n"] == both.n_edges == tiny.build.n_edges + len(seen.extra())
    assert json.loads(counted["observation"])["text"] == "windows-0.npy"
    assert features["n"].tolist() == seen.features()["n_fires"].to_pylist()
    assert wrong.empty

    observations.remove(tiny.build, "one")
    atlas.load(tiny.build, store)
    with atlas.open(store) as graph:
        after = graph.run(EDGES)
    assert sorted(after[["source", "target", "weight"]].itertuples(index=False, name=None)) == sorted(
        before[["source", "target", "weight"]].itertuples(index=False, name=None)
    )
    assert after["n_both"].isna().all()
