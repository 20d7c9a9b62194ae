"""What is said of features as vectors in the server's own vector indexes, one pair of indexes for each encoder.

A feature has the vector of its label, a description its own, in a property that names the encoder. The set's
``(:AtlasSet)`` says ``meaning: ["ENCODER COUNT"]`` once all are written. That word goes when the set is described or
loaded anew, so readers never trust vectors of what used to be said, and nobody waits while vectors are written. Nodes
that are withdrawn lose their label, and with it their place in the index.

https://neo4j.com/docs/cypher-manual/current/indexes/semantic-indexes/vector-indexes/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from atlas.errors import BadKey, BadSetting
from atlas.stores import Meanings, Progress
from atlas.stores.neo4j.state import Lost, Writer

LABELS = ("Feature", "Description")
MOST = 10_000
"""Candidates of one index, after which a question is better answered without it."""
_FEATURES = 500
"""read at once; as many vectors are written in one transaction, some 15 MB of the server's memory"""

_FENCE = "MATCH (:AtlasState {key: 'state', owner: $owner})\n"
_LAYERS = """
MATCH (s:TranscoderSet {key: $set})
OPTIONAL MATCH (f:Feature {model: s.model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set
RETURN s.model AS model, f.layer AS layer, count(f) AS features, max(f.idx) AS last ORDER BY layer
"""
_SAID = """
MATCH (f:Feature {model: $model, layer: $layer}) WHERE f.idx >= $first AND f.idx < $end AND f.set = $set
OPTIONAL MATCH (f)-[:DESCRIBED_BY]->(d:Description)
RETURN f.key AS key, f.label AS label, [one IN collect(d) | [one.key, one.text]] AS said
"""
_WRITE = """
UNWIND $rows AS row
MATCH (n:LABEL {key: row.key})
SET n.PROPERTY = null
WITH n, row WHERE row.vector IS NOT NULL
CALL db.create.setNodeVectorProperty(n, $property, row.vector)
"""
_MARKED = "MATCH (a:AtlasSet {key: $set}) RETURN [one IN a.meaning WHERE one STARTS WITH $claim] AS marked"
_MARK = _FENCE + "MATCH (a:AtlasSet {key: $set}) SET a.meaning = coalesce(a.meaning, []) + [$mark] RETURN a.key AS key"
_FORGET = _FENCE + "MATCH (a:AtlasSet {key: $set}) REMOVE a.meaning"
_INDEXES = (
    "SHOW VECTOR INDEXES YIELD name, state, options WHERE name IN $names "
    "RETURN name, state, options['indexConfig']['vector.dimensions'] AS width"
)
_NEAREST = """
MATCH (a:AtlasSet) WHERE a.key IN $sets AND any(one IN a.meaning WHERE one STARTS WITH $claim)
WITH count(a) AS whole WHERE whole = size($sets)
CALL () {
  CALL db.index.vector.queryNodes($Feature, $limit, $vector) YIELD node
  RETURN node, node AS feature, node.label AS text, 'label' AS by
  UNION ALL
  CALL db.index.vector.queryNodes($Description, $limit, $vector) YIELD node
  OPTIONAL MATCH (feature:Feature)-[:DESCRIBED_BY]->(node)
  RETURN node, feature, node.text AS text, 'description' AS by
}
WITH feature, text, by, node.PROPERTY AS vector
RETURN feature.key AS key, feature.layer AS layer, feature.set AS set, text, by AS matched_by,
       reduce(sum = 0.0, at IN range(0, size(vector) - 1) | sum + vector[at] * $vector[at]) AS score
"""


def write(writer: Writer, set_key: str, encoder: str, width: int, vectors: Meanings, progress: Progress) -> int:
    """Write the vectors of a set, unless they are there; returns how many there are.

    A writer that died in the middle is followed by one that writes all of them. Raises BadKey for no set, BadSetting
    where the index has vectors of another width.
    """
    layers = writer.run(_LAYERS, set=set_key)
    if not layers:
        raise BadKey(f"{set_key!r} is no set of {writer.address}; `atlas sets` lists them")
    _make(writer, encoder, width)
    marked = writer.run(_MARKED, set=set_key, claim=f"{encoder} ")[0]["marked"]
    if marked:
        return int(marked[0].rpartition(" ")[2])
    total, done, count = sum(row["features"] for row in layers), 0, 0
    for row in layers:
        for first in range(0, (row["last"] or 0) + 1 if row["features"] else 0, _FEATURES):
            span = {"layer": row["layer"], "first": first, "end": first + _FEATURES}
            features = writer.run(_SAID, set=set_key, model=row["model"], **span)
            texts = {
                "Feature": [[one["key"], one["label"]] for one in features],
                "Description": [said for one in features for said in one["said"]],
            }
            for label, said in texts.items():
                count += _put(writer, encoder, label, said, vectors)
            progress("vectors", done := done + len(features), total)
    if not writer.run(_MARK, owner=writer.owner, set=set_key, mark=f"{encoder} {count}"):
        raise Lost
    return count


