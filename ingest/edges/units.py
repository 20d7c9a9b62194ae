"""One unit of work: a block of rows of one kind of relationship against everything they meet.

===========  ==============================  =========================================  =========================
kind         rows                            columns                                    groups of columns
===========  ==============================  =========================================  =========================
ACTIVATES    what features of a layer read   what tokens write                          one: the vocabulary
FEEDS        what features of a layer read   what features of earlier layers write      one for each source layer
PROMOTES     what features of a layer write  what logits read                           one: the vocabulary
logits       what logits read                what tokens write                          one; only sums are taken
===========  ==============================  =========================================  =========================

What a row's own rules keep is settled here. What a column's rules keep (the strongest a feature feeds, the features a
token excites most) depends on other units too: a unit hands out its best candidates of every column, and
:mod:`ingest.edges.merging` decides among all units'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from ingest.edges import kernels
from ingest.edges.moments import Spread, moments
from ingest.edges.pool import Pool
from ingest.edges.tiles import Floors, Found, NotFinite, Product, Wanted, scan


@dataclass(frozen=True)
class Keep:
    """How many of the strongest relationships are kept; ``--keep-...`` on the command line."""

    per_layer: int = 6
    """FEEDS by abs(weight): in to each feature from each source layer, and out of each to each target layer"""
    z: int = 16
    """FEEDS by abs(z): in to each feature, and out of each, over all layers"""
    tokens: int = 10
    """ACTIVATES and PROMOTES of each feature by weight: positive, and as many negative"""
    features_per_token: int = 32
    """for each token by abs(weight): the features it excites most, and those that promote it most"""
    heads: int = 0
    """*_VIA by abs(weight): of each target and of each source through each head; PREDICTS of each token; 0 for none"""
    exact_sums: bool = False
    """whether the sums behind shares are float32's on an accelerator too (:mod:`ingest.edges.precision`)"""

    @property
    def said(self) -> dict[str, int]:
        """What is kept, by name; without what was not asked for."""
        return {name: count for name, count in vars(self).items() if name not in ("heads", "exact_sums") or count}


@dataclass(frozen=True)
class Rules:
    """What one kind keeps, by the orders of :class:`ingest.edges.tiles.Wanted`."""

    row: tuple[tuple[str, int], ...] = ()
    """of each row within one group of columns"""
    row_z: int | None = None
    """of each row by abs(z) over all groups"""
    col: tuple[tuple[str, int], ...] = ()
    """of each column; over which units is for the merge to say"""
    min_z: float | None = None
    exact_sums: bool = False

    @property
    def wanted(self) -> Wanted:
        """One more of each order than is kept: the next one is the cut."""
        more = {f"row_{order}": n + 1 for order, n in self.row} | {f"col_{order}": n + 1 for order, n in self.col}
        if self.row_z is not None:
            more["row_z"] = self.row_z + 1
        return Wanted(**more, min_z=self.min_z, exact_sums=self.exact_sums)


def rules(kind: str, keep: Keep, min_z: float | None = None) -> Rules:
    """The rules of one kind of relationship."""
    if kind == "FEEDS":
        by_column = ("abs", keep.per_layer), ("z", keep.z)
        return Rules((("abs", keep.per_layer),), keep.z, by_column, min_z, keep.exact_sums)
    if kind == "logits":
        return Rules(exact_sums=keep.exact_sums)
    by_row = ("pos", keep.tokens), ("neg", keep.tokens)
    return Rules(by_row, None, (("abs", keep.features_per_token),), min_z, keep.exact_sums)


@dataclass(frozen=True)
class Group:
    """Columns of one origin: the vocabulary, or the features of one layer."""

    first: int
    """row number of the first in its node file"""
    vectors: Float32[Tensor, "n_cols d_model"]
    spread: Spread | None = None
    """None where no mean and deviation are wanted"""


@dataclass
class Candidates:
    """The best of each column in one unit, in the order of (column, row)."""

    col: np.ndarray
    """within its group"""
    row: np.ndarray
    """row number in its node file"""
    weight: np.ndarray
    z: np.ndarray


@dataclass
class Result:
    """What one unit found. Statistics are float64 [n_rows, n_groups]; cuts float32, of abs(weight) or abs(z)."""

    row: np.ndarray
    """row number in its node file, ascending, then by ``col``, alike"""
    col: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    l1: np.ndarray
    cuts: dict[str, np.ndarray] = field(default_factory=dict)
    """[n_rows, n_groups] by order; for ``z`` [n_rows]"""
    col_l1: list[np.ndarray] = field(default_factory=list)
    """of each column over this unit's rows, a group each"""
    candidates: list[Candidates] = field(default_factory=list)
    floors: list[Floors] = field(default_factory=list)
    """what each column has reached in this unit: a later unit needs no candidate below"""

    @classmethod
    def empty(cls) -> Result:
        none, nothing = np.empty(0, np.int32), np.empty((0, 0))
        return cls(none, none, np.empty(0, np.float32), nothing, nothing, nothing)


