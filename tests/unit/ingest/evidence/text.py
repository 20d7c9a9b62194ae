"""A random "text" that was already read: what fires where, dense, and the same as batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingest.evidence.capture import Batch
from ingest.evidence.counting import Shape, Sums

SIZES = (7, 11, 5)
N_VOCAB, N_EXAMPLES = 13, 3
FIRST = np.cumsum([0, *SIZES])


@dataclass(frozen=True)
class Text:
    """Activations [n_positions, n_features], and where each position stands."""

    activations: np.ndarray
    token: np.ndarray
    window: np.ndarray
    position: np.ndarray

    @property
    def shape(self) -> Shape:
        return Shape(FIRST, N_VOCAB, N_EXAMPLES)

    def batch(self, first_window: int, last_window: int) -> Batch:
        """Some whole windows."""
        at = (self.window >= first_window) & (self.window < last_window)
        active = self.activations[at]
        row, feature = np.nonzero(active)
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(active)))])
        return Batch(
            window=self.window[at],
            position=self.position[at].astype(np.int32),
            token=self.token[at].astype(np.int32),
            start=start,
            feature=feature.astype(np.int32),
            value=active[row, feature].astype(np.float32),
            inverse={},
        )

    def sums(self, cuts: list[int], block: range | None = None) -> Sums:
        """The text counted in batches that end at windows ``cuts``."""
        found = Sums(self.shape, block or range(int(FIRST[-1])))
        for first, last in zip([0, *cuts[:-1]], cuts, strict=True):
            found.add(self.batch(first, last))
        return found


def random_text(n_windows: int = 23, length: int = 9, seed: int = 0) -> Text:
    rng = np.random.default_rng(seed)
    n, f = n_windows * length, int(FIRST[-1])
    density = rng.uniform(0, 0.6, f)
    density[[2, 9]] = 0  # two that never fire
    active = rng.random((n, f)) < density
    activations = np.where(active, rng.gamma(1.5, 1.0, (n, f)), 0).astype(np.float32)
    return Text(
        activations,
        rng.integers(0, N_VOCAB - 2, n),  # two tokens that never occur
        np.repeat(np.arange(n_windows), length),
        np.tile(np.arange(1, length + 1), n_windows),
    )
