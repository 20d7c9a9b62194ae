"""The staged form: what is written is read, and whatever breaks a rule of the specification is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas import builds, staging
from atlas.errors import BadBuild
from tests import toy


@pytest.fixture
def built(tmp_path: Path) -> toy.Toy:
    return toy.write(tmp_path / "builds" / "toy-tc-40-run")


@pytest.mark.parametrize("kind", staging.WEIGHTED)
def test_z_and_share_are_derived_as_the_truth_has_them(kind: str, built: toy.Toy):
    table = pa.concat_tables(built.build.edges(kind))

    truth = sorted(built.tables[kind])
    found = sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert [row[:2] for row in found] == [row[:2] for row in truth]
    np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in truth], rtol=1e-5, atol=1e-6)


def test_keys_take_the_place_of_row_numbers(built: toy.Toy):
    tables = [staging.with_keys(built.build, "FEEDS", table) for table in built.build.edges("FEEDS")]

    found = {(row["source"], row["target"]) for table in tables for row in table.to_pylist()}
    assert found == {row[:2] for row in built.edges["FEEDS"]}


def test_an_untouched_build_is_verified(built: toy.Toy):
    built.build.verify()


def test_a_file_with_other_content_of_the_same_size_is_noticed(built: toy.Toy):
    path = built.path / "nodes" / "Token.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(BadBuild, match=r"Token\.parquet"):
        staging.open_build(built.path).verify()


def _drop(path: Path) -> None:
    (path / "stats" / "FEEDS.parquet").unlink()


def _cut(path: Path) -> None:
    file = path / "nodes" / "Feature.parquet"
    file.write_bytes(file.read_bytes()[:-7])


def _other_format(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))


def _no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def _no_json(path: Path) -> None:
    (path / "manifest.json").write_text("{")


@pytest.mark.parametrize("harm", [_drop, _cut, _other_format, _no_manifest, _no_json])
def test_a_harmed_build_is_refused_in_one_line(harm, built: toy.Toy):
    harm(built.path)

    with pytest.raises(BadBuild) as refused:
        staging.open_build(built.path)
    assert "\n" not in str(refused.value)


def test_columns_other_than_the_specification_s_are_refused(built: toy.Toy):
    name = built.build.edge_files("FEEDS")[0]
    table = pq.read_table(built.path / name)
    pq.write_table(table.rename_columns(["source", "target", "z"]), built.path / name)
    manifest = json.loads((built.path / "manifest.json").read_text())
    manifest["files"][name]["bytes"] = (built.path / name).stat().st_size
    (built.path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BadBuild):
        list(staging.open_build(built.path).edges("FEEDS"))


def test_builds_are_listed_found_and_pruned(built: toy.Toy, tmp_path: Path):
    shutil.copytree(built.path, tmp_path / "builds" / "half-a-build")
    (tmp_path / "builds" / "half-a-build" / "manifest.json").unlink()

    listed = builds.table(tmp_path)
    assert dict(zip(listed["build"], listed["state"], strict=True)) == {
        "half-a-build": "unfinished",
        built.path.name: "finished",
    }
    assert builds.find("toy/tc-40", tmp_path).run == built.run
    assert builds.prune(["half-a-build"], tmp_path) > 0
    with pytest.raises(BadBuild, match="not staged"):
        builds.prune(["../elsewhere"], tmp_path)
    assert list(builds.table(tmp_path)["build"]) == [built.path.name]
