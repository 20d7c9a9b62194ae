"""What readers see: a loaded set shown, an old one withdrawn, what nobody uses taken away.

A node shows by its label. Publishing turns ``:Loading`` into ``:Feature`` and the old set's ``:Feature`` into
``:Leaving``; up to :data:`AT_ONCE` nodes in one transaction, larger sets in several. Readers hold still meanwhile
(:mod:`atlas.stores.neo4j.state`), so they see the old set or the new one. Every step may be repeated: a writer that
died in the middle left the phase on its ``(:AtlasLoad)``, and whoever comes next goes on from there.
"""

from __future__ import annotations

from typing import Any

import neo4j

from atlas import schema
from atlas.stores.neo4j.batches import Load
from atlas.stores.neo4j.load import under_way
from atlas.stores.neo4j.state import Writer

AT_ONCE = 20_000
"""labels changed in one transaction; about 3 kB of the server's transaction memory each, with their index entries"""

_FENCE = "MATCH (:AtlasState {key: 'state', owner: $owner})\n"
_PHASE = _FENCE + ("MATCH (l:AtlasLoad {key: $key}) WHERE l.state IN $from\nSET l.state = $to RETURN l.state AS state")
_RETIRE = (
    _FENCE
    + """
MATCH (f:Feature {model: $model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set
WITH f LIMIT $limit
OPTIONAL MATCH (f)-[:DESCRIBED_BY]->(d:Description)
FOREACH (_ IN CASE WHEN d IS NULL THEN [] ELSE [1] END | REMOVE d:Description SET d:Leaving)
REMOVE f:Feature SET f:Leaving
RETURN count(DISTINCT f) AS moved
"""
)
_SHOW = (
    _FENCE
    + """
MATCH (n:Loading) WHERE n.row >= $first AND n.row < $end
WITH n LIMIT $limit
REMOVE n:Loading, n.row SET n:Feature
RETURN count(n) AS moved
"""
)
_SHOW_TOKENS = (
    _FENCE
    + """
MATCH (n:Loading) WHERE n.row >= $first AND n.row < $end AND NOT n:Token
WITH n LIMIT $limit
SET n:Token
RETURN count(n) AS moved
"""
)
_STRUCTURE = (
    _FENCE
    + """
MERGE (m:Model {key: $model.key})
MERGE (t:TranscoderSet {key: $set.key}) SET t = $set
MERGE (r:Run {key: $run.key}) SET r = $run
MERGE (a:AtlasSet {key: $set.key}) SET a = $ledger
FOREACH (head IN $heads | MERGE (h:Head {key: head.key}) SET h = head)
FOREACH (_ IN CASE WHEN EXISTS { MATCH (other:TranscoderSet)-[:OF]->(m) WHERE other <> t } THEN [] ELSE [1] END |
  SET m = $model)
WITH m, t, r
OPTIONAL MATCH (t)-[old:OF|LOADED_BY]->()
DELETE old
WITH DISTINCT m, t, r
MERGE (t)-[:OF]->(m)
MERGE (t)-[:LOADED_BY]->(r)
"""
)
_DROP_SET = _FENCE + "MATCH (t) WHERE (t:TranscoderSet OR t:AtlasSet) AND t.key = $set DETACH DELETE t"
ORPHAN_RUNS = (
    _FENCE
    + """
MATCH (r:Run) WHERE NOT EXISTS { MATCH (:TranscoderSet)-[:LOADED_BY]->(r) }
  AND NOT EXISTS { MATCH (:Feature)-[e:MATCHES]->(:Feature) WHERE e.run = r.key }
DETACH DELETE r
"""
)
_ORPHANS = (
    _FENCE + "MATCH (m:Model) WHERE NOT EXISTS { MATCH (:TranscoderSet)-[:OF]->(m) } DETACH DELETE m",
    _FENCE + "MATCH (h:Head) WHERE NOT EXISTS { MATCH (m:Model) WHERE m.key = h.model } DETACH DELETE h",
    ORPHAN_RUNS,
)
_RETIRE_TOKENS = (
    _FENCE
    + """
OPTIONAL MATCH (m:Model)
WITH collect(m.tokenizer) AS used
MATCH (t:Token) WHERE NOT t.vocabulary IN used
WITH t LIMIT $limit
REMOVE t:Token SET t:Leaving
RETURN count(t) AS moved
"""
)
_COUNT = """
MATCH (f:Feature {model: $model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set
RETURN count(f) AS n
"""

