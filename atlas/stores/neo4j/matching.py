"""Matches of two sets on a server, in place of those that the same method found before, in small transactions.

Readers hold still meanwhile (:mod:`atlas.stores.neo4j.state`). Every statement may be repeated: a writer that died in
the middle is followed by one that takes out what it left and writes all of it.
"""

from __future__ import annotations

from atlas.matches import Matches
from atlas.stores import Progress
from atlas.stores.neo4j.publish import ORPHAN_RUNS
from atlas.stores.neo4j.state import Lost, Writer

_ROWS = 5_000
_FENCE = "MATCH (:AtlasState {key: 'state', owner: $owner})\n"
_GO = (
    _FENCE
    + """
MATCH (a:Feature {model: $model}) WHERE a.layer >= 0 AND a.idx >= 0 AND a.set = $a
MATCH (a)-[e:MATCHES]->(b:Feature) WHERE b.set = $b AND e.method = $method
WITH e LIMIT $limit
DELETE e
RETURN count(e) AS n
"""
)
_SAY = (
    _FENCE
    + """
UNWIND $rows AS row
MATCH (a:Feature {key: row.source})
MATCH (b:Feature {key: row.target})
MERGE (a)-[e:MATCHES {run: row.run}]->(b)
SET e.score = row.score, e.null_p = row.null_p, e.method = row.method
"""
)
_RUN = _FENCE + "MERGE (r:Run {key: $run.key}) SET r = $run"
_MINE = _FENCE + "RETURN 1 AS one"


def apply(writer: Writer, found: Matches, progress: Progress) -> None:
    """Take out, put in; runs that nothing names any more go."""
    of = {"model": found.a.partition("/")[0], "a": found.a, "b": found.b, "method": found.method}
    writer.unsettle()
    while True:
        gone = writer.run(_GO, owner=writer.owner, limit=_ROWS, **of)
        if not gone or not gone[0]["n"]:
            break
    if len(found.table):
        writer.run(_RUN, owner=writer.owner, run=found.run.row())
    for first in range(0, len(found.table), _ROWS):
        rows = found.table.slice(first, _ROWS).to_pylist()
        writer.run(_SAY, owner=writer.owner, rows=rows)
        progress("matches", first + len(rows), len(found.table))
    writer.run(ORPHAN_RUNS, owner=writer.owner)
    if not writer.run(_MINE, owner=writer.owner):
        raise Lost
    writer.settle()
