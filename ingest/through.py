"""Edges through heads in bulk, and the direct path from token to logit: units like those of all other edges.

For every head two thin matrices are made, of what is written before it and of what is read behind it, and
:func:`ingest.edges.compute` finds the strongest of each row and of each column among their products. One unit holds
all rows of one head and kind, so nothing is left to decide among units.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from atlas.errors import BadModel, BadSetting
from atlas.through import OUT_OF, VIA
from ingest.edges import Group, Pool, Rules, compute, merge, spread, union
from ingest.edges.tiles import NotFinite
from ingest.heads import Head, first_target, heads
from ingest.parts import Parts, Unit
from ingest.plan import Plan, Sizes

if TYPE_CHECKING:
    from ingest.folding import Vectors
    from ingest.job import Job

KEEP = 8
"""of each row and of each column of one head, where nothing else was asked"""
_BYTES = 2 << 30
"""of thin matrices that are held at once"""
_EDGE_BYTES = 6.5


def units(vectors: Vectors, sizes: Sizes) -> list[Unit]:
    """One unit for each head and kind, by layer of the model; ``layer`` is the model's, ``first`` the head.

    Raises :class:`atlas.errors.BadSetting` for autoencoders, which read and write between the blocks.
    """
    model = vectors.model
    if vectors.source.info.kind == "sae":
        raise BadSetting(
            f"{vectors.source.info.repo} are autoencoders; edges through heads are computed for transcoders only, "
            "leave --heads out"
        )
    found = []
    for layer in range(model.n_layers):
        before, behind = _reach(vectors, sizes, layer)
        n_in, n_out = sum(sizes.n_features[:before]), sum(sizes.n_features[behind:])
        cost = {
            "ACTIVATES_VIA": n_out * sizes.n_vocab,
            "FEEDS_VIA": n_in * n_out,
            "PROMOTES_VIA": n_in * sizes.n_vocab,
        }
        kinds = [(kind, products) for kind, products in cost.items() if products]
        found += [Unit(kind, layer, h, h + 1, n) for h in range(model.n_heads) for kind, n in kinds]
    return [*found, Unit("PREDICTS", 0, 0, sizes.n_vocab, sizes.n_vocab**2)]


def compute_units(
    job: Job, units: list[Unit], sizes: Sizes, parts: Parts, pool: Pool, show: Callable[[str, int, int], None]
) -> None:
    """Compute what is missing of ``units``."""
    what, todo = "edges through heads (units)", [unit for unit in units if not parts.done(unit)]
    done = len(units) - len(todo)
    show(what, done, len(units))
    best = (("abs", job.keep.heads),)
    rules = Rules(row=best, col=best, exact_sums=job.keep.exact_sums)
    of_heads = sorted((unit for unit in todo if unit.kind in VIA), key=lambda unit: (unit.layer, unit.first))
    for layer, of_layer in groupby(of_heads, key=lambda unit: unit.layer):
        wanted = list(of_layer)
        for ends in _ends(job.vectors, sizes, layer, sorted({unit.first for unit in wanted})):
            for unit in wanted:
                if unit.first == ends.head.number:
                    _one(unit, *ends.of(unit.kind), rules, parts, pool, job.device, ends.norms)
                    done += 1
                    show(what, done, len(units))
    for unit in todo:
        if unit.kind == "PREDICTS":
            rows, cols = job.vectors.token_writes(), job.vectors.logit_reads()
            _one(unit, rows, 0, cols, 0, rules, parts, pool, job.device, None)
            show(what, done + 1, len(units))


class _Ends:
    """The thin matrices of one head."""

    def __init__(self, head: Head, first: int, sources: Tensor, targets: Tensor, tokens: Tensor, logits: Tensor):
        self.head, self.first = head, first
        self.sources, self.targets, self.tokens, self.logits = sources, targets, tokens, logits

    def of(self, kind: str) -> tuple[Tensor, int, Tensor, int]:
        """Rows, the first row's number, columns, the first column's."""
        if kind == "PROMOTES_VIA":
            return self.sources, 0, self.logits, 0
        return self.targets, self.first, self.tokens if kind == "ACTIVATES_VIA" else self.sources, 0

    @property
    def norms(self) -> np.ndarray:
        """Of each target, float32."""
        return self.head.pullback_norms(self.targets).cpu().numpy()


def _reach(vectors: Vectors, sizes: Sizes, layer: int) -> tuple[int, int]:
    """How many of the set's layers write before the heads of a layer, and position of the first that reads behind."""
    behind = first_target(vectors.model, layer)
    before = sum(of_set < layer for of_set in sizes.layers)
    return before, sum(of_set < behind for of_set in sizes.layers)