_STRAYS = """
OPTIONAL MATCH (t:TranscoderSet)
WITH collect(t.key) AS known
MATCH (f:Feature) WHERE NOT f.set IN known
RETURN DISTINCT f.model AS model, f.set AS set
"""

Step = tuple[str, dict[str, Any]]


def publish(writer: Writer, load: Load) -> None:
    """Show a load whose nodes and relationships are all there, in place of the set's old build where there is one."""
    if load.state == "published":
        return writer.settle()
    ledger = load.structure["ledger"]
    retire: Step = (_RETIRE, {"model": load.structure["model"]["key"], "set": load.set})
    show: list[Step] = [
        (_SHOW, {"first": load.features[0], "end": load.features[1]}),
        (_SHOW_TOKENS, {"first": load.tokens[0], "end": load.tokens[1]}),
    ]
    finish: list[Step] = [
        (_STRUCTURE, {"heads": [], **load.structure}),
        *((query, {}) for query in _ORPHANS),
        (_RETIRE_TOKENS, {}),
    ]
    size = writer.run(_COUNT, **retire[1])[0]["n"] + ledger["features"] + ledger["tokens"]
    writer.unsettle()
    if load.state == "loading" and size <= AT_ONCE:
        _at_once(writer, load, [retire, *show, *finish])
    else:
        if _enter(writer, load, "retiring", after=("loading", "retiring")):
            _piecewise(writer, [retire])
        _enter(writer, load, "publishing", after=("retiring", "publishing"))
        _piecewise(writer, [*show, *finish])
        _enter(writer, load, "published", after=("publishing",))
    writer.settle()


def withdraw(writer: Writer, model: str, sets: list[str]) -> int:
    """Hide sets from readers; the nodes themselves go later. Returns how many nodes left."""
    before = _public(writer)
    steps: list[Step] = []
    for key in sets:  # the set goes first, so that what a death in the middle leaves is known by having none
        steps += [(_DROP_SET, {"set": key}), (_RETIRE, {"model": model, "set": key})]
    steps += [*((query, {}) for query in _ORPHANS), (_RETIRE_TOKENS, {})]
    size = sum(writer.run(_COUNT, model=model, set=key)[0]["n"] for key in sets)
    writer.unsettle()
    if size <= AT_ONCE:
        _at_once(writer, None, steps)
    else:
        _piecewise(writer, steps)
    writer.settle()
    return before - _public(writer)


def recover(writer: Writer) -> None:
    """Bring to its end what a writer that died had begun to change; nothing where all is settled."""
    if writer.settled():
        return
    for load in under_way(writer):
        if load.state != "loading":
            publish(writer, load)
    for stray in writer.run(_STRAYS):
        withdraw(writer, stray["model"], [stray["set"]])
    writer.settle()


def _public(writer: Writer) -> int:
    """Nodes that readers see; the server keeps these counts, so nothing is walked."""
    return sum(writer.run(f"MATCH (n:{node.label}) RETURN count(n) AS n")[0]["n"] for node in schema.NODES)


def _at_once(writer: Writer, load: Load | None, steps: list[Step]) -> None:
    def unit(tx: neo4j.ManagedTransaction) -> None:
        if load is not None:
            record = {"owner": writer.owner, "key": load.key, "from": ["loading"], "to": "published"}
            if tx.run(_PHASE, record).single() is None:
                return  # this very transaction was committed before, and the answer lost
        for query, parameters in steps:
            tx.run(query, parameters, owner=writer.owner, limit=2**53).consume()  # type: ignore[arg-type]

    writer.write(unit)


def _piecewise(writer: Writer, steps: list[Step]) -> None:
    for query, parameters in steps:
        while True:
            found = writer.run(query, owner=writer.owner, limit=AT_ONCE, **parameters)
            if not found or not found[0]["moved"]:
                break


def _enter(writer: Writer, load: Load, phase: str, after: tuple[str, ...]) -> bool:
    """Note the phase on the server; False where the load is past it."""
    found = writer.run(_PHASE, owner=writer.owner, key=load.key, **{"from": [*after], "to": phase})
    return bool(found)
