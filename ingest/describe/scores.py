"""How well a description predicts firing on text nobody trained on, without a language model as judge.

The prediction is the plainest there is: *a described token is here*. Over the counted positions of a held-out text:

precision   of the positions that hold a described token, the share where the feature fires
recall      of the positions where the feature fires, the share that hold a described token
auc, ap     area under the ROC curve, and average precision, when tokens are ranked by the description's own numbers

All four depend on counts by token alone, so they are exact sums over the vocabulary. Two baselines of the same
length are scored in the same run: ``raw weight``, the tokens of the largest plain weight; ``max activating``, the
tokens on which the feature was strongest in the *other* windows of the text. Windows alternate between looking and
scoring.

FADE (github.com/brunibrun/FADE) and Delphi (arXiv 2410.13928) ask the same with texts rated by a model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csc_array
from scipy.stats import spearmanr

from atlas.descriptions import Descriptions
from atlas.stores import Progress
from ingest.describe.evidence import Evidence
from ingest.describe.weightlens import Words
from ingest.evidence.capture import Reader
from ingest.evidence.corpus import Request, prepare
from ingest.evidence.subject import Subject
from ingest.folding import Vectors

LEAST = 10
"""firings in the scored half below which a feature is not scored"""
_BATCH = 4096
FIGURES = ("precision", "recall", "auc", "ap")


@dataclass(frozen=True)
class Seen:
    """Counts on text, by token and feature."""

    tokens: np.ndarray
    """scored positions of each token"""
    fires: csc_array
    """scored positions at which a feature fires on a token, [n_vocab, n_features]"""
    strongest: csc_array
    """largest activation on a token in the windows that were looked at"""


def look(subject: Subject, text: str, work: Path, tokens: int | None = None, progress: Progress | None = None) -> Seen:
    """Run the text and count. ``work`` is a folder for its token ids; ``tokens`` bounds the positions."""
    corpus = prepare(Request(text=text, tokens=tokens), subject.tokenizer, subject.weights.n_vocab, work, progress)
    reader = Reader(subject.runner, subject.source)
    n_vocab, n_features = subject.weights.n_vocab, int(reader.first[-1])
    counts = np.zeros(n_vocab, np.int64)
    fires: dict[bool, list[tuple[np.ndarray, np.ndarray]]] = {True: [], False: []}
    step = max(2, _BATCH // corpus.longest)
    for first in range(0, len(corpus), step):
        ids = corpus.windows(first, min(first + step, len(corpus)))
        batch = reader.read(ids, corpus.counted(ids, *subject.special), first)
        scored = batch.window % 2 == 1
        counts += np.bincount(batch.token[scored], minlength=n_vocab)
        for half, mask in ((True, scored), (False, ~scored)):
            at = np.repeat(mask, np.diff(batch.start))
            key = np.repeat(batch.token.astype(np.int64), np.diff(batch.start))[at] * n_features + batch.feature[at]
            fires[half].append(_summed(key) if half else _largest(key, batch.value[at]))
        if progress:
            progress("reading text (windows)", min(first + step, len(corpus)), len(corpus))
    shape = (n_vocab, n_features)
    return Seen(
        tokens=counts,
        fires=_matrix(_summed(*map(np.concatenate, zip(*fires[True], strict=True))), shape),
        strongest=_matrix(_largest(*map(np.concatenate, zip(*fires[False], strict=True))), shape),
    )


def table(subject: Subject, seen: Seen, runs: list[Descriptions], evidence: Evidence) -> pd.DataFrame:
    """One row a layer and predictor: ``layer, predictor, features, precision, recall, auc, ap, described, alone``.

    Figures are means over the features that every predictor can score: described by the first of ``runs``, with
    :data:`LEAST` firings. ``described``: share of the layer's features with tokens from that predictor; ``alone``:
    share that some single token fires.
    """
    vectors = Vectors(subject.weights, subject.source)
    said = {one.method: described(one, subject) for one in runs}
    chosen = next(iter(said.values()))
    counts = np.diff(seen.fires.indptr)
    totals = np.add.reduceat(np.append(seen.fires.data, 0), np.minimum(seen.fires.indptr[:-1], len(seen.fires.data)))
    totals = np.where(counts > 0, totals, 0)
    rows, first = [], 0
    for layer in vectors.layers:
        n = subject.source.info.n_features[layer]
        alone = float((np.diff(evidence.layer(layer).indptr) > 0).mean())
        features = [f for f in range(first, first + n) if f in chosen and totals[f] >= LEAST]
        predictors = {**said, "raw weight": {}, "max activating": {}}
        reads, writes = vectors.reads(layer), vectors.token_writes()
        for f in features:
            k = len(chosen[f])
            weight, token = (writes @ reads[f - first]).topk(k)
            predictors["raw weight"][f] = dict(zip(token.tolist(), weight.tolist(), strict=True))
            span = slice(seen.strongest.indptr[f], seen.strongest.indptr[f + 1])
            value, at = seen.strongest.data[span], seen.strongest.indices[span]
            top = np.lexsort((at, np.negative(value)))[:k]
            predictors["max activating"][f] = dict(zip(at[top].tolist(), value[top].tolist(), strict=True))
        for name, predictor in predictors.items():
            figures = np.array([judge(predictor.get(f, {}), f, seen) for f in features]).reshape(-1, 4)
            share = np.mean([f in predictor for f in range(first, first + n)]) if name in said else np.nan
            means = figures.mean(axis=0) if len(figures) else np.full(4, np.nan)
            rows.append((layer, name, len(features), *means.tolist(), float(share), alone))
        first += n
    return pd.DataFrame(rows, columns=["layer", "predictor", "features", *FIGURES, "described", "alone"]).astype(
        {"predictor": "str"}
    )


def by_confidence(subject: Subject, seen: Seen, run: Descriptions) -> pd.DataFrame:
    """Whether a description's confidence says how good it is: figures by quarter of confidence, least first.

    Columns ``confidence`` (from and to), ``features``, then :data:`FIGURES`; of features that fire :data:`LEAST` times.
    ``attrs["spearman"]``: of confidence with average precision over these features.
    """
    details = run.details()
    confidence = dict(zip(details["feature"].to_pylist(), details["confidence"].to_pylist(), strict=True))
    fires = np.asarray(seen.fires.sum(axis=0)).ravel()
    said = described(run, subject)
    chosen = sorted((f for f in said if fires[f] >= LEAST), key=lambda f: (confidence[f], f))
    figures = np.array([judge(said[f], f, seen) for f in chosen]).reshape(-1, len(FIGURES))
    rows = []
    for part in np.array_split(np.arange(len(chosen)), 4):
        if len(part):
            low, high = confidence[chosen[part[0]]], confidence[chosen[part[-1]]]
            rows.append((f"{low:.2f} to {high:.2f}", len(part), *figures[part].mean(axis=0).tolist()))
    frame = pd.DataFrame(rows, columns=["confidence", "features", *FIGURES]).astype({"confidence": "str"})
    if len(chosen) > 2:
        ranked: Any = spearmanr([confidence[f] for f in chosen], figures[:, FIGURES.index("ap")])
        frame.attrs["spearman"] = float(ranked.statistic)
    return frame


def described(found: Descriptions, subject: Subject) -> dict[int, dict[int, float]]:
    """Tokens that a run describes each feature by, with what they are ranked by, by row number."""
    details = found.details()
    if "record" in details.column_names:
        words, known = Words(subject.tokenizer), {}
        for feature, line in zip(details["feature"].to_pylist(), details["record"].to_pylist(), strict=True):
            record = json.loads(line)
            own = record["embedding"]
            by = dict(zip(own["top_positive_token_ids"], own["positive_tokens_activation"], strict=True))
            ids = [words.last_id(text) for text in record["description"] or ()]
            if ids:
                least = min(by.values(), default=1.0) or 1e-6
                known[feature] = {token: by.get(token) or least / 2 for token in ids}
        return known
    known = {}
    for row in details.select(["feature", "tokens"]).to_pylist():
        fires = {entry["index"]: entry["activation"] for entry in row["tokens"] if (entry["activation"] or 0) > 0}
        if fires:
            known[row["feature"]] = fires
    return known


def judge(predictor: dict[int, float], feature: int, seen: Seen) -> tuple[float, float, float, float]:
    """Precision, recall, AUC and average precision of one description; ties share their rank."""
    span = slice(seen.fires.indptr[feature], seen.fires.indptr[feature + 1])
    positives = float(seen.fires.data[span].sum())
    everything = float(seen.tokens.sum())
    fires = dict(zip(seen.fires.indices[span].tolist(), seen.fires.data[span].tolist(), strict=True))
    groups: dict[float, list[float]] = {}
    for token, rank in predictor.items():
        group = groups.setdefault(rank, [0.0, 0.0])
        group[0] += fires.get(token, 0.0)
        group[1] += float(seen.tokens[token])
    hits = sum(hit for hit, _ in groups.values())
    here = sum(count for _, count in groups.values())
    groups[-np.inf] = [positives - hits, everything - here]
    auc = ap = above_hits = above = 0.0
    negatives = everything - positives
    for _, (hit, count) in sorted(groups.items(), reverse=True):
        miss = count - hit
        auc += miss * (above_hits + hit / 2)
        above_hits, above = above_hits + hit, above + count
        ap += hit / positives * (above_hits / above if above else 0.0)
    return (
        hits / here if here else 0.0,
        hits / positives,
        auc / (positives * negatives) if negatives else np.nan,
        ap,
    )


def _summed(key: np.ndarray, value: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(key, return_inverse=True)
    return unique, np.bincount(inverse, value, minlength=len(unique)).astype(np.float64)


def _largest(key: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(key, return_inverse=True)
    best = np.zeros(len(unique), np.float64)
    np.maximum.at(best, inverse, value)
    return unique, best


def _matrix(found: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> csc_array:
    key, value = found
    made = csc_array((value, (key // shape[1], key % shape[1])), shape=shape)
    made.sort_indices()
    return made
