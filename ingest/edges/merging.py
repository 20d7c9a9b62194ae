"""Deciding what columns keep, from what all units found.

A unit knows its rows whole and its columns in part: the strongest that a feature feeds may lie in any later layer. Each
unit hands out more than enough candidates of every column (:class:`ingest.edges.units.Candidates`); here they meet, a
span of columns at a time, so that memory does not grow with the number of layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ingest.edges import kernels
from ingest.edges.units import Candidates


@dataclass
class Kept:
    """What the columns' rules keep, in the order of (row, col); cuts are float32, 0 where nothing is left out."""

    row: np.ndarray
    col: np.ndarray
    weight: np.ndarray
    cuts: dict[str, np.ndarray]
    """[n_cols] for a rule over all layers of rows, [n_cols, n_layers] for one by layer"""


def merge(
    parts: list[tuple[int, Candidates]],
    n_cols: int,
    n_layers: int,
    overall: list[tuple[str, int]],
    by_layer: list[tuple[str, int]],
    min_z: float | None = None,
) -> Kept:
    """Keep the strongest of each column: ``overall`` over all rows, ``by_layer`` over the rows of each layer.

    ``parts``: the position of the rows' layer, and candidates whose ``col`` counts from 0; in the order of their rows.
    """
    layer = np.concatenate([np.full(len(part.col), position, np.int32) for position, part in parts])
    col, row, weight, z = (
        np.concatenate([getattr(part, name) for _, part in parts]) for name in ("col", "row", "weight", "z")
    )
    scores = {"abs": np.abs(weight), "z": np.abs(z)}
    keep = np.zeros(len(col), bool)
    cuts = {}
    ptr, member = kernels.by_group(col, n_cols)
    for order, count in overall:
        cuts[order] = np.zeros(n_cols, np.float32)
        kernels.strongest(ptr, member, scores[order], count, keep, cuts[order])
        if order == "z" and min_z is not None:
            cuts[order] = np.minimum(cuts[order], np.float32(min_z))
    for order, count in by_layer:
        ptr, member = kernels.by_group(col.astype(np.int64) * n_layers + layer, n_cols * n_layers)
        cut = np.zeros(n_cols * n_layers, np.float32)
        kernels.strongest(ptr, member, scores[order], count, keep, cut)
        cuts[order] = cut.reshape(n_cols, n_layers)
    row, col, weight = row[keep], col[keep], weight[keep]
    by_row = np.lexsort((col, row))
    return Kept(row[by_row], col[by_row], weight[by_row], cuts)


def union(*pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Several lists of (row, col, weight) as one in the order of (row, col), without repeats."""
    row, col, weight = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    _, first = np.unique((row.astype(np.int64) << 32) | col, return_index=True)
    return row[first], col[first], weight[first]
