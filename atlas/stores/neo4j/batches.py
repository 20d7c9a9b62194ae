"""A load cut into batches: what each sends, and the Cypher that takes it in.

A batch is named by what is in it, so every attempt at a load cuts the same batches. Relationships come grouped by the
feature they belong to, ``[[row, [[other row, weight, z, share, …], …]], …]``: grouping saves the server one index
look-up for each relationship, a third of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from atlas import schema
from atlas.observed import Observed
from atlas.staging import WEIGHTED
from atlas.stores.neo4j.fulltext import words

EDGES_A_NODE = 5
"""a node with its properties costs about as much as this many relationships"""

_ONCE = """
MATCH (:AtlasState {key: 'state', owner: $owner})
CREATE (marker:AtlasBatch {key: $marker, load: $number, rows: $rows})
WITH marker
UNWIND $items AS item
"""
_TOKENS = (
    _ONCE
    + """
OPTIONAL MATCH (public:Token {key: item.key})
FOREACH (_ IN CASE WHEN public IS NULL THEN [] ELSE [1] END | SET public:Loading, public.row = item.row)
FOREACH (_ IN CASE WHEN public IS NULL THEN [1] ELSE [] END | MERGE (n:Loading {row: item.row}) SET n = item)
"""
)
_FEATURES = _ONCE + "CREATE (n:Loading) SET n = item"
_INTO = (
    _ONCE
    + """
MATCH (target:Loading {row: item[0]})
UNWIND item[1] AS edge
MATCH (source:Loading {row: edge[0]})
CREATE (source)-[:KIND {PROPERTIES}]->(target)
"""
)
_OUT_OF = (
    _ONCE
    + """
MATCH (source:Loading {row: item[0]})
UNWIND item[1] AS edge
MATCH (target:Loading {row: edge[0]})
CREATE (source)-[:KIND {PROPERTIES}]->(target)
"""
)
_PREDICTS = (
    _ONCE
    + """
MATCH (source:Loading {row: item[0]})
OPTIONAL MATCH (source)-[old:PREDICTS]->(:Token) WHERE old.run = item[1][0][RUN]
WITH source, item, collect(old) AS before
FOREACH (e IN before | DELETE e)
WITH source, item
UNWIND item[1] AS edge
MATCH (target:Loading {row: edge[0]})
CREATE (source)-[:PREDICTS {PROPERTIES}]->(target)
"""
)
"""Both ends outlive a set that is replaced, so its run's own, loaded before, make way."""
_SHIFT = 32


@dataclass(frozen=True)
class Load:
    """One load under way, as the server remembers it."""

    key: str
    """the build's id, and its observation's run behind a plus where it has one"""
    build: str
    set: str
    number: int
    words: int
    """which load numbered the tokens of this vocabulary; loads that share a vocabulary share them"""
    state: str
    """loading, retiring, publishing or published"""
    batch: int
    structure: dict[str, Any]
    """the set, its model, its run, and what its manifest counts: all that publishing needs besides what is loaded"""

    @property
    def features(self) -> tuple[int, int]:
        """First ``row`` of its features, and one past the last it could have."""
        return self.number << _SHIFT, (self.number + 1) << _SHIFT

    @property
    def tokens(self) -> tuple[int, int]:
        """The same for its tokens; their rows are negative, token 0 has the largest."""
        return -((self.words + 1) << _SHIFT), -(self.words << _SHIFT)


@dataclass(frozen=True)
class Batch:
    name: str
    """unique within the load, the same in every attempt"""
    query: str
    rows: int
    edges: bool
    """relationships, or nodes"""
    items: Callable[[], list[Any]]
    """what to send; made when it is needed"""

    def count(self, items: list[Any]) -> int:
        """Rows in some of the items."""
        return sum(len(item[1]) for item in items) if self.edges else len(items)


def nodes(build: Observed, load: Load) -> Iterator[Batch]:
    """Tokens, then features."""
    first_token, first_feature = load.tokens[1] - 1, load.features[0]
    yield from _slices(build, "Token", load, _TOKENS, lambda row: first_token - row)
    yield from _slices(build, "Feature", load, _FEATURES, lambda row: first_feature + row)


def edges(build: Observed, load: Load) -> Iterator[Batch]:
    """Weighted relationships of every kind, in the order of their files."""
    for kind in WEIGHTED:
        edge = schema.EDGE[kind]
        # files are sorted by the end that is grouped, and it is always a feature
        grouped, other = ("source", "target") if edge.target == "Token" else ("target", "source")
        properties = edge.stored if build.observation else edge.properties
        names = [p.name for p in properties]
        assignments = ", ".join(f"{name}: edge[{at}]" for at, name in enumerate(names, 1))
        query = _PREDICTS if kind == "PREDICTS" else _OUT_OF if grouped == "source" else _INTO
        run = str(names.index("run") + 1) if "run" in names else ""
        query = query.replace("KIND", kind).replace("PROPERTIES", assignments).replace("RUN", run)
        for position, table in enumerate(build.edges(kind)):
            columns = {name: table[name].combine_chunks() for name in names}
            anchors = _numbers(load, getattr(edge, grouped), table[grouped].to_numpy())
            others = _numbers(load, getattr(edge, other), table[other].to_numpy())
            for start, stop in _cuts(anchors, load.batch):
                part = [column.slice(start, stop - start) for column in columns.values()]
                items = _grouping(anchors[start:stop], others[start:stop], part)
                yield Batch(f"{kind}/{position}/{start}", query, stop - start, True, items)


def _slices(build: Observed, label: str, load: Load, query: str, number: Callable[[int], int]) -> Iterator[Batch]:
    table, size = build.nodes(label), load.batch // EDGES_A_NODE
    text = "label" if label == "Feature" else "text"
    for start in range(0, table.num_rows, size):
        part = table.slice(start, size)

        def items(part: Any = part, start: int = start) -> list[Any]:
            rows = part.to_pylist()
            return [{**row, "row": number(start + i), "_words": words(row[text])} for i, row in enumerate(rows)]

        yield Batch(f"{label}/{start}", query, part.num_rows, False, items)


def _numbers(load: Load, label: str, rows: np.ndarray) -> np.ndarray:
    """The property ``row`` of nodes, from their row numbers in the build."""
    rows = rows.astype(np.int64)
    return load.tokens[1] - 1 - rows if label == "Token" else load.features[0] + rows


def _cuts(anchors: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Spans of about ``size`` rows that begin where a group begins."""
    begins = _begins(anchors)
    start = 0
    while start < len(anchors):
        after = np.searchsorted(begins, start + size)
        stop = int(begins[after]) if after < len(begins) else len(anchors)
        yield start, stop
        start = stop


def _grouping(anchors: np.ndarray, others: np.ndarray, columns: list[pa.Array]) -> Callable[[], list[Any]]:
    def items() -> list[Any]:
        rows = [list(edge) for edge in zip(others.tolist(), *map(_listed, columns), strict=True)]
        bounds = [*_begins(anchors).tolist(), len(anchors)]
        return [[int(anchors[start]), rows[start:stop]] for start, stop in pairwise(bounds)]

    return items


def _listed(column: pa.Array) -> list[Any]:
    """A column as Python values; through numpy where it can be, which is ten times as fast."""
    return (
        column.to_pylist()
        if column.null_count or not pa.types.is_primitive(column.type)
        else column.to_numpy().tolist()
    )


def _begins(anchors: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(anchors, prepend=anchors[:1] - 1))
