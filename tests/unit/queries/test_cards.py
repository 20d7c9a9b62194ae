"""A card: everything about a node, in the layout that is promised."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.cells import cell_len

import atlas
import queries
from queries import present
from tests import toy
from tests.unit.queries.asked import Asked
from tests.unit.queries.truth import Truth, strongest

GOLDEN = Path(__file__).parent / "golden"
FEATURE = "toy/2-tc-40/11"


@pytest.mark.parametrize(
    ("name", "key", "width"),
    [("feature-100", FEATURE, 100), ("feature-80", FEATURE, 80), ("token-100", "token:' rabbit'", 100)],
)
def test_a_card_reads_as_the_golden_one(name: str, key: str, width: int, asked: Asked):
    """``GOLDEN=write pytest`` writes them anew, for a person to read."""
    file = GOLDEN / f"{name}.txt"
    text = present.card_text(queries.card(asked.graph, key), width=width) + "\n"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")

    assert text == file.read_text(encoding="utf-8")
    assert all(cell_len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize("width", [1, 79, 97, 98, 10_000])
def test_no_card_is_wider_than_the_terminal_or_than_a_hundred_columns(width: int, asked: Asked):
    keys = [*asked.other.keys("Feature"), "tok:toy-words/6", "tok:toy-words/9", "tok:toy-words/16"]
    for key in keys[::7]:
        lines = present.card_text(queries.card(asked.graph, key, k=9), width=width).splitlines()
        commands = {line for line in lines if line.lstrip().startswith("atlas ")}
        assert all(cell_len(line) <= min(max(width, 60), 100) for line in lines if line not in commands)


def test_a_card_holds_the_strongest_of_each_kind(asked: Asked):
    truth = Truth(asked.toy, seed=0, density=0.4)
    card = queries.card(asked.graph, FEATURE, k=3)

    for side in ("inputs", "outputs"):
        edges = getattr(truth, side)(FEATURE, kept=True)
        tokens, features = (strongest([e for e in edges if e.type == kind], "z", 3) for kind in ("Token", "Feature"))
        assert list(card[side]["key"]) == [e.key for e in (*tokens, *features)]
    assert (card["layer"], card["layers"], card["idx"], card["features"]) == (2, 5, 11, 13)
    assert card["run"] == asked.toy.run
    properties = next(row for row in asked.toy.nodes["Feature"] if row["key"] == FEATURE)
    assert card["label"] == properties["label"]
    assert all(card["statistics"][name] == properties[name] for name in card["statistics"])


def test_a_card_says_complete_only_when_it_is(asked: Asked):
    truth = Truth(asked.toy, seed=0, density=0.4)
    claims = set()
    for key in asked.toy.keys("Feature")[::3]:
        card = queries.card(asked.graph, key, k=2)
        claims.add(card["complete"])
        if card["complete"]:
            for side in ("inputs", "outputs"):
                every = getattr(truth, side)(key, kept=False)
                best = [
                    e.key
                    for kind in ("Token", "Feature")
                    for e in strongest([e for e in every if e.type == kind], "z", 2)
                ]
                assert list(card[side]["key"]) == best
    assert claims == {True, False}


def test_a_card_as_json_is_the_card(asked: Asked):
    card = queries.card(asked.graph, FEATURE)

    content = json.loads(present.card_json(card))

    assert content.keys() == card.keys()
    assert [row["key"] for row in content["inputs"]] == list(card["inputs"]["key"])
    assert content["cut"] == card["cut"]


def test_a_token_has_a_card_too(asked: Asked):
    card = queries.card(asked.graph, "token:' rabbit'")

    assert card["type"] == "Token"
    assert card["models"] == ["other", "toy"]
    assert set(card["outputs"]["type"]) == {"Feature"}


def test_a_card_of_a_set_that_neuronpedia_has_links_to_the_features_page(tmp_path: Path):
    there = toy.write(tmp_path / "a-build", neuronpedia_id="gemma-2-2b/gemmascope-transcoder-16k")
    atlas.load(there.build, tmp_path / "atlas")
    with atlas.open(tmp_path / "atlas") as graph:
        card = queries.card(graph, FEATURE)

    address = "https://www.neuronpedia.org/gemma-2-2b/2-gemmascope-transcoder-16k/11"
    assert card["page"] == address
    assert f" page:  {address}" in present.card_text(card).splitlines()


def test_a_card_without_room_for_two_columns_shows_every_kind_of_weight(asked: Asked):
    card = queries.card(asked.graph, FEATURE)
    seen = {
        **card,
        "inputs": card["inputs"].assign(drive=0.125, twera=[-2.5, *[float("nan")] * (len(card["inputs"]) - 1)]),
    }

    plain, evidence = (present.card_text(one, width=80) for one in (card, seen))

    header = next(line for line in plain.splitlines() if line.startswith(" READS"))
    assert header.split() == ["READS", "weight", "z", "share"]
    header = next(line for line in evidence.splitlines() if line.startswith(" READS"))
    assert header.split() == ["READS", "weight", "z", "share", "drive", "twera"]
    strongest = card["inputs"].iloc[0]
    row = next(line for line in evidence.splitlines() if line.startswith(" token"))
    assert row.split()[-2:] == ["+0.125", "−2.5"]
    assert f"{strongest['weight']:+.3g}".replace("-", "−") in row
    assert max(map(cell_len, evidence.splitlines())) <= 80


def test_a_card_shows_the_statistics_of_its_rows_and_what_confirms_a_description(asked: Asked):
    card = queries.card(asked.graph, FEATURE)
    scores = json.dumps({"confidence": 0.9375, "tried": 11, "validated": 9})
    described = {**card, "descriptions": [{"text": "rabbits", "method": "atlas", "scores": scores}]}

    text = present.card_text(described)

    assert "rabbits (atlas · 9 of 11 tokens fire it alone · confidence 0.94)" in text
    told = card["statistics"]
    for number in (told["bias"], told["l1_in"], told["std_logits"], told["norm_dec"]):
        assert f"{number:.4g}".replace("-", "−") in text
