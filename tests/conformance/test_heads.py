"""What goes through heads is in every store as it went in, is counted by the doctor, and leaves with its set."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from atlas import schema
from atlas.staging import open_build
from atlas.stores import Store
from atlas.through import VIA
from tests import toy_heads
from tests.conformance.conftest import Place
from tests.conformance.test_store import BYSTANDER, edges, truth
from tests.toy import Toy

Stage = Callable[..., Toy]


def found(store: Store, kind: str) -> set[tuple]:
    edge = schema.EDGE[kind]
    place = "e.layer AS layer, e.head AS head" if kind != "PREDICTS" else "-1 AS layer, -1 AS head"
    rows = store.run(
        f"MATCH (a:{edge.source})-[e:{kind}]->(b:{edge.target}) RETURN a.key AS source, b.key AS target, "
        f"e.weight AS weight, e.z AS z, e.share AS share, {place}"
    )
    return {_rounded(row) for row in rows.itertuples(index=False)}


def _rounded(row: tuple) -> tuple:
    source, target, weight, z, share, *place = row
    return (source, target, *(float(f"{number:.4g}") for number in (weight, z, share)), *map(int, place))


@pytest.fixture
def loaded(place: Place, stage: Stage) -> tuple[Place, toy_heads.WithHeads]:
    made = toy_heads.add(stage())
    with place.writing() as store:
        store.create()
        store.add(made.build)
    return place, made


def test_every_edge_through_a_head_comes_out_as_it_went_in(loaded):
    place, made = loaded

    with place.reading() as store:
        for kind, rows in made.edges.items():
            assert found(store, kind) == {_rounded(row) for row in rows}, kind
        assert edges(store, "FEEDS", "toy") == truth(made.toy, "FEEDS")
        heads = store.run("MATCH (h:Head) RETURN h.key AS key, h.norm_ov AS norm ORDER BY h.layer, h.head")
        assert heads["key"].tolist() == made.heads
        row = made.toy.keys("Feature")[20]
        named = store.run("MATCH (f:Feature {key: $key}) RETURN f.heads AS heads, f.head_norms AS norms", key=row)
        assert list(named["heads"][0]) == made.features[20][0]
        assert [round(float(norm), 1) for norm in named["norms"][0]] == made.features[20][1]


def evidence(store: Store, kind: str) -> dict[tuple, tuple]:
    edge = schema.EDGE[kind]
    columns = ", ".join(f"e.{p.name} AS {p.name}" for p in edge.evidence)
    rows = store.rows(
        f"MATCH (a:{edge.source})-[e:{kind}]->(b:{edge.target}) RETURN a.key AS source, b.key AS target, "
        f"e.layer AS layer, e.head AS head, {columns}"
    )
    at = ("source", "target", "layer", "head")
    return {tuple(row[name] for name in at): tuple(row[p.name] for p in edge.evidence) for row in rows}


def test_what_was_observed_of_edges_through_heads_is_on_them_and_nothing_where_nothing_was(loaded):
    place, made = loaded
    with place.writing() as store:
        assert all(set(row) == {None} for kind in VIA for row in evidence(store, kind).values())

        said = toy_heads.see(made)
        store.add(made.build)

        for kind in VIA:
            assert len(said[kind]) == len(made.edges[kind])
            assert evidence(store, kind) == said[kind], kind
        assert json.loads(store.run("MATCH (s:TranscoderSet) RETURN s.observation AS seen")["seen"][0])["heads"]
        assert found(store, "FEEDS_VIA") == {_rounded(row) for row in made.edges["FEEDS_VIA"]}
        assert store.doctor().query("state == 'wrong'").to_dict("records") == []


def test_an_observation_made_without_heads_says_nothing_of_them(loaded):
    place, made = loaded
    said = toy_heads.see(made, heads=False)
    with place.writing() as store:
        store.add(made.build)

        assert all(evidence(store, kind) == said[kind] for kind in VIA)
        assert "heads" not in json.loads(store.run("MATCH (s:TranscoderSet) RETURN s.observation AS seen")["seen"][0])


def test_a_sound_atlas_with_heads_has_nothing_to_mend_and_a_lost_edge_is_found(loaded):
    place, _ = loaded

    with place.writing() as store:
        assert set(store.doctor()["state"]) == {"right"}


def test_edges_through_heads_leave_with_their_set_and_touch_no_other(loaded, stage: Stage):
    place, made = loaded
    bystander = toy_heads.add(stage(**BYSTANDER), seed=9)
    with place.writing() as store:
        store.add(bystander.build)
        store.remove("toy")

        for kind in made.edges:
            assert found(store, kind) == {_rounded(row) for row in bystander.edges[kind]}, kind
        assert sorted(store.run("MATCH (h:Head) RETURN h.key AS key")["key"]) == sorted(bystander.heads)
        assert set(store.doctor()["state"]) == {"right"}


def test_a_build_without_heads_in_place_of_one_with_them_takes_them_away(loaded, stage: Stage):
    place, made = loaded
    plain = stage(seed=3)
    with place.writing() as store:
        store.add(plain.build)

        assert all(found(store, kind) == set() for kind in made.edges)
        assert edges(store, "FEEDS", "toy") == truth(plain, "FEEDS")


def test_edges_that_break_the_specification_are_refused(stage: Stage):
    from atlas.errors import BadBuild

    made = toy_heads.add(stage())
    name = next(name for name in made.build.manifest["files"] if name.startswith("stats/FEEDS_VIA"))
    (made.toy.path / name).write_bytes(b"not a table")
    build = open_build_anyway(made)

    with pytest.raises(BadBuild, match="cannot be read"):
        list(build.edges("FEEDS_VIA"))


def open_build_anyway(made: toy_heads.WithHeads):
    import json

    path = made.toy.path / "manifest.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        entry["bytes"] = (made.toy.path / name).stat().st_size
    path.write_text(json.dumps(manifest))
    return open_build(made.toy.path)
