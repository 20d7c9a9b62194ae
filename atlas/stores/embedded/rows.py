"""Rows into and out of an engine file: a staged build goes in, what is to be kept of an old file comes out.

Relationships go in as Arrow tables whose keys are dictionaries over the build's row numbers, so that no key is written
twice. One COPY takes millions of rows: each further one into the same table costs more than half as much again, since
the engine then merges lists instead of writing them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas import schema, staging
from atlas.errors import BadBuild
from atlas.staging import Build
from atlas.stores import Progress
from atlas.stores.embedded.engine import Engine

_ROWS_A_COPY = 8_000_000
_SHARED = ("Model", "Token", "Run", "Head")
"""labels whose nodes several sets may use"""
_OF_MODEL = ("n_layers", "d_model", "n_vocab", "tokenizer")
"""what two sets of one model must agree on"""


def create(engine: Engine) -> None:
    """Make every table of the schema in a new file."""
    for statement in schema.embedded_ddl():
        engine.table(statement)


def load(engine: Engine, build: Build, show: Progress) -> None:
    """COPY a build: nodes that are not there yet, then relationships.

    Raises BadBuild where the atlas holds another model or vocabulary by the same name.
    """
    for label in build.labels:
        nodes = build.nodes(label)
        _copy(engine, label, _absent(engine, label, nodes) if label in _SHARED else nodes)
    _copy(engine, "OF", pa.table({"source": [build.set_key], "target": [build.model]}))
    _copy(engine, "LOADED_BY", pa.table({"source": [build.set_key], "target": [build.run]}))
    what, done = f"loading {build.set_key}", 0
    show(what, 0, build.n_edges)
    for kind in staging.WEIGHTED:
        for rows in _gathered(_with_keys(build, kind, edges) for edges in build.edges(kind)):
            _copy(engine, kind, rows)
            done += len(rows)
            show(what, done, build.n_edges)


def keep(old: Engine, new: Engine, without: set[str], scratch: Path, show: Progress) -> None:
    """Carry everything over from an old file but some sets, and what nothing else uses: their models, runs, tokens."""
    create(new)
    tables = list(_kept(old, without))
    for done, (name, query, columns) in enumerate(tables):
        show("keeping the other sets", done, len(tables))
        file = scratch / f"{name}.parquet"
        old.table(f"COPY ({query}) TO {_literal(str(file))}")
        with pq.ParquetFile(file) as parquet:
            batches = (pa.table(batch).cast(columns) for batch in parquet.iter_batches(batch_size=1 << 20))
            for rows in _gathered(batches):
                _copy(new, name, rows)
        file.unlink()
    show("keeping the other sets", len(tables), len(tables))


def _copy(engine: Engine, table: str, rows: pa.Table) -> None:
    if len(rows):
        engine.table(f"COPY {table} FROM $rows", {"rows": rows})


def _with_keys(build: Build, kind: str, edges: pa.Table) -> pa.Table:
    edge = schema.EDGE[kind]
    for column, label in (("source", edge.source), ("target", edge.target)):
        keys = build.keys(label).chunk(0)
        chunks = [pa.DictionaryArray.from_arrays(rows, keys) for rows in edges[column].chunks]
        at = edges.schema.get_field_index(column)
        edges = edges.set_column(at, column, pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.string())))
    return edges


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables put together until one COPY is worth its while."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROWS_A_COPY:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _absent(engine: Engine, label: str, nodes: pa.Table) -> pa.Table:
    """The nodes that the file does not hold yet."""
    same = {"Model": _OF_MODEL, "Token": ("text",), "Run": (), "Head": ("value_group",)}[label]
    by = {"Token": "vocabulary", "Head": "model"}.get(label, "key")
    where, of = f"n.{by} = $of", nodes[by][0].as_py()
    columns = "".join(f", n.{name} AS {name}" for name in same)
    held, _ = engine.table(f"MATCH (n:{label}) WHERE {where} RETURN n.key AS key{columns}", {"of": of})
    at = pc.index_in(nodes["key"], held["key"].combine_chunks())  # pyright: ignore[reportAttributeAccessIssue] - made on import
    known = nodes.filter(at.is_valid())
    for name in same:
        # two models of one tokenizer may have unequally many rows; what both have must be the same
        if not held[name].take(at.drop_null()).equals(known[name].cast(held.schema.field(name).type)):
            raise BadBuild(
                f"the atlas holds another {'vocabulary' if label == 'Token' else 'model'} under the name {of} ({name} "
                "differs); ingest this one under another name with --as MODEL/SET, or remove the other first"
            )
    return nodes.filter(at.is_null())


def _kept(old: Engine, without: set[str]) -> Iterator[tuple[str, str, pa.Schema]]:
    """Table, query and columns of all that stays; nodes first."""
    sets = [row for row in old.values("MATCH (s:TranscoderSet) RETURN s.key, s.model, s.run") if row[0] not in without]
    keys, models, runs = ([row[column] for row in sets] for column in range(3))
    compared = old.values("MATCH (a:Feature)-[e:MATCHES]->(b:Feature) RETURN DISTINCT e.run, a.set, b.set")
    runs += [run for run, *ends in compared if set(ends) <= set(keys)]
    vocabularies = [name for key, name in old.values("MATCH (m:Model) RETURN m.key, m.tokenizer") if key in models]
    nodes = {
        "Model": f"MATCH (n:Model) WHERE n.key IN {_literals(models)}",
        "TranscoderSet": f"MATCH (n:TranscoderSet) WHERE n.key IN {_literals(keys)}",
        "Run": f"MATCH (n:Run) WHERE n.key IN {_literals(runs)}",
        "Token": f"MATCH (n:Token) WHERE n.vocabulary IN {_literals(vocabularies)}",
        "Feature": f"MATCH (n:Feature) WHERE n.set IN {_literals(keys)}",
        "Head": f"MATCH (n:Head) WHERE n.model IN {_literals(models)}",
        "Description": f"MATCH (f:Feature)-[:DESCRIBED_BY]->(n:Description) WHERE f.set IN {_literals(keys)}",
    }
    for node in schema.NODES:
        columns = ", ".join(f"n.{p.name} AS {p.name}" for p in node.stored)
        yield node.label, f"{nodes[node.label]} RETURN {columns}", node.stored_arrow
    for edge in schema.EDGES:
        # a relationship has an end that belongs to one set; a match has two, PREDICTS none but its run
        ends = {"a": edge.source, "b": edge.target}
        owners = [f"{end}.set" for end, label in ends.items() if label == "Feature"] or ["a.key"]
        stay = " AND ".join(
            f"{owner} IN {_literals(keys)}" for owner in (owners if edge.type == "MATCHES" else owners[:1])
        )
        columns = "".join(f", e.{p.name} AS {p.name}" for p in edge.stored)
        if edge.type == "PREDICTS":
            stay = f"e.run IN {_literals(runs)}"
        match = f"MATCH (a:{edge.source})-[e:{edge.type}]->(b:{edge.target}) WHERE {stay}"
        yield edge.type, f"{match} RETURN a.key AS source, b.key AS target{columns}", edge.stored_arrow


def _literals(texts: list[Any]) -> str:
    # an empty list has no type here
    return f"[{', '.join(_literal(text) for text in dict.fromkeys(texts))}]" if texts else "['']"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
