"""Whatever ends a writer, and however the disk fails it, the atlas that was there is there."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from atlas import stores
from atlas.errors import BadBuild, NoAtlas, NoSpace, StoreError, StoreLocked, StoreVersion
from atlas.stores import Store
from atlas.stores.embedded import index
from atlas.stores.embedded.folder import Folder
from tests import toy
from tests.unit.atlas.embedded import writing

SMALL = {"sizes": (4, 3, 5), "n_tokens": 7}


def keys(store: Store) -> set[str]:
    return set(store.run("MATCH (f:Feature) RETURN f.key AS key")["key"])


def sound(store: Store) -> bool:
    return set(store.doctor()["state"]) == {"right"}


@pytest.fixture
def old(tmp_path: Path) -> toy.Toy:
    return toy.write(tmp_path / "old", model="old", **SMALL)


@pytest.fixture
def new(tmp_path: Path) -> toy.Toy:
    return toy.write(tmp_path / "new", model="new", vocabulary="new-words", seed=1, **SMALL)


@pytest.fixture
def folder(old: toy.Toy, tmp_path: Path) -> Path:
    with stores.open_store(tmp_path / "atlas", read_only=False) as store:
        store.add(old.build)
    return tmp_path / "atlas"


@pytest.mark.parametrize("point", [point for point in writing.POINTS if point != "right after the last step"])
def test_a_writer_killed_on_the_way_leaves_the_old_atlas(point: str, folder: Path, old: toy.Toy, new: toy.Toy):
    assert writing.add(folder, new.path, point) == (-signal.SIGKILL, "")

    with stores.open_store(folder) as store:
        assert keys(store) == set(old.keys("Feature"))
    with stores.open_store(folder, read_only=False) as store:
        assert sound(store)  # what was left over is swept
        store.add(new.build)
        assert keys(store) == {*old.keys("Feature"), *new.keys("Feature")}


def test_a_writer_killed_after_the_last_step_leaves_the_new_atlas(folder: Path, old: toy.Toy, new: toy.Toy):
    assert writing.add(folder, new.path, "right after the last step") == (-signal.SIGKILL, "")

    with stores.open_store(folder, read_only=False) as store:
        assert keys(store) == {*old.keys("Feature"), *new.keys("Feature")}
        assert sound(store)


@pytest.mark.parametrize("largest_file", [20_000, 150_000])
def test_a_disk_that_fills_up_is_said_and_leaves_the_old_atlas(
    largest_file: int, folder: Path, old: toy.Toy, new: toy.Toy
):
    before = sorted(path.name for path in (folder / "generations").iterdir())

    _, said = writing.add(folder, new.path, largest_file=largest_file)

    assert said.startswith("NoSpace: ")
    assert "nothing was changed" in said
    assert sorted(path.name for path in (folder / "generations").iterdir()) == before
    with stores.open_store(folder) as store:
        assert keys(store) == set(old.keys("Feature"))


def test_too_small_a_disk_is_said_before_anything_is_written(
    folder: Path, new: toy.Toy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())

    with stores.open_store(folder, read_only=False) as store, pytest.raises(NoSpace, match="needs about"):
        store.add(new.build)


def test_a_full_disk_in_the_text_index_is_no_defect_of_ours(
    folder: Path, new: toy.Toy, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(index, "write", full)

    with stores.open_store(folder, read_only=False) as store, pytest.raises(NoSpace):
        store.add(new.build)


def test_a_broken_build_changes_nothing(folder: Path, old: toy.Toy, new: toy.Toy):
    (new.path / "edges" / "FEEDS" / "001.parquet").write_bytes(
        (new.path / "edges" / "FEEDS" / "001.parquet").read_bytes()[:-4] + b"gone"
    )

    with stores.open_store(folder, read_only=False) as store:
        with pytest.raises(BadBuild):
            store.add(new.build)

        assert keys(store) == set(old.keys("Feature"))
        assert sound(store)


def test_another_vocabulary_by_the_same_name_is_refused(folder: Path, old: toy.Toy, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(toy, "WORDS", tuple(reversed(toy.WORDS)))
    other = toy.write(tmp_path / "other", model="other", **SMALL)

    with (
        stores.open_store(folder, read_only=False) as store,
        pytest.raises(BadBuild, match="another vocabulary under the name toy-words"),
    ):
        store.add(other.build)


def test_a_second_writer_is_refused_and_readers_are_not(folder: Path, old: toy.Toy):
    with stores.open_store(folder, read_only=False):
        with pytest.raises(StoreLocked, match=r"process .* is writing"):
            stores.open_store(folder, read_only=False)
        with stores.open_store(folder) as reader:
            assert keys(reader) == set(old.keys("Feature"))

    stores.open_store(folder, read_only=False).close()


def test_a_reader_keeps_what_it_opened_whatever_is_written(folder: Path, old: toy.Toy, new: toy.Toy):
    with stores.open_store(folder) as reader:
        with stores.open_store(folder, read_only=False) as writer:
            writer.add(new.build)
            writer.remove("old")

        assert keys(reader) == set(old.keys("Feature"))
        assert len(reader.fulltext("rabbit", limit=100)) > 0
        assert reader.adjacency(old.set_key).run == old.run
        assert len(reader.ask("MATCH (f:Feature) RETURN f.key AS key", {}, timeout=60, max_rows=100)[0]) == 12

    with stores.open_store(folder, read_only=False) as writer:
        assert [path.name for path in (folder / "generations").iterdir()] == [str(writer._state["generation"])]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(NoAtlas, match="holds other files"):
        stores.open_store(tmp_path, read_only=False)
    with pytest.raises(NoAtlas, match="atlas ingest"):
        stores.open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_writer_that_wrote_nothing_leaves_nothing(tmp_path: Path):
    stores.open_store(tmp_path / "new", read_only=False).close()

    assert not (tmp_path / "new").exists()


def pretend_other_engine(folder: Path) -> None:
    version = json.loads((folder / "VERSION").read_text())
    (folder / "VERSION").write_text(json.dumps(version | {"engine": "0.11.0"}))
    (folder / "current" / "atlas.lbug").write_bytes(b"what another engine wrote")


def test_an_atlas_of_another_engine_is_rebuilt_from_its_builds(folder: Path, old: toy.Toy):
    pretend_other_engine(folder)

    with pytest.raises(StoreVersion, match=r"0\.11\.0.*doctor --mend"):
        stores.open_store(folder)
    with stores.open_store(folder, read_only=False) as store:
        assert keys(store) == set(old.keys("Feature"))
        assert sound(store)


def test_without_its_builds_an_atlas_of_another_engine_stays_as_it_is(folder: Path, old: toy.Toy):
    pretend_other_engine(folder)
    old.path.rename(old.path.with_name("pruned"))

    with pytest.raises(StoreVersion, match="cannot be rebuilt"):
        stores.open_store(folder, read_only=False)

    assert (folder / "current" / "atlas.lbug").read_bytes() == b"what another engine wrote"
    old.path.with_name("pruned").rename(old.path)
    with stores.open_store(folder, read_only=False) as store:
        assert keys(store) == set(old.keys("Feature"))


def test_a_set_whose_build_was_pruned_survives_the_others_removal(folder: Path, old: toy.Toy, new: toy.Toy):
    with stores.open_store(folder, read_only=False) as store:
        store.add(new.build)
        old.path.rename(old.path.with_name("pruned"))

        store.remove("new")

        found = store.run(
            "MATCH (a:Feature)-[e:FEEDS]->(b:Feature) "
            "RETURN a.key AS a, b.key AS b, e.weight AS w, e.z AS z, e.share AS s"
        )
        assert set(found.itertuples(index=False, name=None)) == set(old.edges["FEEDS"])
        assert sound(store)
        said = store.doctor().set_index("check").loc["staged build"]
        assert (said["found"], said["state"]) == ("gone", "right")


def test_a_harmed_atlas_is_mended_from_its_builds(folder: Path, old: toy.Toy):
    (folder / "current" / "search.sqlite").unlink()
    (folder / "current" / "adjacency" / "old@tc-40" / "weight.npy").write_bytes(b"nothing")
    (folder / "generations" / "99").mkdir()

    with stores.open_store(folder) as reader:
        wrong = reader.doctor()
        wrong = set(wrong["check"][wrong["state"] == "wrong"])
        with pytest.raises(StoreError, match="doctor --mend"):
            reader.fulltext("rabbit", limit=3)
    with stores.open_store(folder, read_only=False) as store:
        mended = store.doctor(mend=True)

        assert wrong == {"full text", "full text of tokens", "adjacency", "left-over generations"}
        assert {"full text", "full text of tokens", "adjacency"} == set(mended["check"][mended["state"] == "mended"])
        assert sound(store)


def test_a_folder_may_be_copied_elsewhere(folder: Path, old: toy.Toy, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "it's [a] copy")

    with stores.open_store(tmp_path / "it's [a] copy", read_only=False) as store:
        store.remove("old")
    with stores.open_store(folder) as store:
        assert keys(store) == set(old.keys("Feature"))


def test_opening_waits_for_a_swap_in_progress(folder: Path, old: toy.Toy, monkeypatch: pytest.MonkeyPatch):
    now, gone = Folder(folder).state(), Folder(folder).state() | {"generation": 12345}
    says = [gone, gone, now]
    monkeypatch.setattr(Folder, "state", lambda self: says.pop(0) if len(says) > 1 else says[0])

    with stores.open_store(folder) as store:
        assert keys(store) == set(old.keys("Feature"))
