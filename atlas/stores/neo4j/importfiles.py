"""The files that Neo4j's importer reads: the builds of all sets as Parquet, nodes once, relationships by number.

Nodes get numbers as the importer's identifiers, since text costs it more; keys are properties as ever. Staged edges
name nodes by row number, so a file of theirs is written again with those moved, and with z and share.
"""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas import schema
from atlas.observed import observed
from atlas.staging import WEIGHTED, Build
from atlas.stores import Progress
from atlas.stores.neo4j.fulltext import words
from atlas.stores.neo4j.load import ledger
from atlas.stores.neo4j.state import DDL, FORMAT

DATABASE = "neo4j"
_ROWS = 10_000


@dataclass(frozen=True)
class Plan:
    """Files for the importer, and how to run it."""

    folder: Path
    arguments: tuple[str, ...]
    """of ``neo4j-admin``"""
    nodes: int
    edges: int

    @property
    def call(self) -> str:
        """The exact call, for a server that is not ours; run it while the server is stopped."""
        return "neo4j-admin " + " ".join(shlex.quote(argument) for argument in self.arguments)


def words_of(table: pa.Table, label: str) -> pa.Array | None:
    """What search finds the nodes of a table by; None where it finds none of them."""
    text = {"Feature": "label", "Token": "text"}.get(label)
    return pa.array([words(one) for one in table[text].to_pylist()], pa.string()) if text else None


def empty_texts(builds: Sequence[Build]) -> dict[tuple[str, str], list[str]]:
    """Keys of nodes with an empty text, by label and property: the importer takes an empty text for an absent one."""
    found: dict[tuple[str, str], list[str]] = {}
    for build in map(observed, builds):
        for label in build.labels:
            table = build.nodes(label)
            columns = {field.name: table[field.name] for field in table.schema if field.type == pa.string()}
            if (worded := words_of(table, label)) is not None:
                columns["_words"] = worded
            for name, column in columns.items():
                keys = table["key"].filter(pc.equal(column, "")).to_pylist()  # type: ignore[attr-defined]
                found.setdefault((label, name), []).extend(keys)
    return {where: keys for where, keys in found.items() if keys}


def restoring(label: str, name: str) -> str:
    """Cypher that makes a property of the nodes ``$keys`` the empty text."""
    return f"UNWIND $keys AS key MATCH (n:{label} {{key: key}}) SET n.`{name}` = ''"


