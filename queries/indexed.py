"""Search by meaning through an index of the store's own: filling it, and asking it.

A Neo4j server has vector indexes; a folder has none, and its vectors stand beside it (:mod:`queries.meaning`). What is
found is the same: the store compares candidates by the very vectors that are kept here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from queries import meaning
from queries.answers import rows
from queries.encoder import Encoder
from queries.held import held, one_set
from queries.meaning import Near, Progress

if TYPE_CHECKING:
    from atlas.stores import Store

INDEX = "vector index of the server"
HERE = "vectors that are kept here"
COLUMNS = {"set": "text", "encoder": "text", "texts": "int", "kept": "text"}


def index(graph: Store, name: str, *, encoder: Encoder | None = None, progress: Progress | None = None) -> pd.DataFrame:
    """Make sets ready for search by meaning: read what is said of them, and fill the store's vector index if any.

    ``name``: a set, or a model with all its sets. ``encoder``, ``progress``: as in :func:`queries.search`. What is
    already there is not made again. A server must be open for writing.

    Columns ``set, encoder, texts`` (in the index: of every feature and description; beside the atlas: different
    ones), ``kept`` (where). Raises BadKey, Ambiguous, BadSetting, StoreError.
    """
    means = meaning.chosen(encoder)
    sets = held(graph)
    own = [one for one in sets if one.model == name] or [one_set(sets, name, None, "what is said is of")]
    found = []
    for one in own:
        said = meaning.kept(graph, one, means, progress)
        texts, where = len(said.texts), HERE
        if texts:
            width = said.vectors.shape[1]
            written = graph.index_meaning(one.key, means.name, width, _Reader(said, means), progress)
            texts, where = (texts, where) if written is None else (written, INDEX)
        found.append((one.key, means.name, texts, where))
    return rows(found, COLUMNS)


def nearest(
    graph: Store, asked: np.ndarray, sets: Sequence[str], k: int, encoder: Encoder, *, layers: tuple[int, int]
) -> list[Near] | None:
    """As :func:`queries.meaning.nearest`, through the store's index; None where that cannot tell."""
    found = graph.by_meaning(sets, encoder.name, asked.astype(np.float64).tolist(), layers=layers, k=k)
    if found is None:
        return None
    return [
        Near(row["key"], int(row["layer"]), meaning.spoken(row["text"]), float(row["score"]), row["matched_by"])
        for row in found.to_dict("records")
    ]


class _Reader:
    """Vectors of texts as they stand in the graph: those that are kept, and of what was said since."""

    def __init__(self, said: meaning.Said, encoder: Encoder) -> None:
        self._vectors = dict(zip(said.texts, said.vectors, strict=True))
        self._encoder = encoder

    def __call__(self, texts: Sequence[str]) -> list[list[float] | None]:
        aloud = [meaning.spoken(text) for text in texts]
        new = sorted({text for text in aloud if text} - self._vectors.keys())
        if new:
            self._vectors |= dict(zip(new, meaning.unit(self._encoder, new).astype(np.float16), strict=True))
        return [self._vectors[text].astype(np.float64).tolist() if text else None for text in aloud]