def forget(writer: Writer, set_key: str) -> None:
    """Trust a set's vectors no longer: something else is said of it, or some are lost."""
    writer.run(_FORGET, owner=writer.owner, set=set_key)


def nearest(
    ask: Callable[..., pd.DataFrame],
    sets: Sequence[str],
    encoder: str,
    vector: Sequence[float],
    *,
    layers: tuple[int, int],
    k: int,
) -> pd.DataFrame | None:
    """See :meth:`atlas.stores.Store.by_meaning`. ``ask``: a store's ``run``.

    The index knows no sets and no layers, and its candidates are approximate: more are asked for until the k-th within
    the scope, by its exact score, is better than the last candidate, which bounds all that were not seen.
    """
    names = {label: name(encoder, label) for label in LABELS}
    made = ask(_INDEXES, names=[*names.values()])
    indexes = zip(made["state"], made["width"], strict=True) if len(made) else ()
    if sum(index == ("ONLINE", len(vector)) for index in indexes) < len(LABELS) or not sets:
        return None
    query = _NEAREST.replace("PROPERTY", _quoted(property_of(encoder)))
    limit = max(4 * k, 100)
    while True:
        found = ask(query, sets=[*sets], claim=f"{encoder} ", vector=[*vector], limit=limit, **names)
        unseen = max(_bounds(found, limit), default=-math.inf)
        own = found.loc[found["set"].isin(sets) & found["layer"].between(*layers)]
        # of one feature's texts with the same score, the label is told
        own = own.sort_values(["score", "key", "matched_by"], ascending=[False, True, False])
        best = own.drop_duplicates("key").head(k)
        last = best["score"].iloc[-1] if len(best) == k else -math.inf
        if last > unseen or (last == unseen > -math.inf and limit == MOST):
            return best.drop(columns="set").reset_index(drop=True)
        if unseen == -math.inf or limit == MOST:
            return None
        limit = min(8 * limit, MOST)


def counts(encoder: str) -> Iterator[str]:
    """For the doctor: queries that count a set's vectors; ``$model, $set`` -> n."""
    features = "MATCH (f:Feature {model: $model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set\n"
    written = f"n.{_quoted(property_of(encoder))} IS NOT NULL RETURN count(n) AS n"
    yield features + f"WITH f AS n WHERE {written}"
    yield features + f"MATCH (f)-[:DESCRIBED_BY]->(n:Description) WHERE {written}"


def name(encoder: str, label: str) -> str:
    """What an encoder's index of features' labels, or of descriptions, is called."""
    return f"atlas_meaning_{label}_{encoder}"


def property_of(encoder: str) -> str:
    """The property that holds an encoder's vectors."""
    return f"_meaning_{encoder}"


def _quoted(text: str) -> str:
    return f"`{text.replace('`', '``')}`"


def _bounds(found: pd.DataFrame, limit: int) -> Iterator[float]:
    """The worst candidate of each index that may have more."""
    for _, some in found.groupby("matched_by"):
        if len(some) >= limit:
            yield float(min(some["score"]))


def _make(writer: Writer, encoder: str, width: int) -> None:
    """Make both indexes and wait for them; harmless to repeat."""
    with writer.session() as session:
        for label in LABELS:
            session.run(
                f"CREATE VECTOR INDEX {_quoted(name(encoder, label))} IF NOT EXISTS "  # type: ignore[arg-type]
                f"FOR (n:{label}) ON (n.{_quoted(property_of(encoder))}) "
                f"OPTIONS {{indexConfig: {{`vector.dimensions`: {width:d}, `vector.similarity_function`: 'cosine'}}}}"
            ).consume()
            session.run("CALL db.awaitIndex($name, 300)", name=name(encoder, label)).consume()
    for row in writer.run(_INDEXES, names=[name(encoder, label) for label in LABELS]):
        if row["width"] != width:
            raise BadSetting(
                f"{writer.address} has an index {row['name']} of vectors of width {row['width']}, and this encoder "
                f"gives {width}; give it another name, or drop both indexes of that name on the server"
            )


def _put(writer: Writer, encoder: str, label: str, said: list[list[Any]], vectors: Meanings) -> int:
    query = _FENCE + _WRITE.replace("LABEL", label).replace("PROPERTY", _quoted(property_of(encoder)))
    count = 0
    for first in range(0, len(said), _FEATURES):
        some = said[first : first + _FEATURES]
        rows = [
            {"key": key, "vector": vector}
            for (key, _), vector in zip(some, vectors([text for _, text in some]), strict=True)
        ]
        writer.run(query, owner=writer.owner, property=property_of(encoder), rows=rows)
        count += sum(row["vector"] is not None for row in rows)
    return count
