"""Descriptions on a server: the difference between what it says and what is staged, in small transactions.

Readers hold still meanwhile (:mod:`atlas.stores.neo4j.state`). Every statement may be repeated: a writer that died in
the middle is followed by one that finds a smaller difference.
"""

from __future__ import annotations

from atlas.descriptions.loading import Changes, batches, joined
from atlas.stores import Progress
from atlas.stores.neo4j import meaning
from atlas.stores.neo4j.fulltext import words
from atlas.stores.neo4j.state import Lost, Writer

_ROWS = 2_000
_FENCE = "MATCH (:AtlasState {key: 'state', owner: $owner})\n"
_GO = (
    _FENCE
    + """
UNWIND $keys AS key
MATCH (d:Description {key: key})
REMOVE d:Description SET d:Leaving
"""
)
_SAY = (
    _FENCE
    + """
UNWIND $rows AS row
MATCH (f:Feature {key: row.feature})
MERGE (d:Description {key: row.key})
SET d.text = row.text, d.method = row.method, d.explainer = row.explainer, d.scores = row.scores,
  d.created = row.created, d.run = row.run, d._words = row._words
MERGE (f)-[:DESCRIBED_BY]->(d)
"""
)
_LABEL = (
    _FENCE
    + """
UNWIND $rows AS row
MATCH (f:Feature {key: row.key})
SET f.label = row.label, f.label_source = row.label_source, f._words = row._words
"""
)
_MINE = _FENCE + "RETURN 1 AS one"


def apply(writer: Writer, set_key: str, found: Changes, progress: Progress) -> None:
    """Take out, put in, relabel."""
    if not found:
        return
    nodes = joined(found)
    total, done = len(found.gone) + len(nodes) + len(found.labels), 0
    writer.unsettle()
    meaning.forget(writer, set_key)
    for first in range(0, len(found.gone), _ROWS):
        keys = found.gone[first : first + _ROWS]
        writer.run(_GO, owner=writer.owner, keys=keys)
        progress("descriptions", done := done + len(keys), total)
    for query, table, text in ((_SAY, nodes, "text"), (_LABEL, found.labels, "label")):
        for rows in batches(table, _ROWS):
            worded = [{**row, "_words": words(row[text])} for row in rows]
            writer.run(query, owner=writer.owner, rows=worded)
            progress("descriptions", done := done + len(rows), total)
    if not writer.run(_MINE, owner=writer.owner):
        raise Lost
    writer.settle()
