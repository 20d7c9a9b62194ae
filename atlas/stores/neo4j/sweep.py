"""What loads and removals leave behind, taken away in small transactions.

Nobody sees these nodes and relationships, so there is no hurry and no order to keep; a sweep that dies is taken up by
the next writer.
"""

from __future__ import annotations

import functools

from atlas.stores import Progress
from atlas.stores.neo4j.batches import Load
from atlas.stores.neo4j.load import under_way
from atlas.stores.neo4j.publish import recover
from atlas.stores.neo4j.state import Writer

EDGES_A_SWEEP = 20_000
_MOST_NODES = 5_000

_FENCE = "MATCH (:AtlasState {key: 'state', owner: $owner})\n"
_LEAVING = "MATCH (n:Leaving) RETURN count(n) AS n"
_GO = _FENCE + "MATCH (n:Leaving) WITH n LIMIT $limit DETACH DELETE n RETURN count(n) AS n"
_FEATURES_LEAVE = (
    _FENCE
    + """
MATCH (n:Loading) WHERE n.row >= $first AND n.row < $end
WITH n LIMIT 10000
REMOVE n:Loading, n.row SET n:Leaving
RETURN count(n) AS n
"""
)
_TOKENS_LEAVE = (
    _FENCE
    + """
MATCH (n:Loading) WHERE n.row >= $first AND n.row < $end
WITH n LIMIT 10000
FOREACH (_ IN CASE WHEN n:Token THEN [] ELSE [1] END | SET n:Leaving)
REMOVE n:Loading, n.row
RETURN count(n) AS n
"""
)
_OTHERS = "MATCH (l:AtlasLoad) WHERE l.words = $words AND l.key <> $key RETURN count(l) AS n"
_STRAYS = (
    _FENCE
    + """
MATCH (b:AtlasBatch) WHERE NOT b.load IN $numbers
WITH b LIMIT 10000
DELETE b
RETURN count(b) AS n
"""
)
_PREDICTIONS_LEAVE = (
    _FENCE
    + """
OPTIONAL MATCH (r:Run)
WITH collect(r.key) AS runs
MATCH (:Token)-[e:PREDICTS]->(:Token) WHERE NOT e.run IN runs
WITH e LIMIT 10000
DELETE e
RETURN count(e) AS n
"""
)
_FORGET = _FENCE + "MATCH (l:AtlasLoad {key: $key}) DELETE l"


def sweep(writer: Writer, progress: Progress) -> None:
    """Tidy up after published loads and delete what has left; loads under way stay as they are."""
    recover(writer)
    for load in under_way(writer):
        if load.state == "published":
            forget(writer, load)
    numbers = [load.number for load in under_way(writer)]
    _repeat(writer, _STRAYS, numbers=numbers)
    if not numbers:
        _repeat(writer, _TOKENS_LEAVE, first=-(2**62), end=2**62)
        _repeat(writer, _PREDICTIONS_LEAVE)
    total = writer.run(_LEAVING)[0]["n"]
    if total:
        _delete(writer, total, progress)


def forget(writer: Writer, load: Load) -> None:
    """Drop what a load kept for itself: all of it where the load never finished.

    Tokens stay as long as another load of the same vocabulary is under way.
    """
    first, end = load.features
    _repeat(writer, _FEATURES_LEAVE, first=first, end=end)
    if not writer.run(_OTHERS, words=load.words, key=load.key)[0]["n"]:
        first, end = load.tokens
        _repeat(writer, _TOKENS_LEAVE, first=first, end=end)
    writer.run(_FORGET, owner=writer.owner, key=load.key)


def _delete(writer: Writer, total: int, progress: Progress) -> None:
    done, limit = 0, 200
    while True:
        found, edges = writer.write(functools.partial(_go, owner=writer.owner, limit=limit))
        if not found:
            return
        done += found
        progress("clearing", min(done, total), total)
        # features have from ten to thousands of relationships: aim at the same number of those each time
        limit = max(1, min(_MOST_NODES, int(limit * EDGES_A_SWEEP / max(edges, 1)), limit * 4))


def _go(tx, owner: str, limit: int) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    result = tx.run(_GO, owner=owner, limit=limit)
    found = result.single()
    return (found["n"] if found else 0), result.consume().counters.relationships_deleted


def _repeat(writer: Writer, query: str, **parameters: object) -> None:
    while True:
        found = writer.run(query, owner=writer.owner, **parameters)
        if not found or not found[0]["n"]:
            return