def compute(
    rows: Float32[Tensor, "n_rows d_model"],
    first_row: int,
    groups: Iterable[Group],
    rules: Rules,
    pool: Pool,
    *,
    floors: Sequence[Floors] | None = None,
    device: str = "cpu",
    tile: tuple[int, int] | None = None,
    tick: Callable[[int], None] | None = None,
    spill: Callable[[int, Candidates], None] | None = None,
) -> Result:
    """Compute one unit.

    ``groups`` are taken one at a time, so that no more than one need be in memory. ``floors``, a group each, may spare
    candidates that an earlier unit has beaten. ``tick`` is told the number of products done since it was last called.
    ``spill`` is given each group's candidates in place of the result, which then grows with the rows alone.
    """
    n = len(rows)
    result = Result.empty()
    statistics: list[tuple[np.ndarray, ...]] = []
    cuts: dict[str, list[np.ndarray]] = {order: [] for order, _ in rules.row}
    best = _BestOfRows(n, rules.row_z)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for g, group in enumerate(groups):
        mean, std = np.zeros(n), np.zeros(n)
        if group.spread is not None:
            mean, std = moments(rows, group.vectors, group.spread, pool, device)
        known = replace(floors[g] if floors else Floors(), row_z=best.floor)
        try:
            product = Product(rows, group.vectors, mean, std)
        except NotFinite as error:
            error.group = g
            raise
        found = scan(product, rules.wanted, pool, floors=known, device=device, tile=tile)
        statistics.append((mean, std, found.row_l1))
        result.col_l1.append(found.col_l1)
        keep = np.zeros(len(found.col), bool)
        for order, count in rules.row:
            cuts[order].append(_strongest(found.ptr, np.arange(len(keep)), _score(order, found), count, keep))
        if rules.min_z is not None:
            keep |= np.abs(found.z) >= np.float32(rules.min_z)
        row, col = found.row, found.col + np.int32(group.first)
        best.add(found, row, col, keep)
        kept.append((row[keep], col[keep], found.weight[keep]))
        candidates, floor = _best_of_columns(found, first_row, len(group.vectors), rules)
        result.floors.append(floor)
        if spill:
            spill(g, candidates)
        else:
            result.candidates.append(candidates)
        if tick:
            tick(n * len(group.vectors))
    result.mean, result.std, result.l1 = (np.stack(columns, axis=1) for columns in zip(*statistics, strict=True))
    result.cuts = {order: np.stack(columns, axis=1) for order, columns in cuts.items()}
    if rules.row_z is not None:
        more, result.cuts["z"] = best.settle()
        kept.append(more)
        if rules.min_z is not None:
            result.cuts["z"] = np.minimum(result.cuts["z"], np.float32(rules.min_z))
    row, col, weight = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    order = np.argsort((row.astype(np.int64) << 32) | col, kind="stable")  # few sorted runs, which it merges
    result.row, result.col, result.weight = row[order] + np.int32(first_row), col[order], weight[order]
    return result


class _BestOfRows:
    """The strongest of each row by abs(z) over all groups; one more than the count, which is the cut."""

    def __init__(self, n_rows: int, count: int | None) -> None:
        self.count, self.n_rows = count, n_rows
        self.floor = None if count is None else np.zeros(n_rows, np.float32)
        self._held = tuple(np.empty(0, dtype) for dtype in (np.int32, np.int32, np.float32, np.float32, np.bool_))

    def add(self, found: Found, row: np.ndarray, col: np.ndarray, kept: np.ndarray) -> None:
        """Take in a group's pairs; ``kept``: those that another rule keeps."""
        if self.count is None:
            return
        size, ours = np.abs(found.z), np.zeros(len(found.z), bool)
        _strongest(found.ptr, np.arange(len(size)), size, self.count + 1, ours)
        new = (row[ours], col[ours], found.weight[ours], size[ours], kept[ours])
        self._held = tuple(np.concatenate(columns) for columns in zip(self._held, new, strict=True))
        _, self.floor = self._best(self.count)
        keep, _ = self._best(self.count + 1)
        self._held = tuple(column[keep] for column in self._held)

    def settle(self) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """Row, column and weight of what no other rule keeps, and the cuts."""
        assert self.count is not None
        keep, cut = self._best(self.count)
        row, col, weight, _, kept = (column[keep] for column in self._held)
        more = np.logical_not(kept)
        return (row[more], col[more], weight[more]), cut

    def _best(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        row, _, _, size, _ = self._held
        ptr, member = kernels.by_group(row, self.n_rows)
        keep = np.zeros(len(row), bool)
        return keep, _strongest(ptr, member, size, count, keep)


def _best_of_columns(found: Found, first_row: int, n_cols: int, rules: Rules) -> tuple[Candidates, Floors]:
    ptr, member = kernels.by_group(found.col, n_cols)
    ours = np.zeros(len(found.col), bool)
    reached = {}
    for order, count in rules.col:
        size = _score(order, found)
        reached[f"col_{order}"] = _strongest(ptr, member, size, count, ours)
        _strongest(ptr, member, size, count + 1, ours)
    place = member[ours[member]]
    row = found.row[place] + np.int32(first_row)
    return Candidates(found.col[place], row, found.weight[place], found.z[place]), Floors(**reached)


def _strongest(ptr: np.ndarray, member: np.ndarray, score: np.ndarray, count: int, keep: np.ndarray) -> np.ndarray:
    """Set ``keep`` where a pair is among the strongest of its group; returns the largest score that is not, each."""
    cut = np.zeros(len(ptr) - 1, np.float32)
    kernels.strongest(ptr, member, score, count, keep, cut)
    return cut


def _score(order: str, found: Found) -> np.ndarray:
    if order == "neg":
        return -found.weight
    return found.weight if order == "pos" else np.abs(found.z if order == "z" else found.weight)