class Files:
    """One set of files, written once."""

    def __init__(self, builds: Sequence[Build], folder: Path, progress: Progress) -> None:
        self._builds = [observed(build) for build in builds]
        self._folder = folder
        self._progress = progress
        self._arguments: list[str] = []
        self._next = 0
        self._nodes = 0
        self._tokens: dict[str, tuple[int, int]] = {}
        """first number and count of each vocabulary's tokens"""
        self._named: dict[tuple[str, str], int] = {}

    def write(self) -> Plan:
        self._all_tokens()
        self._structure()
        first = {build.id: self._features(build) for build in self._builds}
        self._internal()
        edges = self._edges(first)
        options = [
            "--input-type=parquet",
            "--id-type=integer",
            "--bad-tolerance=0",
            "--overwrite-destination",
            f"--report-file={self._folder / 'import.report'}",  # else where the caller stands
        ]
        arguments = ("database", "import", "full", DATABASE, *options, *self._arguments)
        plan = Plan(self._folder, arguments, self._nodes, edges)
        (self._folder / "import.txt").write_text(plan.call + "\n")
        (self._folder / "after.cypher").write_text("".join(f"{statement};\n" for statement in self._after()))
        return plan

    def _after(self) -> Iterator[str]:
        """What the importer leaves out, for ``cypher-shell``: constraints, indexes, empty texts."""
        yield from DDL
        yield "CALL db.awaitIndexes(3600)"
        for (label, name), keys in empty_texts(self._builds).items():
            for first in range(0, len(keys), _ROWS):
                yield restoring(label, name).replace("$keys", json.dumps(keys[first : first + _ROWS]))

    def _all_tokens(self) -> None:
        """One vocabulary once, from the build that has most of it."""
        largest: dict[str, pa.Table] = {}
        for build in self._builds:
            table = build.nodes("Token")
            name = build.vocabulary
            if name not in largest or table.num_rows > largest[name].num_rows:
                largest[name] = table
        for name, table in largest.items():
            self._tokens[name] = (self._node_file("Token", table, name), table.num_rows)

    def _structure(self) -> None:
        for label in ("Model", "TranscoderSet", "Run", "Head"):
            having = [build for build in self._builds if label in build.labels]
            rows = {row["key"]: row for build in having for row in build.nodes(label).to_pylist()}
            if not rows:
                continue
            table = pa.Table.from_pylist(list(rows.values()), schema=schema.NODE[label].stored_arrow)
            first = self._node_file(label, table, "all")
            self._named |= {(label, key): first + i for i, key in enumerate(rows)}

    def _features(self, build: Build) -> int:
        return self._node_file("Feature", build.nodes("Feature"), build.id)

    def _internal(self) -> None:
        state = {"key": "state", "format": FORMAT, "generation": 0, "loads": 0, "id": str(uuid.uuid4())}
        self._node_file("AtlasState", pa.Table.from_pylist([state]), "all")
        sets = [ledger(build) for build in self._builds]
        self._node_file("AtlasSet", pa.Table.from_pylist(sets), "all")

    def _edges(self, first: dict[str, int]) -> int:
        total, done = sum(build.n_edges for build in self._builds), 0
        self._progress("writing", 0, total)
        for kind in WEIGHTED:
            for build in self._builds:
                tokens = self._tokens[build.vocabulary][0]
                start = {"Token": tokens, "Feature": first[build.id]}
                for position, edges in enumerate(build.edges(kind)):
                    if edges.num_rows:
                        self._edge_file(schema.EDGE[kind], f"{build.id}-{position:04}", edges, start)
                    done += edges.num_rows
                    self._progress("writing", done, total)
        for kind, key in (("OF", "model"), ("LOADED_BY", "run")):
            edge = schema.EDGE[kind]
            rows = [row for build in self._builds for row in build.nodes("TranscoderSet").to_pylist()]
            ends = {
                "source": np.array([self._named[edge.source, row["key"]] for row in rows], np.int64),
                "target": np.array([self._named[edge.target, row[key]] for row in rows], np.int64),
            }
            self._edge_file(edge, "all", pa.table(ends), {edge.source: 0, edge.target: 0})
        return total

    def _node_file(self, label: str, table: pa.Table, name: str) -> int:
        first, self._next = self._next, self._next + table.num_rows
        self._nodes += table.num_rows
        if (found := words_of(table, label)) is not None:
            table = table.append_column("_words", found)
        # lists that no build here has are columns of nothing
        lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
        table = table.drop_columns([name for name in lists if table[name].null_count == len(table) > 0])
        header = [":ID", *(f"{field.name}:{schema.import_type(field.type)}" for field in table.schema)]
        numbers = pa.array(np.arange(first, self._next))
        self._save(f"--nodes={label}=", f"nodes/{label}/{name}", pa.table([numbers, *table.columns], names=header))
        return first

    def _edge_file(self, edge: schema.Edge, name: str, edges: pa.Table, start: dict[str, int]) -> None:
        ends = [
            pa.array(edges[end].to_numpy().astype(np.int64) + start[label])
            for end, label in (("source", edge.source), ("target", edge.target))
        ]
        # evidence that nobody gathered is a column of nothing
        fields = [field for field in edges.schema if field.name not in ("source", "target")]
        kept = [field for field in fields if edges[field.name].null_count < len(edges)]
        header = [":START_ID", ":END_ID", *(f"{field.name}:{schema.import_type(field.type)}" for field in kept)]
        columns = [*ends, *(edges[field.name] for field in kept)]
        self._save(f"--relationships={edge.type}=", f"edges/{edge.type}/{name}", pa.table(columns, names=header))

    def _save(self, option: str, name: str, table: pa.Table) -> None:
        file = self._folder / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, compression="snappy", use_dictionary=False)
        self._arguments.append(f"{option}{file}")
