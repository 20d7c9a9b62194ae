"""The vectors of features beside an atlas: they come with their build, go with it, and belong to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlas.errors import BadBuild, BadKey
from atlas.staging import open_build
from atlas.stores import Store, open_store
from atlas.stores.neo4j import fetched
from tests import toy as toys
from tests.toy import Toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return toys.write(tmp_path / "build", vectors=True)


@pytest.fixture
def place(tmp_path: Path, toy: Toy) -> Path:
    with open_store(tmp_path / "atlas", read_only=False) as store:
        store.add(toy.build)
    return tmp_path / "atlas"


def files(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*") if path.parent.parent.name == "vectors"}


def wrong(store: Store, *, mend: bool = False) -> dict[str, str]:
    found = store.doctor(mend=mend)
    return dict(found.loc[found["state"] != "right", ["check", "state"]].itertuples(index=False))


def test_an_atlas_holds_the_vectors_of_its_builds_as_links_and_lets_them_go_with_the_set(place: Path, toy: Toy):
    toys_file = toy.path / "vectors" / "encoder.npy"
    with open_store(place, read_only=False) as store:
        found = store.vectors("toy/tc-40")
        store.add(toys.write(toy.path.with_name("other"), model="other", seed=3).build)  # another generation

        np.testing.assert_array_equal(found.encoder, np.load(toys_file))
        assert (found.number(2, 4), found.place(22)) == (22, (2, 4))
        assert (place / "current" / "vectors" / "toy@tc-40" / "encoder.npy").samefile(toys_file)
        assert files(place) == {"encoder.npy", "decoder.npy", "vectors.json"}
        with pytest.raises(BadKey, match="it holds toy/tc-40, other/tc-40"):
            store.vectors("nobody/nothing")

        store.remove("toy", "tc-40")

    assert files(place) == set()


def test_another_build_of_the_set_replaces_the_vectors_or_takes_them_away(place: Path, toy: Toy):
    with open_store(place, read_only=False) as store:
        new = toys.write(toy.path.with_name("new"), density=0.5, seed=0, vectors=True)
        store.add(new.build)
        assert store.vectors("toy/tc-40").run == new.run != toy.run

        store.add(toys.write(toy.path.with_name("bare"), density=0.3).build)

        assert files(place) == set()
        with pytest.raises(BadBuild, match="ingest --vectors"):
            store.vectors("toy/tc-40")
        assert not wrong(store)


def test_vectors_that_were_added_to_a_build_are_added_to_the_atlas_that_holds_it(tmp_path: Path):
    bare, full = toys.write(tmp_path / "bare"), toys.write(tmp_path / "full", vectors=True)
    assert bare.run == full.run
    with open_store(tmp_path / "atlas", read_only=False) as store:
        store.add(bare.build)
        before = (tmp_path / "atlas" / "VERSION").read_text()

        store.add(full.build)
        added = (tmp_path / "atlas" / "VERSION").read_text()
        store.add(full.build)
        store.add(bare.build)

        assert store.vectors("toy/tc-40").run == full.run
        assert before != added == (tmp_path / "atlas" / "VERSION").read_text()
        assert not wrong(store)


@pytest.mark.parametrize("harm", ["a file gone", "another run", "no numbers", "objects", "a row short", "float32"])
def test_damaged_vectors_are_refused_in_words_and_mended_from_the_build(harm: str, place: Path, toy: Toy):
    folder = place / "current" / "vectors" / "toy@tc-40"
    rows = np.load(folder / "encoder.npy")
    (folder / "encoder.npy").unlink()
    if harm == "another run":
        described = json.loads((folder / "vectors.json").read_text())
        (folder / "vectors.json").write_text(json.dumps(described | {"run": "0123456789ab"}))
    elif harm == "no numbers":
        (folder / "encoder.npy").write_bytes(b"")
    elif harm != "a file gone":
        changed = {"objects": rows.astype(object), "a row short": rows[1:], "float32": rows.astype(np.float32)}
        np.save(folder / "encoder.npy", changed[harm], allow_pickle=True)

    with open_store(place, read_only=False) as store:
        with pytest.raises(BadBuild, match="belongs to run 0123456789ab" if harm == "another run" else "encoder.npy"):
            store.vectors("toy/tc-40")
        assert wrong(store) == {"vectors": "wrong"}

        assert wrong(store, mend=True) == {"vectors": "mended"}
        assert len(store.vectors("toy/tc-40").encoder) == len(rows)


def test_a_build_with_one_of_two_files_or_a_file_of_another_name_is_none(toy: Toy):
    manifest = json.loads((toy.path / "manifest.json").read_text())
    entry = manifest["files"].pop("vectors/decoder.npy")
    for name in ("", "vectors/../x.npy", "vectors/third.npy"):
        more = {name: entry} if name else {}
        (toy.path / "manifest.json").write_text(json.dumps(manifest | {"files": manifest["files"] | more}))
        with pytest.raises(BadBuild, match=r"both vectors|files"):
            open_build(toy.path)


def test_a_server_has_them_from_the_build_on_this_machine(tmp_path: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    here = {"model": "toy", "run": toy.run, "observation": "", "build": toy.build.id, "edges": 1}

    def ask(query: str, set: str) -> pd.DataFrame:
        return pd.DataFrame([here] if set == "toy/tc-40" else [])

    with pytest.raises(BadBuild, match=f"from its build {toy.build.id}, which is not on this machine"):
        fetched.vectors(ask, "bolt://x", "toy/tc-40")
    (tmp_path / "home" / "builds").mkdir(parents=True)
    toy.path.rename(tmp_path / "home" / "builds" / toy.build.id)
    assert fetched.vectors(ask, "bolt://x", "toy/tc-40").decoder.shape == (40, 19)
    with pytest.raises(BadKey, match="no set of bolt://x"):
        fetched.vectors(ask, "bolt://x", "toy/none")
