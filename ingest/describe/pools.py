"""What WeightLens reads off the weights: outliers within pools of the strongest scores.

The published rule (Golimblevskaia et al. 2025, arXiv 2510.14936; github.com/egolimblevskaia/WeightLens) takes, for
every feature, the 1000 largest and the 1000 smallest scores of all tokens (100 of all features of an earlier layer)
and keeps what deviates from *its own pool* by more than a threshold, in sample deviations. Scores are plain dot
products with the encoder's row or the decoder's row: no gain, no centring, no position, no bias, no soft cap.
:mod:`ingest.describe.significance` is our own rule.

All features of a tile are scored by one matrix product; the pools are float32, as the original's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadModel, BadTranscoder
from ingest.transcoder import TranscoderSource
from ingest.weights import ModelWeights

TOKEN_POOL, FEATURE_POOL = 1000, 100
CLOSE = 1e-4
"""distance from a threshold within which rounding decides"""
_CELLS = 1 << 25
"""scores of one tile"""


@dataclass(frozen=True)
class Outliers:
    """Kept entries of every feature of a layer, feature after feature, strongest first within each."""

    start: np.ndarray
    """feature j has entries ``start[j]:start[j + 1]``; int64"""
    index: np.ndarray
    """token, or feature within its layer; int64"""
    score: np.ndarray
    """float32"""
    close: list[tuple[int, int, float]]
    """(feature, index, z) of entries, kept or not, within :data:`CLOSE` of the threshold"""

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(self.start[feature], self.start[feature + 1])
        return self.index[span], self.score[span]


@dataclass(frozen=True)
class Found:
    """What the weights say of one layer's features."""

    layer: int
    tokens: tuple[Outliers, Outliers]
    """that excite, that inhibit"""
    logits: tuple[Outliers, Outliers]
    """promoted, suppressed"""
    sources: dict[int, Outliers]
    """exciting features, by earlier layer"""
    total: np.ndarray
    """sum of all absolute scores of tokens and earlier features; float64 [n_features]"""

    @property
    def n_features(self) -> int:
        return len(self.total)

    def close(self) -> dict[int, list[str]]:
        """What rounding decides, by feature: entries within :data:`CLOSE` of a threshold, in words."""
        sides = {"excites": self.tokens[0], "inhibits": self.tokens[1]}
        sides |= {"promoted": self.logits[0], "suppressed": self.logits[1]}
        named = [(f"{name} token", side) for name, side in sides.items()]
        named += [(f"source {layer}/", side) for layer, side in self.sources.items()]
        found: dict[int, list[str]] = {}
        for name, side in named:
            for feature, index, z in side.close:
                what = f"{name}{index}" if name.endswith("/") else f"{name} {index}"
                found.setdefault(feature, []).append(f"{what} (z {z:.6f})")
        return found


@dataclass(frozen=True)
class Thresholds:
    """In sample deviations of a pool; an entry must lie beyond, not at, its threshold."""

    tokens: float
    features: float


def search(
    model: ModelWeights,
    source: TranscoderSource,
    layer: int,
    thresholds: Thresholds,
    device: torch.device | str = "cpu",
) -> Found:
    """All outliers of one layer.

    Raises :class:`atlas.errors.BadModel` for fewer tokens, :class:`atlas.errors.BadTranscoder` for fewer features
    than a pool.
    """
    if model.n_vocab < TOKEN_POOL:
        raise BadModel(
            f"{model.name} has {model.n_vocab} tokens, but WeightLens compares pools of {TOKEN_POOL}; use "
            "--preset atlas"
        )
    transcoder = source.load(layer)
    embedding = (model.embedding * model.embedding_scale).to(device)
    encoder, decoder = transcoder.w_enc.to(device), transcoder.w_dec.to(device)
    highest, lowest, sums = _sides(encoder, embedding, TOKEN_POOL, thresholds.tokens)
    promoted, suppressed, _ = _sides(decoder, model.unembedding.to(device), TOKEN_POOL, thresholds.tokens)
    sources = {}
    for earlier in (one for one in source.info.layers if one < layer):
        writes = source.load(earlier).w_dec.to(device)
        if len(writes) < FEATURE_POOL:
            raise BadTranscoder(
                f"layer {earlier} has {len(writes)} features, but WeightLens compares pools of {FEATURE_POOL}; "
                "use --preset atlas"
            )
        sources[earlier], _, added = _sides(encoder, writes, FEATURE_POOL, thresholds.features)
        sums = sums + added
    return Found(layer, (highest, lowest), (promoted, suppressed), sources, sums)


def _sides(
    rows: Float[Tensor, "n_features d_model"], against: Float[Tensor, "n d_model"], pool: int, threshold: float
) -> tuple[Outliers, Outliers, np.ndarray]:
    """Outliers of each row's largest and smallest scores, and each row's sum of absolute scores."""
    highest, lowest, sums, first = [], [], [], 0
    for tile in _tiles(rows, len(against)):
        scores = tile @ against.T
        sums.append(scores.abs().sum(dim=1).double().cpu().numpy())
        for kept, largest in ((highest, True), (lowest, False)):
            values, indices = scores.topk(pool, dim=1, largest=largest, sorted=True)
            z = (values - values.mean(dim=1, keepdim=True)) / values.std(dim=1, keepdim=True)
            out = z > threshold if largest else z < -threshold
            near = ((z if largest else -z) - threshold).abs() < CLOSE
            close = [column.tolist() for column in (near.nonzero()[:, 0] + first, indices[near], z[near])]
            counts = out.sum(dim=1).cpu().numpy()
            kept.append((counts, indices[out].cpu().numpy(), values[out].cpu().numpy(), zip(*close, strict=True)))
        first += len(tile)
    return _joined(highest), _joined(lowest), np.concatenate(sums)


def _tiles(rows: Tensor, width: int) -> Iterator[Tensor]:
    return iter(rows.split(max(1, _CELLS // width)))


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, Iterable[tuple[int, int, float]]]]) -> Outliers:
    counts, indices, scores, close = zip(*parts, strict=True)
    start = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    kept = np.concatenate(indices).astype(np.int64), np.concatenate(scores).astype(np.float32)
    return Outliers(start, *kept, [entry for some in close for entry in some])