def _ends(vectors: Vectors, sizes: Sizes, layer: int, numbers: list[int]) -> Iterator[_Ends]:
    """Thin matrices, head by head; the vectors of a layer are read once for as many heads as fit into memory."""
    before, behind = _reach(vectors, sizes, layer)
    found = heads(vectors.model, layer, device=vectors.device, dtype=vectors.dtype)
    chosen = [found[number] for number in numbers]
    n = sum(sizes.n_features) + 2 * sizes.n_vocab
    at_once = max(1, _BYTES // (4 * n * found[0].reads.shape[1]))
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        into: list[list[Tensor]] = [[] for _ in some]
        out: list[list[Tensor]] = [[] for _ in some]
        for position, of_set in enumerate(sizes.layers):
            if position < before:
                writes = vectors.writes(of_set, layer)
                for parts, head in zip(into, some, strict=True):
                    parts.append(head.carried(writes))
            if position >= behind:
                reads = vectors.reads(of_set)
                for parts, head in zip(out, some, strict=True):
                    parts.append(reads @ _arriving(vectors, head, of_set).T)
        first = sizes.first[behind] if behind < len(sizes.layers) else sum(sizes.n_features)
        for head, sources, targets in zip(some, into, out, strict=True):
            empty = head.reads.new_empty(0, head.reads.shape[1])
            yield _Ends(
                head,
                first,
                torch.cat([empty, *sources]),
                torch.cat([empty, *targets]),
                head.carried(vectors.token_writes(layer)),
                vectors.logit_reads() @ _arriving(vectors, head, None).T,
            )


def _arriving(vectors: Vectors, head: Head, before: int | None) -> Tensor:
    """What the head's values have become where a layer reads, or at the end [d_head, d_model]: with skips, more than
    the head itself writes."""
    return vectors.carried(head.writes, first_target(vectors.model, head.layer), before)


def _one(
    unit: Unit,
    rows: Tensor,
    first: int,
    cols: Tensor,
    first_col: int,
    rules: Rules,
    parts: Parts,
    pool: Pool,
    device: str,
    norms: np.ndarray | None,
) -> None:
    start = time.perf_counter()
    rows, cols = rows.contiguous().cpu(), cols.contiguous().cpu()
    with parts.writing(unit) as part:
        try:
            group = Group(first_col, cols, spread(cols, pool))
            result = compute(rows, first, [group], rules, pool, device=device)
        except NotFinite as error:
            raise BadModel(
                f"what head {unit.first} of layer {unit.layer} carries is not finite, or too long for float32; look at "
                "its weights and at the norm's gain"
            ) from error
        ((_, count),) = rules.col
        kept = merge([(0, result.candidates[0])], len(cols), 1, [("abs", count)], [])
        mine = result.row, result.col, result.weight
        row, col, weight = union(mine, (kept.row, kept.col + np.int32(first_col), kept.weight))
        cuts = dict(result.cuts)
        if norms is not None and unit.kind == "ACTIVATES_VIA":
            cuts["norm"] = norms
        cuts["first"] = np.array(first)
        part.result(
            replace(result, row=row, col=col, weight=weight, cuts=cuts, candidates=[]), time.perf_counter() - start
        )


def by_source(kind: str) -> bool:
    """Whether the rows of a kind are its sources."""
    return kind in OUT_OF


def estimated(plan: Plan, vectors: Vectors, sizes: Sizes, keep: int) -> Plan:
    """A plan with what heads add to it."""
    extra = units(vectors, sizes)
    edges = dict.fromkeys([*VIA, "PREDICTS"], 0)
    for unit in extra:
        before, behind = _reach(vectors, sizes, unit.layer)
        n_in, n_out = sum(sizes.n_features[:before]), sum(sizes.n_features[behind:])
        ends = {
            "ACTIVATES_VIA": sizes.n_vocab + n_out,
            "FEEDS_VIA": n_in + n_out,
            "PROMOTES_VIA": n_in + sizes.n_vocab,
            "PREDICTS": 2 * sizes.n_vocab,
        }[unit.kind]
        edges[unit.kind] += min(unit.products, keep * ends)
    width = vectors.model.attention(0).w_o.shape[0] // vectors.model.n_heads
    flop = sum(2.0 * unit.products * (sizes.d_model if unit.kind == "PREDICTS" else width) for unit in extra)
    total = int(sum(edges.values()) * _EDGE_BYTES)
    return replace(
        plan,
        products=plan.products + sum(unit.products for unit in extra),
        flop=plan.flop + flop,
        edges=plan.edges | edges,
        disk=plan.disk + total,
        temporary=plan.temporary + 2 * total,
        memory=plan.memory + min(_BYTES, 4 * width * (sum(sizes.n_features) + 2 * sizes.n_vocab) * 12),
        # short rows have less arithmetic to hide memory behind: taken to run at half the rate of long ones
        seconds=None if plan.seconds is None else plan.seconds * (1 + 2 * flop / plan.flop),
    )
