"""The staged form: what is written is read, and whatever breaks a rule of the specification is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas import builds, staging
from atlas.errors import BadBuild
from atlas.staging import Build
from tests import toy


@pytest.fixture
def built(tmp_path: Path) -> toy.Toy:
    return toy.write(tmp_path / "builds" / "toy-tc-40-run")


@pytest.mark.parametrize("kind", staging.ALWAYS)
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


def rewrite(built: toy.Toy, name: str, change: Callable[[pa.Table], pa.Table]) -> Build:
    """Change one file and let the manifest describe it rightly: only its content breaks a rule."""
    table = change(pq.read_table(built.path / name))
    pq.write_table(table, built.path / name)
    manifest = json.loads((built.path / "manifest.json").read_text())
    manifest["files"][name] |= {"rows": len(table), "bytes": (built.path / name).stat().st_size}
    (built.path / "manifest.json").write_text(json.dumps(manifest))
    return staging.open_build(built.path)


def read_all(build: Build) -> None:
    for label in staging.NODE_FILES:
        build.nodes(label)
    for kind in staging.STATS_COLUMNS:
        build.stats(kind)
    for kind in staging.ALWAYS:
        for _ in build.edges(kind):
            pass


def put(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    """Another value in one place."""

    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        at = table.schema.get_field_index(column)
        return table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))

    return change


def swap(table: pa.Table) -> pa.Table:
    """The first two rows the other way round."""
    return table.take([1, 0, *range(2, len(table))])


FEATURE, TOKEN, FEEDS, PROMOTES = (
    "nodes/Feature.parquet",
    "nodes/Token.parquet",
    "edges/FEEDS/001.parquet",
    "edges/PROMOTES/000.parquet",
)
BROKEN = {
    "another column": (FEEDS, lambda table: table.append_column("z", table["weight"])),
    "a column by another name": (FEEDS, lambda table: table.rename_columns(["source", "target", "w"])),
    "wider numbers": (FEEDS, lambda table: table.set_column(0, "source", table["source"].cast(pa.int64()))),
    "a null": (FEATURE, put("label", 3, None)),
    "a null weight": (FEEDS, put("weight", 3, None)),
    "another model's key": ("nodes/Model.parquet", put("key", 0, "other")),
    "another set": ("nodes/TranscoderSet.parquet", put("key", 0, "toy/other")),
    "a set of another run": ("nodes/TranscoderSet.parquet", put("run", 0, "0" * 12)),
    "another run": ("nodes/Run.parquet", put("key", 0, "0" * 12)),
    "two models": ("nodes/Model.parquet", lambda table: pa.concat_tables([table, table])),
    "features out of order": (FEATURE, swap),
    "a gap in a layer": (FEATURE, lambda table: table.slice(1)),
    "a feature too many": (FEATURE, lambda table: pa.concat_tables([table, table.slice(0, 1)])),
    "a feature of another layer": (FEATURE, put("layer", 0, 1)),
    "a feature of another number": (FEATURE, put("idx", 0, 1)),
    "a feature of another set": (FEATURE, put("set", 0, "toy/other")),
    "a key written another way": (FEATURE, put("key", 0, "toy/00-tc-40/0")),
    "tokens out of order": (TOKEN, swap),
    "a token of another number": (TOKEN, put("token_id", 0, 5)),
    "a token of another vocabulary": (TOKEN, put("vocabulary", 0, "other")),
    "edges out of order": (FEEDS, swap),
    "an edge twice": (FEEDS, lambda table: table.take([0, 0, *range(1, len(table))])),
    "logits in the order of edges": (PROMOTES, lambda table: table.sort_by("target")),
    "a weight that is zero": (FEEDS, put("weight", 0, 0.0)),
    "a weight that is no number": (FEEDS, put("weight", 0, float("nan"))),
    "a weight without end": (FEEDS, put("weight", 0, float("inf"))),
    "a row that is not there": (FEEDS, put("source", 0, -1)),
    "a row beyond the last": (PROMOTES, lambda table: put("target", len(table) - 1, 17)(table)),
    "an edge backwards": (FEEDS, lambda table: put("source", len(table) - 1, 39)(table)),
    "statistics out of order": ("stats/ACTIVATES.parquet", swap),
    "statistics with a gap": ("stats/FEEDS.parquet", lambda table: table.slice(1)),
    "statistics of another layer": ("stats/FEEDS.parquet", put("layer", 0, 3)),
    "logits with a gap": ("stats/logits.parquet", lambda table: table.slice(0, 16)),
    "a deviation that is no number": ("stats/PROMOTES.parquet", put("std", 0, float("nan"))),
}  # fmt: skip


def test_the_untouched_build_keeps_every_rule(built: toy.Toy):
    read_all(rewrite(built, FEATURE, lambda table: table))


@pytest.mark.parametrize("rule", BROKEN)
def test_a_build_that_breaks_a_rule_is_refused_by_the_file_s_name(rule: str, built: toy.Toy):
    name, change = BROKEN[rule]
    build = rewrite(built, name, change)

    with pytest.raises(BadBuild, match=re.escape(name)) as refused:
        read_all(build)
    assert "\n" not in str(refused.value)


def test_files_of_one_kind_continue_each_other_s_order(built: toy.Toy):
    first, second = (built.path / "edges" / "FEEDS" / f"00{number}.parquet" for number in (1, 2))
    one, other = pq.read_table(first), pq.read_table(second)
    rewrite(built, FEEDS, lambda table: other)
    build = rewrite(built, "edges/FEEDS/002.parquet", lambda table: one)

    with pytest.raises(BadBuild, match=r"002\.parquet.*order"):
        read_all(build)


def test_a_file_with_other_rows_than_the_manifest_counts_is_refused(built: toy.Toy):
    manifest = json.loads((built.path / "manifest.json").read_text())
    manifest["files"][TOKEN]["rows"] += 1
    (built.path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BadBuild, match=r"Token\.parquet"):
        read_all(staging.open_build(built.path))


MANIFESTS = {
    "no layers": lambda manifest: manifest.pop("layers"),
    "layers the wrong way round": lambda manifest: manifest["layers"].reverse(),
    "a size too few": lambda manifest: manifest["features_per_layer"].pop(),
    "an empty layer": lambda manifest: manifest["features_per_layer"].__setitem__(0, 0),
    "no model": lambda manifest: manifest.pop("model"),
    "a model without a name": lambda manifest: manifest["model"].clear(),
    "a name no key could hold": lambda manifest: manifest["model"].update(name="a/b"),
    "a name that ends a line": lambda manifest: manifest["set"].update(name="tc-40\n"),
    "a run that is no hash": lambda manifest: manifest.update(run="newest"),
    "no files": lambda manifest: manifest.pop("files"),
    "a node file too few": lambda manifest: manifest["files"].pop(TOKEN),
    "statistics too few": lambda manifest: manifest["files"].pop("stats/logits.parquet"),
    "a file without a size": lambda manifest: manifest["files"][TOKEN].pop("bytes"),
    "a file elsewhere": lambda manifest: manifest["files"].update({"../x.parquet": manifest["files"][TOKEN]}),
    "files as a list": lambda manifest: manifest.update(files=[]),
}


@pytest.mark.parametrize("lack", MANIFESTS)
def test_a_manifest_that_lacks_something_is_refused_in_one_line(lack: str, built: toy.Toy):
    manifest = json.loads((built.path / "manifest.json").read_text())
    MANIFESTS[lack](manifest)
    (built.path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(BadBuild, match=r"manifest\.json is not one of format 1") as refused:
        staging.open_build(built.path)
    assert "\n" not in str(refused.value)


def test_a_folder_that_looks_like_a_partition_is_only_a_folder(tmp_path: Path):
    toy.write(tmp_path / "seed=1" / "a b's [build]")

    read_all(staging.open_build(tmp_path / "seed=1" / "a b's [build]"))


def test_what_lies_beyond_the_keys_is_not_read_for_them(built: toy.Toy):
    build = built.build
    (built.path / FEATURE).write_bytes(b"")

    assert build.keys("Feature").to_pylist() == built.keys("Feature")
    assert build.keys("Token").to_pylist() == built.keys("Token")


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
