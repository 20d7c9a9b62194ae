"""Sums over positions for kept edges through heads: what each head brings of each source to each firing of a target.

An edge is visited where its target fires, and reads its source's firings before that off the window, each with what
the head's pattern gives it. Nothing is kept but sums, float64, three an edge and two for each head and source; they see
positions in the order of the text whatever the batches and threads, so any division gives the same bits. Patterns are
taken in float32. What the sums mean says :mod:`ingest.evidence.through`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
from jaxtyping import Float, Int

from atlas.staging import Build
from atlas.through import VIA, file_name
from ingest.evidence.capture import Batch

_FEATURES, _TOKENS = "feeds", "activates"
KINDS = {"FEEDS_VIA": _FEATURES, "ACTIVATES_VIA": _TOKENS}
"""kinds whose edges have sums of their own, and what those are called"""
_EDGE_BYTES = 28
"""three sums and a source"""
List = tuple[np.ndarray, np.ndarray, np.ndarray]
"""where each source's firings begin, at which counted positions they are, and how strong: int64, int32, float32"""


@dataclass(frozen=True, order=True)
class Head:
    layer: int
    number: int

    @property
    def file(self) -> str:
        """What its files are called."""
        return file_name(self.layer, self.number)


def heads_of(build: Build) -> list[Head]:
    """Every head that has a file of edges."""
    stems = {name.rpartition("/")[2].removesuffix(".parquet") for kind in VIA for name in build.edge_files(kind)}
    return sorted(Head(int(stem[1:5]), int(stem[6:])) for stem in stems)


def rows(build: Build, kind: str, head: Head) -> int:
    """Kept edges of one kind through one head."""
    return build.manifest["files"].get(f"edges/{kind}/{head.file}.parquet", {"rows": 0})["rows"]


def head_bytes(build: Build, head: Head) -> int:
    """Memory of one head's sums."""
    edges = sum(rows(build, kind, head) for kind in KINDS)
    return edges * _EDGE_BYTES + build.n_features * 32 + build.n_tokens * 8


def groups(build: Build, memory: int, finished: int = 0) -> list[list[Head]]:
    """All heads but the first ``finished`` in groups whose sums take at most ``memory`` bytes, of one head at least."""
    found: list[list[Head]] = []
    used = 0
    for head in heads_of(build)[finished:]:
        size = head_bytes(build, head)
        if not found or used + size > memory:
            found.append([])
            used = 0
        found[-1].append(head)
        used += size
    return found


class Part:
    """What fired in some whole windows, by position, by feature and by token; windows as rows of a pattern, of which
    the first is ``first``."""

    def __init__(self, batch: Batch, first: int, n_features: int, n_vocab: int) -> None:
        n = len(batch.token)
        self.row = batch.window.astype(np.int64) - first
        self.column = batch.position.astype(np.int64)
        begins = np.searchsorted(batch.window, batch.window)
        self.begins: Int[np.ndarray, " n"] = begins.astype(np.int64)
        """the first counted position of each position's window"""
        at = np.repeat(np.arange(n, dtype=np.int32), np.diff(batch.start))
        order = np.argsort(batch.feature, kind="stable")
        self.features: List = _starts(batch.feature, n_features), at[order], batch.value[order]
        order = np.argsort(batch.token, kind="stable").astype(np.int32)
        self.tokens: List = _starts(batch.token, n_vocab), order, np.ones(n, np.float32)


