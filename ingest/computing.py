"""Computing the units of a build that are not there yet, one after the other, each saved whole.

What a unit meets is made when its turn comes and let go after it (:func:`_group`), so memory holds one layer's vectors
beside the rows in hand; where an accelerator computes, the next is made meanwhile. What columns have reached in earlier
units goes along (:class:`Reached`): later ones need propose nothing below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.errors import AtlasError, BadModel, BadTranscoder
from ingest.edges import Group, Pool, ahead, compute, rules, spread
from ingest.edges.tiles import Floors, NotFinite
from ingest.parts import Parts, Unit
from ingest.plan import Sizes

if TYPE_CHECKING:
    from ingest.job import Job

Progress = Callable[[str, int, int], None]
_MILLION = 1_000_000


def compute_units(job: Job, units: list[Unit], sizes: Sizes, parts: Parts, pool: Pool, show: Progress) -> None:
    """Compute what is missing of ``units``, in their order."""
    total = -(-sum(unit.products for unit in units) // _MILLION)
    done = sum(unit.products for unit in units if parts.done(unit))
    reached = Reached()
    show("edges (million products)", done // _MILLION, total)

    def tick(products: int) -> None:
        nonlocal done
        done += products
        show("edges (million products)", min(total, -(-done // _MILLION)), total)

    for unit in units:
        if parts.done(unit):
            continue
        start = time.perf_counter()
        positions = _columns(unit)
        rows = _rows(job, unit, sizes)[unit.first : unit.last]
        first = unit.first + (0 if unit.kind == "logits" else sizes.first[unit.layer])
        groups = (_group(job, unit, position, sizes, parts, pool) for position in positions)
        with parts.writing(unit) as part:
            try:
                result = compute(
                    rows,
                    first,
                    groups if job.device == "cpu" else ahead(groups),
                    rules(unit.kind, job.keep, job.min_z),
                    pool,
                    floors=[reached.floors(unit, position) for position in positions],
                    device=job.device,
                    tick=tick,
                    spill=part.candidates,
                )
            except NotFinite as error:
                raise _not_finite(unit, error, sizes) from error
            part.result(result, time.perf_counter() - start)
        reached.note(unit, zip(positions, result.floors, strict=True))


class Reached:
    """What columns have reached so far, for the units in which the same rule goes on."""

    def __init__(self) -> None:
        self._abs: dict[tuple[str, int], tuple[int, np.ndarray]] = {}
        self._z: dict[tuple[str, int], np.ndarray] = {}

    def floors(self, unit: Unit, position: int) -> Floors:
        """``position``: of the group of columns."""
        layer, reached = self._abs.get((unit.kind, position), (unit.layer, None))
        return Floors(
            col_abs=reached if unit.kind != "FEEDS" or layer == unit.layer else None,
            col_z=self._z.get((unit.kind, position)),
        )

    def note(self, unit: Unit, found: Iterable[tuple[int, Floors]]) -> None:
        for position, floor in found:
            before, key = self.floors(unit, position), (unit.kind, position)
            if floor.col_abs is not None:
                self._abs[key] = (unit.layer, _higher(before.col_abs, floor.col_abs))
            if floor.col_z is not None:
                self._z[key] = _higher(before.col_z, floor.col_z)


def _higher(a: np.ndarray | None, b: np.ndarray) -> np.ndarray:
    return b if a is None else np.maximum(a, b)


def _columns(unit: Unit) -> list[int]:
    """The groups of columns that a unit meets: source layers by position, or the one vocabulary."""
    return list(range(unit.layer)) if unit.kind == "FEEDS" else [0]


def _rows(job: Job, unit: Unit, sizes: Sizes) -> torch.Tensor:
    if unit.kind == "logits":
        return job.vectors.logit_reads()
    layer = sizes.layers[unit.layer]
    return job.vectors.writes(layer) if unit.kind == "PROMOTES" else job.vectors.reads(layer)


def _group(job: Job, unit: Unit, position: int, sizes: Sizes, parts: Parts, pool: Pool) -> Group:
    if unit.kind == "FEEDS":
        target = sizes.layers[unit.layer]
        vectors, first = job.vectors.writes(sizes.layers[position], target), sizes.first[position]
        name = f"{position:03}-{target:03}" if job.vectors.varies else f"{position:03}"
    elif unit.kind == "PROMOTES":
        vectors, first, name = job.vectors.logit_reads(), 0, "logits"
    else:
        target = sizes.layers[unit.layer] if unit.kind == "ACTIVATES" else None
        vectors, first, name = job.vectors.token_writes(target), 0, "tokens"
        if job.vectors.with_skips and target is not None:
            name = f"tokens-{target:03}"
    if unit.kind == "logits":
        return Group(first, vectors)
    return Group(first, vectors, parts.spread(name, lambda: spread(vectors, pool, job.device)))


def _not_finite(unit: Unit, error: NotFinite, sizes: Sizes) -> AtlasError:
    """Which vector it is, in the reader's words."""
    how = "is not finite, or too long for float32"
    of_rows = error.side == "row"
    if unit.kind == "logits" or (not of_rows and unit.kind != "FEEDS"):
        what = "token" if unit.kind == "ACTIVATES" or (unit.kind == "logits" and not of_rows) else "logit"
        return BadModel(f"the vector of {what} {error.index} {how}; look at the embedding and the final norm's gain")
    writes = unit.kind == "PROMOTES" or not of_rows
    layer = sizes.layers[unit.layer if of_rows else error.group]
    idx = error.index + (unit.first if of_rows else 0)
    return BadTranscoder(
        f"layer {layer}: what feature {idx} {'writes' if writes else 'reads'} {how}; look at its weights and its gains"
    )
