"""The weights of the toy atlas, dense, with their statistics: the slow and obvious way, in float64.

What the units and deviations mean is said in :mod:`atlas.schema`; nothing here imports it.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np

WeightedRow = tuple[int, int, float, float, float]
"""Source and target by row number, weight, z, share."""


class Weights:
    """Dense random weights, their statistics, and what is kept of them."""

    def __init__(
        self,
        rng: np.random.Generator,
        sizes: tuple[int, ...],
        n_tokens: int,
        density: float,
        copied: tuple[int, tuple[float, ...]] | None = None,
    ) -> None:
        n_features = sum(sizes)
        self.first = np.concatenate([[0], np.cumsum(sizes)])
        self.layer = np.repeat(np.arange(len(sizes)), sizes)
        self.activates = _weights(rng, (n_tokens, n_features))
        promotes = _weights(rng, (n_features, n_tokens))
        order = np.arange(n_features)
        if copied:
            order = within_layers(sizes, copied[0])
            other, noise = np.random.default_rng(copied[0] + 1), np.repeat(copied[1], sizes)
            self.activates = _noisy(other, self.activates[:, order], noise[None, :])
            promotes = _noisy(other, promotes[order], noise[:, None])
        self.promotes = promotes - promotes.mean(axis=1, keepdims=True)  # logits are centred over the vocabulary
        self.feeds = _weights(rng, (n_features, n_features))[np.ix_(order, order)] * (
            self.layer[:, None] < self.layer[None, :]
        )
        # Sources of different layers have different scales in real models; so they do here.
        self.feeds = (self.feeds * np.exp(-self.layer)[:, None]).astype(np.float32)
        self.norms = rng.uniform(0.5, 2.0, (5, n_features)).astype(np.float32)
        self.direct = rng.uniform(1.0, 9.0, n_tokens)

        self.keeps_activates = _strongest(self.activates, density)
        self.keeps_promotes = _strongest(self.promotes, density)
        self.keeps_feeds = np.zeros(self.feeds.shape, bool)
        self.feeds_z = np.zeros(self.feeds.shape)
        self.feeds_moments: dict[tuple[int, int], tuple[float, float, float]] = {}  # (target, source layer)
        for span in self.spans:
            for target_span in self.spans:
                if span.start < target_span.start:
                    self.keeps_feeds[span, target_span] = _strongest(self.feeds[span, target_span], density)
            for target in range(span.stop, n_features):
                column = self.feeds[span, target].astype(np.float64)
                moments = float(column.mean()), float(column.std()), float(np.abs(column).sum())
                self.feeds_moments[target, int(self.layer[span.start])] = moments
                self.feeds_z[span, target] = (column - moments[0]) / moments[1] if moments[1] > 0 else 0

        self.into_features = np.abs(self.activates.astype(np.float64)).sum(axis=0)
        for (target, _), (_, _, l1) in sorted(self.feeds_moments.items()):
            self.into_features[target] += l1
        self.into_logits = self.direct + np.abs(self.promotes.astype(np.float64)).sum(axis=0)

    @property
    def spans(self) -> list[slice]:
        """Rows of each layer."""
        return [slice(int(start), int(stop)) for start, stop in pairwise(self.first)]

    @property
    def activates_moments(self) -> np.ndarray:
        """Mean, deviation and L1 of the weights from all tokens; float64 [3, n_features]."""
        return _moments(self.activates, axis=0)

    @property
    def promotes_moments(self) -> np.ndarray:
        """Mean, deviation and L1 of the weights to all logits; float64 [3, n_features]."""
        return _moments(self.promotes, axis=1)

    @cached_property
    def edges(self) -> dict[str, list[WeightedRow]]:
        mean, std, _ = self.activates_moments
        activates_z = _z(self.activates, mean[None, :], std[None, :])
        mean, std, _ = self.promotes_moments
        promotes_z = _z(self.promotes, mean[:, None], std[:, None])
        return {
            "ACTIVATES": _rows(self.activates, activates_z, self.into_features, self.keeps_activates),
            "FEEDS": _rows(self.feeds, self.feeds_z, self.into_features, self.keeps_feeds),
            "PROMOTES": sorted(_rows(self.promotes, promotes_z, self.into_logits, self.keeps_promotes)),
        }


def within_layers(sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """The features of each layer in another order: the old number of each new one; int64 [n_features]."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([[0], np.cumsum(sizes)])
    return np.concatenate([start + rng.permutation(size) for start, size in zip(first, sizes, strict=False)])


def _noisy(rng: np.random.Generator, weights: np.ndarray, noise: np.ndarray) -> np.ndarray:
    added = weights + noise * rng.normal(size=weights.shape).astype(np.float32)
    return np.where(weights == 0, 0, added).astype(np.float32)


def _weights(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    weights = rng.normal(0.1, 1.0, shape).astype(np.float32)
    weights[rng.random(shape) < 0.03] = 0  # exact zeros are no edges
    return weights


def _strongest(weights: np.ndarray, density: float) -> np.ndarray:
    """Which weights are among the strongest of their row or of their column; never a zero."""
    strength = np.abs(weights)
    keeps = np.zeros(weights.shape, bool)
    for axis in (0, 1):
        count = int(np.ceil(density * weights.shape[axis]))
        strongest = np.argsort(-strength, axis=axis, kind="stable").take(range(count), axis=axis)
        np.put_along_axis(keeps, strongest, True, axis=axis)
    return keeps & (weights != 0)


def _moments(weights: np.ndarray, axis: int) -> np.ndarray:
    wide = weights.astype(np.float64)
    return np.stack([wide.mean(axis), wide.std(axis), np.abs(wide).sum(axis)])


def _z(weights: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.where(std > 0, (weights.astype(np.float64) - mean) / np.where(std > 0, std, 1), 0)


def _rows(weights: np.ndarray, z: np.ndarray, total: np.ndarray, keeps: np.ndarray) -> list[WeightedRow]:
    """Kept edges, sorted by (target, source); numbers as the float32 that is stored."""
    target, source = np.nonzero(keeps.T)
    weight = weights[source, target]
    share = np.abs(weight.astype(np.float64)) / total[target]
    columns = source, target, weight, z[source, target].astype(np.float32), share.astype(np.float32)
    return list(zip(*(column.tolist() for column in columns), strict=True))
