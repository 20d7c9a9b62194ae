"""What one unit must find, the slow and obvious way: all weights in float64, sorted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ingest.edges.units import Result, Rules
from tests.unit.ingest.edges.cases import Case, pairs

Pair = tuple[int, int]


@dataclass
class Truth:
    """Dense weights of a block of rows with groups of columns, and what the rules keep of them."""

    weights: list[np.ndarray]
    """float64, unrounded"""
    kept: dict[Pair, float] = field(default_factory=dict)
    """(row, column counted over all groups) -> weight, float32"""
    cuts: dict[str, np.ndarray] = field(default_factory=dict)
    candidates: list[dict[str, set[Pair]]] = field(default_factory=list)
    """by group and order: the pairs that each column's rule keeps"""

    @property
    def stored(self) -> list[np.ndarray]:
        return [w.astype(np.float32) for w in self.weights]

    def mean(self) -> np.ndarray:
        return np.stack([w.sum(axis=1) / max(w.shape[1], 1) for w in self.weights], axis=1)

    def std(self) -> np.ndarray:
        """0 where all weights of a row are equal but for rounding."""
        away = [w - mean[:, None] for w, mean in zip(self.weights, self.mean().T, strict=True)]
        std = np.stack([np.sqrt((a * a).sum(axis=1) / max(a.shape[1], 1)) for a in away], axis=1)
        largest = np.stack([np.abs(w).max(axis=1, initial=0) for w in self.weights], axis=1)
        return np.where(std > 1e-12 * largest, std, 0)

    def l1(self) -> np.ndarray:
        return np.stack([np.abs(w).sum(axis=1) for w in self.weights], axis=1)

    def z(self) -> list[np.ndarray]:
        found = []
        for g, w in enumerate(self.stored):
            mean, std = self.mean()[:, [g]], self.std()[:, [g]]
            z = np.divide(
                w.astype(np.float64) - mean, std, out=np.zeros(w.shape), where=np.broadcast_to(std > 0, w.shape)
            )
            found.append(np.abs(z).astype(np.float32))
        return found


def ranked(scores: np.ndarray, present: np.ndarray) -> list[int]:
    """Positions by score, the lower position first in a tie; only positive scores of weights that are not zero."""
    return [p for p in np.argsort(-scores, kind="stable").tolist() if scores[p] > 0 and present[p]]


def truth(rows: np.ndarray, groups: list[np.ndarray], rules: Rules) -> Truth:
    """``rows`` [n_rows d_model] against each of ``groups`` [n_cols d_model]."""
    found = Truth([rows.astype(np.float64) @ cols.astype(np.float64).T for cols in groups])
    stored, zs = found.stored, found.z()
    offsets = np.concatenate([[0], np.cumsum([len(cols) for cols in groups])])
    scores = [{"abs": np.abs(w), "pos": w, "neg": -w, "z": z} for w, z in zip(stored, zs, strict=True)]

    def keep(r: int, g: int, c: int) -> None:
        found.kept[r, int(offsets[g]) + c] = float(stored[g][r, c])

    for order, n in rules.row:
        found.cuts[order] = np.zeros((len(rows), len(groups)), np.float32)
        for g, w in enumerate(stored):
            for r in range(len(rows)):
                best = ranked(scores[g][order][r], w[r] != 0)
                found.cuts[order][r, g] = scores[g][order][r, best[n]] if len(best) > n else 0
                for c in best[:n]:
                    keep(r, g, c)
    if rules.row_z is not None:
        found.cuts["z"] = np.zeros(len(rows), np.float32)
        for r in range(len(rows)):
            line, present = np.concatenate([z[r] for z in zs]), np.concatenate([w[r] for w in stored]) != 0
            best = ranked(line, present)
            found.cuts["z"][r] = line[best[rules.row_z]] if len(best) > rules.row_z else 0
            for p in best[: rules.row_z]:
                g = int(np.searchsorted(offsets, p, side="right")) - 1
                keep(r, g, p - int(offsets[g]))
        if rules.min_z is not None:
            found.cuts["z"] = np.minimum(found.cuts["z"], np.float32(rules.min_z))
    if rules.min_z is not None:
        for g, z in enumerate(zs):
            for r, c in np.argwhere((z >= np.float32(rules.min_z)) & (stored[g] != 0)).tolist():
                keep(r, g, c)
    for g, w in enumerate(stored):
        by_order = {}
        for order, n in rules.col:
            by_order[order] = {
                (r, c) for c in range(w.shape[1]) for r in ranked(scores[g][order][:, c], w[:, c] != 0)[:n]
            }
        found.candidates.append(by_order)
    return found


def assert_is_truth(
    result: Result, case: Case, wanted: Rules, *, sums: float = 1e-6, off: np.ndarray | float = 0.0
) -> None:
    """``sums``: how far off the sums may be, relative to all that was added; ``off``: besides, by row and group."""
    expected = truth(case.rows, case.groups, wanted)
    assert pairs(result) == expected.kept
    for order, cut in expected.cuts.items():
        np.testing.assert_allclose(result.cuts[order], cut, rtol=1e-6)
    for group, by_order in enumerate(expected.candidates):
        offered = set(zip(result.candidates[group].row.tolist(), result.candidates[group].col.tolist(), strict=True))
        for order, needed in by_order.items():
            assert needed <= offered, order
    reach = np.stack(
        [np.abs(case.rows.astype(float)) @ np.abs(group.astype(float)).T.sum(axis=1) for group in case.groups], axis=1
    )
    lost = 2.0**-126 * case.rows.shape[1] * np.array([len(group) for group in case.groups])  # below float32's range
    assert (np.abs(result.l1 - expected.l1()) <= sums * reach + off + lost).all()
    assert (np.abs(result.mean - expected.mean()) <= 1e-12 * reach).all()
    np.testing.assert_allclose(result.std, expected.std(), rtol=1e-6)
