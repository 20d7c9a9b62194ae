"""Features alike: the cosine of what is kept, checked against plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import atlas
import queries
from atlas.errors import BadBuild, BadKey, BadSetting
from atlas.stores import Store
from ingest import build
from queries import cosines, present
from tests import toy as toys
from tests.toy import Toy
from tests.unit.ingest import models
from tests.unit.ingest.tiny import KEEP
from tests.unit.queries.asked import Asked

FEATURE = "toy/3-tc-40/2"


def profile(toy: Toy, key: str, by: str) -> dict[str, float]:
    kinds = ("ACTIVATES", "FEEDS") if by == "inputs" else ("PROMOTES", "FEEDS")
    here, there = (1, 0) if by == "inputs" else (0, 1)
    return {row[there]: row[3] for kind in kinds for row in toy.edges[kind] if row[here] == key}


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    lengths = math.sqrt(sum(z * z for z in a.values()) * sum(z * z for z in b.values()))
    return sum(z * b[key] for key, z in a.items() if key in b) / lengths


def tokens(of: dict[str, float]) -> dict[str, float]:
    return {key: z for key, z in of.items() if key.startswith("tok:")}


@pytest.mark.parametrize("by", ["inputs", "outputs"])
def test_the_most_alike_of_a_set_are_those_of_the_largest_cosine(by: str, asked: Asked):
    mine = profile(asked.toy, FEATURE, by)
    truth = {key: cosine(mine, profile(asked.toy, key, by)) for key in asked.toy.keys("Feature") if key != FEATURE}

    found = queries.similar(asked.graph, FEATURE, by=by, set="toy/tc-40", k=40)

    for row in found.itertuples():
        assert row.score == pytest.approx(truth[row.key], rel=1e-5)
    # The toy is so small that its 24 strongest neighbours lead to every feature that is alike at all.
    assert [row.key for row in found.head(5).itertuples()] == sorted(truth, key=lambda key: -truth[key])[:5]


def test_features_of_another_model_are_compared_by_the_tokens_they_share(asked: Asked):
    mine = tokens(profile(asked.toy, FEATURE, "inputs"))

    found = queries.similar(asked.graph, FEATURE, model="other", k=5)

    assert len(found) == 5
    for row in found.itertuples():
        assert row.key.startswith("other/")
        assert row.score == pytest.approx(cosine(mine, tokens(profile(asked.other, row.key, "inputs"))), rel=1e-5)
        assert row.text.startswith('"')


def test_without_a_scope_all_that_share_the_vocabulary_are_looked_at(asked: Asked):
    found = queries.similar(asked.graph, FEATURE, k=60)

    assert {key.split("/")[0] for key in found["key"]} == {"toy", "other"}
    assert FEATURE not in set(found["key"])
    assert list(found["score"]) == sorted(found["score"], reverse=True)


def test_what_cannot_be_compared_is_refused(asked: Asked):
    with pytest.raises(BadKey, match="is a token"):
        queries.similar(asked.graph, "tok:toy-words/1")
    with pytest.raises(BadSetting, match="inputs, outputs"):
        queries.similar(asked.graph, FEATURE, by="smell")


@pytest.fixture(scope="module")
def pointing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, list[Toy]]]:
    """Two sets of one model and one of another, with vectors, and a set of the first model without."""
    folder = tmp_path_factory.mktemp("pointing")
    made = [
        toys.write(folder / "a", vectors=True),
        toys.write(folder / "b", set="tc-20", sizes=(4, 5, 6, 2, 3), vectors=True),
        toys.write(folder / "c", model="other", set="tc-x", seed=3, vectors=True),
        toys.write(folder / "d", set="tc-none", sizes=(2, 2, 3, 2, 2)),
    ]
    for one in made:
        atlas.load(one.build, folder / "atlas")
    with atlas.open(folder / "atlas") as graph:
        yield graph, made


def by_hand(key: str, sets: list[Toy], by: str) -> list[tuple[str, float]]:
    """Every other feature with its cosine, from the staged files, in order."""
    of = {}
    for one in sets:
        rows = np.load(one.path / "vectors" / f"{by}.npy").astype(np.float64)
        of |= {(row["key"], row["layer"], row["idx"]): v for row, v in zip(one.nodes["Feature"], rows, strict=True)}
    mine = next(vector for (name, _, _), vector in of.items() if name == key)
    scores = []
    for (name, layer, idx), vector in of.items():
        length = math.sqrt(math.fsum(vector * vector) * math.fsum(mine * mine))
        score = math.fsum(vector * mine) / length if length else 0.0
        if name != key:
            scores.append((-round(score, 12), layer, idx, name))
    return [(name, -score) for score, _, _, name in sorted(scores)]


@pytest.mark.parametrize("by", ["encoder", "decoder"])
@pytest.mark.parametrize("block", [1 << 21, 50])
def test_by_vectors_the_order_is_that_of_all_stored_vectors_and_ties_go_by_layer(by, block, pointing, monkeypatch):
    graph, made = pointing
    monkeypatch.setattr(cosines, "_BLOCK", block)

    found = queries.similar(graph, FEATURE, by=by, k=100)

    truth = by_hand(FEATURE, made[:2], by)
    assert found["key"].tolist() == [key for key, _ in truth]
    np.testing.assert_allclose(found["score"], [score for _, score in truth], atol=1e-6)
    assert set(found["matched_by"]) == {by}
    assert len(queries.similar(graph, FEATURE, by=by, k=7)) == 7
    # rows 2 and 9 are one vector: features of layers 0 and 1
    alike = queries.similar(graph, "toy/0-tc-40/2", by=by, set="toy/tc-40", k=1)
    assert alike["key"].tolist() == ["toy/1-tc-40/2"]
    assert alike["score"][0] == 1


def test_what_the_answer_rests_on_is_said_with_the_sets_left_out(pointing):
    graph, _ = pointing

    found = queries.similar(graph, FEATURE, by="encoder", model="toy", k=3)

    assert found.attrs["set"] == ["toy/tc-20", "toy/tc-40"]
    assert found.attrs["note"] == "vectors in float16 · without toy/tc-none, whose vectors are not here"
    assert "3 rows by cosine of what they read · vectors in float16" in present.footer(found)


def test_a_feature_that_reads_nothing_is_like_none(pointing):
    graph, _ = pointing

    found = queries.similar(graph, "toy/0-tc-40/3", by="encoder")

    assert found.empty
    assert "toy/0-tc-40/3 reads nothing" in found.attrs["note"]


def test_vectors_of_two_models_and_absent_ones_are_refused(pointing):
    graph, _ = pointing

    with pytest.raises(BadSetting, match=r"toy and other are two models.* compare by inputs, outputs or description"):
        queries.similar(graph, FEATURE, by="decoder", set="other/tc-x")
    with pytest.raises(BadBuild, match="toy/tc-none was built without its vectors; `atlas ingest --vectors`"):
        queries.similar(graph, FEATURE, by="encoder", set="toy/tc-none")
    with pytest.raises(BadBuild, match="toy/tc-none was built without"):
        queries.similar(graph, "toy/0-tc-none/1", by="encoder")


def test_numbers_that_are_not_finite_are_refused_and_not_ranked():
    rows = np.eye(5, 3, dtype=np.float16)
    rows[2, 1] = np.inf

    with pytest.raises(BadBuild, match="a/b hold a number that is not finite"):
        cosines.nearest(rows, np.array([1.0, 0, 0]), 2, of="a/b")
    with pytest.raises(BadBuild, match="3 wide"):
        cosines.nearest(rows, np.array([1.0, 0]), 2, of="a/b")


def test_an_ingested_model_is_compared_by_the_vectors_behind_its_edges_and_with_itself_by_another_name(tmp_path: Path):
    for name in ("tiny/tc", "twin/tc"):
        transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
        model = (models.model("llama"), models.tokenizer())
        made = build(model=model, transcoders=transcoders, name=name, keep=KEEP, home=tmp_path)
        atlas.load(made, tmp_path / "atlas")

    with atlas.open(tmp_path / "atlas") as graph:
        found = queries.similar(graph, "tiny/1-tc/2", by="decoder", set="tiny/tc", k=200)
        twin = queries.similar(graph, "tiny/1-tc/2", by="decoder", model="twin", k=1)

    writes = np.concatenate([transcoders[layer].w_dec.double().numpy() for layer in range(models.N_LAYERS)])
    writes /= np.linalg.norm(writes, axis=1, keepdims=True)
    truth = dict(
        zip(made.keys("Feature").to_pylist(), (writes @ writes[models.N_FEATURES[0] + 2]).tolist(), strict=True)
    )
    assert len(found) == len(writes) - 1
    for row in found.itertuples():
        assert row.score == pytest.approx(truth[row.key.replace("tiny", "twin", 1)], abs=1e-3)
    assert (twin["key"][0], twin["score"][0]) == ("twin/1-tc/2", 1)
