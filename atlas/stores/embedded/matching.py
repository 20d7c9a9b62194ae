"""Matches of two sets in one engine file, in place of those that the same method found before."""

from __future__ import annotations

import pyarrow as pa

from atlas import schema
from atlas.matches import USED, Matches
from atlas.stores.embedded.engine import Engine

_GO = """
MATCH (a:Feature)-[e:MATCHES]->(b:Feature)
WHERE a.set = $a AND b.set = $b AND e.method = $method
DELETE e
"""
_RUNS = "MATCH (r:Run) WHERE NOT EXISTS { MATCH (:TranscoderSet)-[:LOADED_BY]->(r) } RETURN r.key"
_DROP = "MATCH (r:Run {key: $key}) DELETE r"


def apply(engine: Engine, found: Matches) -> None:
    """Take out, put in; runs that nothing names any more go."""
    engine.table(_GO, {"a": found.a, "b": found.b, "method": found.method})
    if len(found.table):
        engine.table("COPY MATCHES FROM $rows", {"rows": found.table})
    runs = {key for (key,) in engine.values("MATCH (r:Run) RETURN r.key")}
    if found.run.id not in runs and len(found.table):
        row = pa.table({name: [value] for name, value in found.run.row().items()}, schema=schema.NODE["Run"].arrow)
        engine.table("COPY Run FROM $rows", {"rows": row})
    used = {key for (key,) in engine.values(USED)}
    for (key,) in engine.values(_RUNS):
        if key not in used:
            engine.table(_DROP, {"key": key})
