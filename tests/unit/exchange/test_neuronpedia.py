"""Neuronpedia's exports of explanations, in and out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from atlas import descriptions
from atlas.errors import BadDescriptions
from atlas.exchange import neuronpedia
from tests import toy
from tests.toy import Toy


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


def row(at: int, index: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"x{at}{index}{len(text)}",
        "modelId": "toy",
        "layer": f"{at}-tc-40",
        "index": str(index),
        "authorId": "someone",
        "description": text,
        "embedding": "[]",
        "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini",
        **more,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(one) + "\n" for one in rows)
    return path


def test_every_explanation_becomes_a_description_with_its_explainer_and_date(made: Toy, tmp_path: Path):
    rows = [row(0, 3, " rabbits "), row(0, 3, "hares", createdAt="2025-02-03T04:05:06Z"), row(2, 11, "tea"),
            row(1, 0, "of another set", layer="1-other-set")]  # fmt: skip
    place = write(tmp_path / "explanations" / "batch-0.jsonl.gz", rows).parent

    found = neuronpedia.read(made.build, place)

    nodes = {node["key"]: node for node in found.nodes().to_pylist()}
    assert set(nodes) == {
        "toy/0-tc-40/3#neuronpedia#1",
        "toy/0-tc-40/3#neuronpedia#1.2",
        "toy/2-tc-40/11#neuronpedia#1",
    }
    second = nodes["toy/0-tc-40/3#neuronpedia#1.2"]
    assert (second["text"], second["explainer"], second["created"]) == ("hares", "gpt-4o-mini", "2025-02-03")
    assert json.loads(second["scores"])["type"] == "oai_token-act-pair"
    assert found.manifest["left_out"] == {"toy/1-other-set": 1}
    assert neuronpedia.read(made.build, place).run == found.run


def test_the_label_is_the_first_explanation_in_the_users_order(made: Toy, tmp_path: Path):
    neuronpedia.read(made.build, write(tmp_path / "batch-0.jsonl.gz", [row(0, 3, "rabbits")]))
    own = made.nodes["Feature"][3]["label"]

    def label() -> tuple[str, str]:
        found = descriptions.labels(made.build).to_pylist()[3]
        return found["label"], found["label_source"]

    assert label() == ("rabbits", "neuronpedia")
    descriptions.set_order(made.build, ["tokens"])
    assert label() == (own, "tokens")
    descriptions.set_order(made.build, ["atlas", "neuronpedia"])
    assert label() == ("rabbits", "neuronpedia")


def test_what_was_imported_is_exported_as_it_came(made: Toy, tmp_path: Path):
    rows = [row(0, 3, "rabbits"), row(2, 11, "tea", createdAt="2025-01-01")]
    found = neuronpedia.read(made.build, write(tmp_path / "batch-0.jsonl.gz", rows))

    (file,) = neuronpedia.write(found, tmp_path / "out")

    with gzip.open(file, "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == sorted(rows, key=lambda one: one["index"])
    assert neuronpedia.read(toy.write(tmp_path / "other").build, file).texts.num_rows == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-12]), "ends or breaks"),
        (lambda path: path.write_bytes(b"not gzip"), "ends or breaks"),
        (lambda path: write(path, [{"description": "x"}]), "is it an export"),
        (
            lambda path: write(path, [row(0, 3, "x", maxActApprox=9.5, frac_nonzero=0.01)]),
            "activations are not taken in, since some were computed on another tensor .* explanations/",
        ),
        (lambda path: write(path, [row(0, 99, "x")]), "toy/tc-40 does not have"),
        (lambda path: write(path, [row(0, 3, "x", modelId="gemma-2-2b")]), "gemma-2-2b/0-tc-40"),
        (lambda path: path.unlink(), "is not there"),
    ],
)
def test_what_is_no_export_of_this_set_is_refused_whole(made: Toy, tmp_path: Path, spoil, said: str):
    path = write(tmp_path / "batch-0.jsonl.gz", [row(0, 3, "rabbits"), row(0, 4, "hares" * 2000)])
    spoil(path)

    with pytest.raises(BadDescriptions, match=said):
        neuronpedia.read(made.build, path)

    assert descriptions.staged(made.build) == []
