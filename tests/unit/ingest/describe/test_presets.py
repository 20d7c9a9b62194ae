"""The preset atlas on a model whose features are known, and what every preset promises: resumed, idempotent, one
line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlas import descriptions
from atlas.errors import BadModel, BadSetting
from atlas.exchange import tables, weightlens
from ingest.describe import Request, chosen_tokens, describe
from ingest.describe import evidence as evidence_module
from ingest.evidence.subject import Subject
from ingest.folding import Vectors
from tests.unit.ingest.describe.small import BOS, N_FEATURES, Small

LOOSE = {"token_z": 3.0, "feature_z": 2.5, "false": 0.9}  # 24 dimensions leave little room above chance
OWN = Request(**LOOSE)


def rows(found: descriptions.Descriptions) -> list[dict]:
    return found.details().to_pylist()


def test_every_token_of_a_description_fires_the_feature_alone_and_stands_out(subject: Subject, made: Small):
    found = describe(subject, OWN)

    vectors = Vectors(subject.weights, subject.source)
    checked = 0
    for row in rows(found)[::9]:
        layer = int(subject.build.layer_of[row["feature"]])
        idx = row["feature"] - sum(N_FEATURES[:layer])
        scores = (vectors.token_writes() @ vectors.reads(layer)[idx]).numpy().astype(np.float64)
        kept = np.ones(len(scores), bool)
        kept[[0, BOS, *range(len(made.tokenizer), len(scores))]] = False
        mean, std = scores[kept].mean(), scores[kept].std()
        for entry in row["tokens"]:
            token = entry["index"]
            assert kept[token]
            assert entry["weight"] == pytest.approx(scores[token], rel=1e-4, abs=1e-5)
            assert entry["z"] == pytest.approx((scores[token] - mean) / std, rel=1e-3, abs=1e-3)
            alone = made.activation([BOS, token], layer, idx)[-1]
            assert entry["activation"] == pytest.approx(alone, rel=1e-4, abs=1e-5)
            assert entry["source"] >= 0 or entry["z"] >= 3.0
            checked += 1
        fires = [entry for entry in row["tokens"] if entry["activation"] > 0]
        assert row["validated"] == len(fires)
        assert row["tried"] == len(row["tokens"])
        assert (row["text"] is None or row["text"].startswith("→")) == (not fires)
    assert checked > 30


def test_meaning_is_followed_through_features_that_feed_a_feature(subject: Subject):
    found = rows(describe(subject, OWN))

    by = {row["feature"]: row for row in found}
    followed = [(row, entry) for row in found for entry in row["tokens"] if entry["source"] >= 0]
    assert len(followed) > 20
    for row, entry in followed:
        assert entry["source"] in {source["index"] for source in row["sources"] if source["z"] > 0}
        said = {one["index"] for one in by[entry["source"]]["tokens"] if one["activation"] > 0}
        assert entry["index"] in said
    layer = subject.build.layer_of
    assert {int(layer[entry["source"]]) for row, entry in followed if layer[row["feature"]] == 2} == {0, 1}


def test_it_takes_a_thousandth_of_the_passes_of_one_a_candidate(subject: Subject):
    found = describe(subject, Request(token_z=2.0, feature_z=2.0, false=1.0))

    assert found.manifest["candidates"] > 1000 * found.manifest["passes"]


def test_describing_again_finds_it_and_an_interrupted_run_goes_on_to_the_same(subject: Subject, monkeypatch):
    whole = describe(subject, OWN)
    expected = whole.details(), whole.texts.drop_columns("created")
    stamp = (whole.path / "manifest.json").stat().st_mtime_ns
    assert describe(subject, OWN).run == whole.run
    assert (whole.path / "manifest.json").stat().st_mtime_ns == stamp
    descriptions.remove(subject.build, "atlas", whole.run)

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("describing") and done == 2:
            raise Stop

    with pytest.raises(Stop):
        describe(subject, OWN, stop)
    assert descriptions.staged(subject.build) == []
    monkeypatch.setattr(evidence_module, "_fires", None)  # the table is there: nothing is run again
    again = describe(subject, OWN)

    assert again.details().equals(expected[0])
    assert again.texts.drop_columns("created").equals(expected[1])
    assert not (again.path / "work").exists()


def test_an_interrupted_weightlens_run_goes_on_to_the_same_bytes(subject: Subject, tmp_path):
    asked = Request(preset="weightlens", token_z=2.6, feature_z=2.4)
    whole = weightlens.write(describe(subject, asked), tmp_path / "whole")
    descriptions.remove(subject.build, "weightlens", descriptions.find(subject.build, "weightlens").run)

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        describe(subject, asked, stop)
    again = weightlens.write(describe(subject, asked), tmp_path / "again")

    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in whole]
    first = json.loads(whole[0].read_text())
    assert [record["feature"]["feature_idx"] for record in first] == list(range(N_FEATURES[0]))


def test_runs_stand_side_by_side_and_the_newest_is_exported(subject: Subject, tmp_path):
    one = describe(subject, Request(preset="weightlens", token_z=2.6, feature_z=2.4))
    two = describe(subject, Request(preset="weightlens", token_z=3.4, feature_z=2.4))

    assert [run.number for run in descriptions.staged(subject.build)] == [1, 2]
    assert set(one.keys.to_pylist()).isdisjoint(two.keys.to_pylist())
    assert weightlens.newest(subject.build).run == two.run
    assert weightlens.newest(subject.build, one.run).run == one.run
    assert len(tables.frame(subject.build, [one, two])) == len(one.texts) + len(two.texts)
    own = {row["text"] for row in two.texts.to_pylist()}
    labels = descriptions.labels(subject.build).to_pylist()
    assert {row["label"] for row in labels if row["label_source"] == "weightlens"} & {
        descriptions.shortened(text) for text in own
    }


def test_only_some_tokens_can_be_tried_and_the_others_are_not_called_silent(subject: Subject, tmp_path):
    file = tmp_path / "tokens.txt"
    file.write_text("5\n6\n700\n")
    tokens = chosen_tokens(str(file), subject)

    found = rows(describe(subject, Request(**LOOSE, tokens=tokens)))

    assert tokens == (5, 6, 700)
    seen = {entry["index"]: entry["activation"] for row in found for entry in row["tokens"]}
    assert any(value is None for value in seen.values())
    assert {token for token, value in seen.items() if value is not None} <= set(tokens)
    assert all(row["tried"] <= 3 for row in found)


def test_rare_tokens_are_left_out_unless_asked_for(subject: Subject):
    plain = describe(subject, OWN)
    shown = describe(subject, Request(**{**LOOSE, "token_z": 2.0}, show_rare=True))

    def tokens(found: descriptions.Descriptions) -> set[int]:
        return {entry["index"] for row in rows(found) for name in ("tokens", "inhibits") for entry in row[name]}

    rare = {0, BOS, *range(len(subject.tokenizer), subject.weights.n_vocab)}
    assert not tokens(plain) & rare
    assert tokens(shown) & rare
    assert plain.manifest["rare"]["row"] == 4


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"preset": "best"}, "no preset 'best'"),
        ({"token_z": -1.0}, "token_z is -1.0"),
        ({"feature_z": float("nan")}, "feature_z is nan"),
        ({"false": 0.0}, "more than 0"),
        ({"branch": "gpt"}, "belongs to WeightLens"),
        ({"preset": "weightlens", "show_rare": True}, "masks none"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(asked: dict, said: str):
    with pytest.raises(BadSetting, match=said):
        Request(**asked)


@pytest.mark.parametrize(("asked", "said"), [("0", "has 1060"), ("1061", "has 1060"), ("/no/file", "neither a number")])
def test_tokens_that_are_not_there_are_refused(subject: Subject, asked: str, said: str):
    with pytest.raises(BadSetting, match=said):
        chosen_tokens(asked, subject)


def test_a_vocabulary_smaller_than_the_published_pool_is_refused(subject: Subject, monkeypatch):
    monkeypatch.setattr("ingest.describe.pools.TOKEN_POOL", 2000)

    with pytest.raises(BadModel, match="pools of 2000"):
        describe(subject, Request(preset="weightlens"))
