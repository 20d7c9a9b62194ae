"""Rows into and out of one engine file: a staged build goes in, what is to be kept of an old file comes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas import schema, staging
from atlas.staging import Build

if TYPE_CHECKING:
    import ladybug

    from atlas.stores import Progress

_CHUNK = 500_000
"""rows that are held at a time"""


def load_build(connection: ladybug.Connection, build: Build, progress: Progress | None) -> None:
    """COPY a build: nodes that are not there yet, then relationships, keys joined to them chunk by chunk."""
    what, total = f"loading {build.set_key}", build.n_edges
    for label in staging.NODE_FILES:
        copy_rows(connection, label, _absent(connection, label, build.nodes(label)))
    ends = {"OF": (build.set_key, build.model), "LOADED_BY": (build.set_key, build.run)}
    for kind, (source, target) in ends.items():
        copy_rows(connection, kind, pa.table({"source": [source], "target": [target]}))
    done = 0
    for kind in staging.WEIGHTED:
        for table in build.edges(kind):
            for start in range(0, len(table), _CHUNK):
                part = table.slice(start, _CHUNK)
                copy_rows(connection, kind, staging.with_keys(build, kind, part))
                done += len(part)
                if progress:
                    progress(what, done, total)


def saved_rows(connection: ladybug.Connection, without: set[str]) -> Iterator[tuple[str, pa.Table]]:
    """All rows of an atlas but those of the sets in ``without``: tables of nodes first, then of relationships.

    Models and runs that no other set uses stay out, and tokens of vocabularies that no other model uses.
    """
    keys = sorted(without)
    sets = connection.execute(
        "MATCH (s:TranscoderSet) WHERE NOT s.key IN $keys RETURN s.key, s.model, s.run", {"keys": keys}
    ).get_all()
    kept = {"sets": [row[0] for row in sets], "models": [row[1] for row in sets], "runs": [row[2] for row in sets]}
    kept["vocabularies"] = [
        row[0]
        for row in connection.execute(
            "MATCH (m:Model) WHERE m.key IN $models RETURN DISTINCT m.tokenizer", {"models": kept["models"]}
        ).get_all()
    ]
    conditions = {
        "Model": "n.key IN $models",
        "TranscoderSet": "n.key IN $sets",
        "Feature": "n.set IN $sets",
        "Token": "n.vocabulary IN $vocabularies",
        "Run": "n.key IN $runs",
    }
    for node in schema.NODES:
        columns = ", ".join(f"n.{p.name} AS {p.name}" for p in node.stored)
        if node.label == "Description":
            match = "MATCH (f:Feature)-[:DESCRIBED_BY]->(n:Description) WHERE f.set IN $sets"
        else:
            match = f"MATCH (n:{node.label}) WHERE {conditions[node.label]}"
        yield from _tables(connection, node.label, f"{match} RETURN DISTINCT {columns}", kept, node.stored_arrow)
    for edge in schema.EDGES:
        columns = "".join(f", e.{p.name} AS {p.name}" for p in edge.stored)
        owner = {"Feature": "set", "TranscoderSet": "key"}
        end = "a" if edge.source in owner else "b"
        column = owner[edge.source if end == "a" else edge.target]
        query = (
            f"MATCH (a:{edge.source})-[e:{edge.type}]->(b:{edge.target}) WHERE {end}.{column} IN $sets "
            f"RETURN a.key AS source, b.key AS target{columns}"
        )
        yield from _tables(connection, edge.type, query, kept, edge.stored_arrow)


def _tables(
    connection: ladybug.Connection, name: str, query: str, parameters: dict[str, list[str]], columns: pa.Schema
) -> Iterator[tuple[str, pa.Table]]:
    used = {key: value for key, value in parameters.items() if f"${key}" in query}
    found = connection.execute(query, used)
    table = found.get_as_arrow(_CHUNK)
    found.close()
    if len(table):
        yield name, table.cast(columns)


def _absent(connection: ladybug.Connection, label: str, nodes: pa.Table) -> pa.Table:
    """The rows that the file does not hold yet: models, tokens and runs may be shared."""
    if label == "Feature":
        return nodes
    present = {row[0] for row in connection.execute(f"MATCH (n:{label}) RETURN n.key").get_all()}
    if not present:
        return nodes
    return nodes.filter(pa.array([key not in present for key in nodes["key"].to_pylist()], pa.bool_()))


def copy_rows(connection: ladybug.Connection, name: str, rows: pa.Table) -> None:
    """Bulk-load rows of one node or relationship table."""
    if len(rows):
        connection.execute(f"COPY {name} FROM rows")