class AttendedSums:
    """The sums of one group of heads. Everything that grows is in :attr:`arrays`, saved and restored as it is."""

    def __init__(self, build: Build, group: list[Head], n_layers: int) -> None:
        self.group, self.n_features, self.n_vocab = group, build.n_features, build.n_tokens
        self.sources: dict[str, np.ndarray] = {}
        self.pointers: dict[str, Int[np.ndarray, "n_heads n_features_plus_1"]] = {}
        """where each target's edges through each head begin among all edges of the kind in the group"""
        n, zeros = len(group), np.zeros
        self.arrays = {
            "in": zeros(n_layers),
            "out": zeros(n_layers),
            "mass": zeros((n, self.n_features)),  # attention to the source's firings, over all counted positions
            "brought": zeros((n, self.n_features)),  # the same times the source's activation
            "mass_token": zeros((n, self.n_vocab)),
        }
        for kind, name in KINDS.items():
            sources, pointers, first = [np.empty(0, np.int32)], [], 0
            for head in group:
                file = f"edges/{kind}/{head.file}.parquet"
                target = np.empty(0, np.int32)
                if file in build.manifest["files"]:
                    edges = build.read(file, build.edge_columns)
                    sources.append(edges["source"].to_numpy())
                    target = edges["target"].to_numpy()
                pointers.append(first + np.searchsorted(target, np.arange(self.n_features + 1)))
                first += len(target)
            self.sources[name], self.pointers[name] = np.concatenate(sources), np.stack(pointers).astype(np.int64)
            for sum_ in ("attended", "active", "product"):
                self.arrays[f"{name}_{sum_}"] = zeros(first)

    @cached_property
    def layers(self) -> dict[int, slice]:
        """Which heads of the group are of each layer."""
        of = np.array([head.layer for head in self.group])
        return {int(layer): slice(*np.searchsorted(of, [layer, layer + 1]).tolist()) for layer in np.unique(of)}

    def numbers(self, layer: int) -> list[int]:
        """Numbers of the group's heads of one layer."""
        return [head.number for head in self.group[self.layers[layer]]]

    def scaled(self, name: str, layer: int, inverse: Float[np.ndarray, " n"]) -> None:
        """Add 1 / sigma at some positions, in order: ``in`` before a layer's attention, ``out`` behind it."""
        total = self.arrays[name]
        total[layer] = np.cumsum(np.concatenate([total[[layer]], inverse]))[-1]

    def add(self, layer: int, pattern: Float[np.ndarray, "windows n_heads length length"], part: Part) -> None:
        """Count some whole windows, which come in the order of the text. ``pattern``: of :meth:`numbers`, float32."""
        if not len(part.row):
            return
        heads, a = self.layers[layer], self.arrays
        seen = np.zeros((pattern.shape[1], len(part.row)))
        _seen(pattern, part.row, part.column, part.begins, seen)
        _sources(seen, *part.features, a["mass"][heads], a["brought"][heads])
        _sources(seen, *part.tokens, a["mass_token"][heads], np.empty((0, 0)))
        order = np.concatenate([np.arange(i, self.n_features, 64) for i in range(64)])  # every thread meets every layer
        for name, firings in ((_FEATURES, part.features), (_TOKENS, part.tokens)):
            _edges(
                order, pattern, part.row, part.column, part.begins, *part.features, *firings,
                self.pointers[name][heads], self.sources[name],
                *(a[f"{name}_{sum_}"] for sum_ in ("attended", "active", "product")),
            )  # fmt: skip

    def of(self, kind: str, head: int) -> tuple[np.ndarray, ...]:
        """Sums of a head's edges of one kind, in the order of their file: attention to the source's firings where the
        target is active, what it brings there, and that times the target's activation."""
        name = KINDS[kind]
        span = slice(*self.pointers[name][head, [0, -1]].tolist())
        return tuple(self.arrays[f"{name}_{sum_}"][span] for sum_ in ("attended", "active", "product"))


def _starts(values: Int[np.ndarray, " n"], size: int) -> Int[np.ndarray, " size_plus_1"]:
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=size))]).astype(np.int64)


@numba.njit(parallel=True, cache=True)
def _seen(pattern, row, column, begins, seen):
    """How much all counted positions of its window attend to each counted position, by head."""
    n = len(row)
    for h in numba.prange(seen.shape[0]):
        for t in range(n):
            for s in range(begins[t], t + 1):
                seen[h, s] += np.float64(pattern[row[t], h, column[t], column[s]])


@numba.njit(parallel=True, cache=True)
def _sources(seen, start, at, value, mass, brought):
    for i in numba.prange(len(start) - 1):
        for h in range(seen.shape[0]):
            for k in range(start[i], start[i + 1]):
                mass[h, i] += seen[h, at[k]]
                if brought.size:
                    brought[h, i] += seen[h, at[k]] * np.float64(value[k])


@numba.njit(parallel=True, cache=True)
def _edges(
    order, pattern, row, column, begins, t_start, t_at, t_value, s_start, s_at, s_value, pointers, sources, attended,
    active, product,
):  # fmt: skip
    for k in numba.prange(len(order)):
        target = order[k]
        first, last = t_start[target], t_start[target + 1]
        if first == last:
            continue
        for h in range(pointers.shape[0]):
            for e in range(pointers[h, target], pointers[h, target + 1]):
                near, end = s_start[sources[e]], s_start[sources[e] + 1]
                if near == end:
                    continue
                total, brought, together = attended[e], active[e], product[e]
                for i in range(first, last):
                    t = t_at[i]
                    while near < end and s_at[near] < begins[t]:
                        near += 1
                    mass, b = 0.0, 0.0
                    j = near
                    while j < end and s_at[j] <= t:
                        weight = np.float64(pattern[row[t], h, column[t], column[s_at[j]]])
                        mass += weight
                        b += weight * np.float64(s_value[j])
                        j += 1
                    total += mass
                    brought += b
                    together += b * np.float64(t_value[i])
                attended[e], active[e], product[e] = total, brought, together
