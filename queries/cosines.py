"""Features whose vectors point the same way: what they read from the stream, or what they write into it.

The vectors are those of :mod:`atlas.vectors`, as stored: float16, of length 1. All of a set are looked at, in blocks
that are read from the mapped file, so that memory hardly grows with the set: at most 50 MB, and 4 B a feature. A first
pass is in float32; whatever comes within its error of the k-th is taken again in float64, so that the order is that of
the stored vectors and features with the same vector share a score. Ties go by layer, then idx.

Two models have streams of their own, whose axes mean nothing to each other; a cosine between them says nothing. Two
names of one model (the same files) have one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.errors import BadBuild, BadSetting
from atlas.model import FeatureKey
from queries.answers import rows
from queries.catalog import records
from queries.held import Held, envelope
from queries.labels import called
from queries.resolve import Node

if TYPE_CHECKING:
    from atlas.stores import Store

VECTORS = {"encoder": "read", "decoder": "write"}
"""Vectors that features can be compared by, and what they do with them."""
COLUMNS = {"key": "text", "layer": "int", "label": "text", "text": "text", "score": "float", "matched_by": "text"}
_BLOCK = 1 << 21
"""numbers of the file that are looked at at once"""
Ranked = list[tuple[float, int]]
"""Cosine and row of some features."""


def alike(graph: Store, node: Node, asked: Sequence[Held], by: str, k: int) -> pd.DataFrame:
    """The features of some sets with the largest cosine to one; columns as :func:`queries.similar.similar` has them.

    Sets of other streams are left out, and so are those without vectors, which the note names. Raises BadSetting and
    BadBuild where nothing is left, and BadBuild where the feature's own set has none.
    """
    sets = _of_one_stream(graph, node, asked)
    own = graph.vectors(node.set)
    number = own.number(int(node.properties["layer"]), int(node.properties["idx"]))
    vector = np.asarray(getattr(own, by)[number], np.float64)
    length = float(np.linalg.norm(vector))
    looked: list[Held] = []
    without: dict[str, BadBuild] = {}
    found: list[tuple[float, int, int, str]] = []
    for one in sets:
        try:
            theirs = own if one.key == node.set else graph.vectors(one.key)
        except BadBuild as error:
            without[one.key] = error
            continue
        looked.append(one)
        if length != 0:
            left_out = number if theirs is own else None
            best = nearest(getattr(theirs, by), vector / length, k, left_out, of=one.key)
            found += [(-score, *theirs.place(row), one.key) for score, row in best]
    if not looked:
        raise next(iter(without.values()))
    best = []
    for score, layer, idx, set_key in sorted(found)[:k]:
        model, _, name = set_key.partition("/")
        best.append((str(FeatureKey(model, layer, name, idx)), -score))
    about = called(graph, (key for key, _ in best))
    answer = [(key, about[key].layer, about[key].label, "", score, by) for key, score in best]
    frame = rows(answer, COLUMNS)
    frame.attrs = envelope(looked, "cosine", not without, 0.0)
    notes = ["vectors in float16", *(f"without {key}, whose vectors are not here" for key in without)]
    if not length:
        notes.append(f"{node.key} {VECTORS[by]}s nothing")
    frame.attrs |= {"score": f"cosine of what they {VECTORS[by]}", "by": by, "note": " · ".join(notes)}
    return frame


def nearest(array: np.ndarray, unit: np.ndarray, k: int, leave_out: int | None = None, *, of: str = "") -> Ranked:
    """The ``k`` rows of a float16 array [n_features, d_model] with the largest cosine to a float64 vector of length 1.

    A row of zeros has cosine 0. Raises BadBuild, which names the set ``of``, for numbers that are not finite and for a
    width that is not the vector's.
    """
    if array.shape[1] != len(unit):
        raise BadBuild(f"the vectors of {of} are {array.shape[1]} wide, the feature's {len(unit)}; ingest {of} again")
    step = max(1, _BLOCK // array.shape[1])
    rough = np.empty(len(array), np.float32)
    direction = unit.astype(np.float32)
    for begin in range(0, len(array), step):
        some = np.asarray(array[begin : begin + step], np.float32)
        with np.errstate(invalid="ignore"):  # said below, in words
            rough[begin : begin + len(some)] = _over(some @ direction, np.sqrt(np.einsum("ij,ij->i", some, some)))
    if not np.isfinite(rough).all() or not np.isfinite(unit).all():
        raise BadBuild(f"the vectors of {of} hold a number that is not finite; load a sound build of it")
    if leave_out is not None:
        rough[leave_out] = -np.inf
    count = min(k, len(rough) - (leave_out is not None))
    if count == 0:
        return []
    # a dot product and two lengths of d numbers, each within d / 2 units in the last place, for two rows
    error = 2 * (array.shape[1] + 8) * float(np.finfo(np.float32).eps)
    near = np.flatnonzero(rough >= np.partition(rough, len(rough) - count)[len(rough) - count] - error)
    exact = np.concatenate([_exact(array, near[at : at + step], unit) for at in range(0, len(near), step)])
    order = np.argsort(-exact, kind="stable")[:count]
    return [(float(exact[at]), int(near[at])) for at in order]


def _exact(array: np.ndarray, numbers: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Cosines in float64, each summed in the same order: equal rows have equal ones."""
    some = array[numbers].astype(np.float64)
    length = np.sqrt(np.square(some).sum(axis=1))
    some *= unit
    return _over(some.sum(axis=1), length)


def _over(products: np.ndarray, length: np.ndarray) -> np.ndarray:
    return np.divide(products, length, out=np.zeros_like(products), where=length != 0)


def _of_one_stream(graph: Store, node: Node, asked: Sequence[Held]) -> list[Held]:
    """The sets whose features read and write the same stream as the node."""
    models = {row["model"]: (row["repo"], row["revision"], row["d_model"]) for row in records(graph, "models")}
    own = node.set.partition("/")[0]
    same = {name for name, place in models.items() if name == own or (place[1] and place == models[own])}
    sets = [one for one in asked if one.model in same]
    if not sets:
        raise BadSetting(
            f"{own} and {asked[0].model} are two models: their vectors live in different spaces; compare by inputs, "
            "outputs or description"
        )
    return sets
