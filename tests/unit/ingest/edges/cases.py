"""Vectors that try an engine: random ones, and every kind that has ties, zeros or extremes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ingest.edges import Group, Keep, Pool, Result, Rules, compute, spread
from ingest.edges.tiles import Floors

SMALL = Keep(per_layer=2, z=4, tokens=3, features_per_token=5)
N_ROWS, N_COLS, D = 37, (29, 53, 3), 17


@dataclass(frozen=True)
class Case:
    """Rows, and groups of columns."""

    name: str
    rows: np.ndarray
    groups: list[np.ndarray]

    def __str__(self) -> str:
        return self.name


def random(n_rows: int = N_ROWS, n_cols: Sequence[int] = N_COLS, d: int = D, seed: int = 0) -> Case:
    """Gaussian; groups differ in scale and mean, as layers do."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_rows, d)).astype(np.float32)
    groups = [
        (rng.standard_normal((n, d)) * (g + 1) + rng.standard_normal(d) / 2).astype(np.float32)
        for g, n in enumerate(n_cols)
    ]
    return Case("random", rows, groups)


def adversarial() -> list[Case]:
    rng = np.random.default_rng(7)
    base = random()
    whole = [rng.integers(-2, 3, group.shape).astype(np.float32) for group in base.groups]
    integers = rng.integers(-2, 3, base.rows.shape).astype(np.float32)
    sparse = [group * (rng.random(group.shape) < 0.1) for group in whole]
    huge = [base.groups[0] * np.where(np.arange(29) == 5, 1e6, 1)[:, None].astype(np.float32), *base.groups[1:]]
    gone = base.rows.copy()
    gone[3] = gone[11] = 0
    twice = [np.concatenate([group, group]) for group in base.groups]
    return [
        base,
        Case("all equal", np.ones_like(base.rows), [np.ones_like(group) for group in base.groups]),
        Case("equal rows", np.repeat(base.rows[:1], N_ROWS, axis=0), base.groups),
        Case("all zero", np.zeros_like(base.rows), base.groups),
        Case("zero columns", base.rows, [base.groups[0], np.zeros_like(base.groups[1]), base.groups[2]]),
        Case("zero rows", gone, base.groups),
        Case("one huge column", base.rows, huge),
        Case("one huge row", base.rows * np.where(np.arange(N_ROWS) == 4, 1e8, 1)[:, None].astype(np.float32), whole),
        Case("denormal", base.rows * np.float32(1e-23), [group * np.float32(1e-20) for group in base.groups]),
        Case("denormal entries", base.rows * np.float32(1e-39), base.groups),
        Case("duplicates", np.concatenate([base.rows, base.rows]), twice),
        Case("integers with ties", integers, whole),
        Case("mostly exact zeros", integers, sparse),
        Case("one feature", base.rows[:1], [group[:1] for group in base.groups]),
        Case("no columns", base.rows, [base.groups[0][:0], base.groups[1]]),
        Case("opposite signs", base.rows, [np.concatenate([group, -group]) for group in base.groups]),
        Case("large mean", base.rows + 5, [group + 5 for group in base.groups]),
    ]


def found(
    case: Case,
    rules: Rules,
    *,
    threads: int = 2,
    device: str = "cpu",
    tile: tuple[int, int] | None = None,
    floors: Sequence[Floors] | None = None,
) -> Result:
    """What the engine finds of a case."""
    starts = np.cumsum([0, *(len(group) for group in case.groups)])
    with Pool(threads) as pool:
        groups = []
        for start, vectors in zip(starts, map(torch.from_numpy, case.groups), strict=False):
            groups.append(Group(int(start), vectors, spread(vectors, pool)))
        return compute(torch.from_numpy(case.rows), 0, groups, rules, pool, device=device, tile=tile, floors=floors)


def pairs(result: Result) -> dict[tuple[int, int], float]:
    return {
        (row, col): weight
        for row, col, weight in zip(result.row.tolist(), result.col.tolist(), result.weight.tolist(), strict=True)
    }
