"""The pairs known by name: each can be asked for, and a name that is none is answered with those near it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from atlas import demo, releases
from atlas.errors import BadSource
from atlas.model import MODEL_NAME, SET_NAME
from ingest.folders import parse


def test_every_pair_names_places_that_can_be_opened_and_keys_that_parse():
    for release in releases.RELEASES:
        model, _, set_name = release.name_as.partition("/")
        assert MODEL_NAME.match(model)
        assert SET_NAME.match(set_name)
        assert releases.find(release.name) is release
        for place in (release.model, release.transcoders):
            if not place.startswith((str(demo.HERE), "saelens:")):
                repo, folder, revision = parse(place)
                assert (repo.count("/"), revision) == (1, None)
                assert not folder or place == release.transcoders


def test_the_releases_of_saelens_are_releases_of_its_directory():
    directory = pytest.importorskip(
        "sae_lens.loading.pretrained_saes_directory", reason="comes with the extra: pip install 'feature-atlas[ingest]'"
    ).get_pretrained_saes_directory()

    for release in releases.RELEASES:
        if release.transcoders.startswith("saelens:"):
            name, _, pattern = release.transcoders.removeprefix("saelens:").partition(":")
            assert sum(fnmatchcase(known, pattern or "*") for known in directory[name].saes_map) == release.layers


def test_a_name_that_is_none_is_answered_with_those_near_it():
    with pytest.raises(BadSource, match=r"known as 'gemma2-2b' \(near: gemma-2-2b.*`atlas sources` lists"):
        releases.find("gemma2-2b")


def test_the_table_has_typed_columns_and_says_nothing_where_nothing_is_known():
    table = releases.table()

    sizes = ["layers", "features", "bytes", "memory"]
    assert list(table.columns) == ["name", "model", "transcoders", *sizes, "licence", "revision", "needs"]
    assert str(table["features"].dtype) == str(table["bytes"].dtype) == "Int64"
    assert table.set_index("name").loc["gemma-2-2b", "features"] == 425_984
    assert table.set_index("name").loc["gemma-2-2b", "memory"] == 4 * 2 * 2304 * 16_384
    assert table.set_index("name").loc["gpt2-small", "needs"] == "--allow-pickle"
    assert table["licence"].str.len().min() > 0
    assert table["bytes"].isna().any()
    assert table.loc[0, "model"] == "atlas/demo/model"
