"""The score of a description is what a table of every position would give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array
from scipy.stats import spearmanr

from ingest.describe import Request, describe, open_evidence
from ingest.describe.scores import LEAST, Seen, by_confidence, described, judge, look, table
from ingest.evidence.subject import Subject
from tests.unit.ingest.describe.small import BOS, Small


def seen_of(tokens: np.ndarray, fires: np.ndarray, n_vocab: int) -> Seen:
    table = np.zeros((n_vocab, 1))
    np.add.at(table[:, 0], tokens, fires)
    nothing = csc_array((n_vocab, 1))
    return Seen(np.bincount(tokens, minlength=n_vocab), csc_array(table), nothing)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_every_position_ranked_with_ties_shared(seed: int):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 12, 400)
    fires = rng.random(400) < np.linspace(0.9, 0.02, 12)[tokens]
    predictor = {0: 3.0, 1: 2.0, 2: 2.0, 7: 0.5}

    precision, recall, auc, ap = judge(predictor, 0, seen_of(tokens, fires, 12))

    score = np.array([predictor.get(token, -1.0) for token in tokens.tolist()])
    here = score > 0
    assert precision == pytest.approx((here & fires).sum() / here.sum())
    assert recall == pytest.approx((here & fires).sum() / fires.sum())
    pairs = score[fires][:, None] - score[~fires][None, :]
    assert auc == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    steps = sorted(set(score.tolist()), reverse=True)
    hits = np.array([(fires & (score >= step)).sum() for step in steps])
    above = np.array([(score >= step).sum() for step in steps])
    assert ap == pytest.approx((np.diff([0, *hits]) / fires.sum() * hits / above).sum())


def test_a_description_without_a_token_in_the_text_is_worth_chance():
    tokens, fires = np.array([0, 1, 1, 2]), np.array([True, False, False, False])

    assert judge({9: 1.0}, 0, seen_of(tokens, fires, 12)) == pytest.approx((0.0, 0.0, 0.5, 0.25))


def test_counts_on_text_are_those_of_the_model_and_halves_do_not_mix(subject: Subject, made: Small, tmp_path):
    rng = np.random.default_rng(3)
    words = [made.tokenizer.decode([token]) for token in range(300, 900)]
    text = "".join(rng.choice(words, 1200))
    (tmp_path / "text.txt").write_text(text)

    seen = look(subject, str(tmp_path / "text.txt"), tmp_path / "work")

    ids = made.tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [[BOS, *ids[first : first + 255]] for first in range(0, len(ids), 255)]
    counts = np.zeros(len(seen.tokens), np.int64)
    fires = np.zeros(len(seen.tokens))
    for window in windows[1::2]:
        np.add.at(counts, window[1:], 1)
        np.add.at(fires, window[1:], np.array(made.activation(window, 1, 40)[1:]) > 0)
    np.testing.assert_array_equal(seen.tokens, counts)
    np.testing.assert_array_equal(seen.fires[:, [150 + 40]].toarray()[:, 0], fires)
    found = describe(subject, Request(token_z=3.0, feature_z=2.5, false=0.9))
    scores = table(subject, seen, [found], open_evidence(subject))
    assert set(scores["predictor"]) == {"atlas", "raw weight", "max activating"}
    assert list(scores["layer"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    first = scores[scores["predictor"] == "atlas"].iloc[0]
    assert first["features"] > 10
    said = described(found, subject)
    layer_0 = [feature for feature in said if feature < 150 and seen.fires[:, [feature]].sum() >= LEAST]
    assert first["features"] == len(layer_0)
    expected = np.mean([judge(said[feature], feature, seen) for feature in layer_0], axis=0)
    assert list(first[["precision", "recall", "auc", "ap"]]) == pytest.approx(expected.tolist())
    assert 0 < first["alone"] <= 1
    tracks = by_confidence(subject, seen, found)
    confidence = dict(zip(*(found.details()[name].to_pylist() for name in ("feature", "confidence")), strict=True))
    chosen = [feature for feature in said if seen.fires[:, [feature]].sum() >= LEAST]
    assert tracks["features"].sum() == len(chosen)
    ap = [judge(said[feature], feature, seen)[3] for feature in chosen]
    assert np.average(tracks["ap"], weights=tracks["features"]) == pytest.approx(np.mean(ap))
    assert tracks["confidence"].iloc[0].startswith(f"{min(confidence[feature] for feature in chosen):.2f}")
    assert tracks.attrs["spearman"] == pytest.approx(spearmanr([confidence[f] for f in chosen], ap).statistic)
