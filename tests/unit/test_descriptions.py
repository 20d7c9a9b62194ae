"""Descriptions staged beside a build: runs side by side, keys, labels, and one line for what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas import descriptions
from atlas.descriptions.staging import Staging, texts
from atlas.errors import BadDescriptions, BadSetting
from atlas.provenance import Run
from tests import toy
from tests.toy import Toy
from tests.unit.exchange.builds import say


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


def test_several_things_said_of_one_feature_have_keys_of_their_own(made: Toy):
    staging = Staging(made.build, "user", Run({}, {}))
    found = staging.finish(texts([(3, "a", "{}"), (3, "b", "{}"), (4, "c", "{}")], "x"), texts([], "x"), {})

    assert [key.rpartition("#")[2] for key in found.keys.to_pylist()] == ["1", "1.2", "1"]


def test_descriptions_of_another_build_and_broken_ones_are_refused_in_one_line(made: Toy):
    found = say(made, "atlas", {3: "rabbits"})
    manifest = found.path / "manifest.json"
    content = json.loads(manifest.read_text())
    for text, said_so in (
        (json.dumps(content | {"build": "0123456789ab"}), "describes build 0123456789ab"),
        ("{", "cannot be read"),
        (json.dumps(content | {"format": 9}), "format 9"),
    ):
        manifest.write_text(text)
        with pytest.raises(BadDescriptions, match=said_so):
            descriptions.staged(made.build)
    manifest.write_text(json.dumps(content))
    with pytest.raises(BadDescriptions, match="has no descriptions by weightlens; it has atlas"):
        descriptions.find(made.build, "weightlens")


@pytest.mark.parametrize("order", [[], ["atlas", "atlas"], ["Atlas!"]])
def test_an_order_that_is_none_is_refused(made: Toy, order: list[str]):
    with pytest.raises(BadSetting, match="no order"):
        descriptions.set_order(made.build, order)


def test_a_label_is_cut_between_words():
    assert descriptions.shortened("rabbit,  hare") == "rabbit, hare"
    long = descriptions.shortened("words that go on and on, " * 9)
    assert len(long) <= descriptions.LABEL_LENGTH
    assert long.endswith("…")
