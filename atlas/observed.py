"""A build with what was seen on a text joined in: the form that stores load.

:class:`Observed` reads like any :class:`atlas.staging.Build`, with the properties that :mod:`atlas.schema` calls
evidence on every node and edge, and with the edges that evidence alone keeps between the others. Where nothing was
observed, evidence is null. The build on disk stays what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atlas import observations, schema, through
from atlas.errors import BadBuild
from atlas.observations import EVIDENCE, KEPT_BY, Observation
from atlas.staging import Build

_WORDS = pa.array([",".join(word for bit, word in enumerate(KEPT_BY) if code >> bit & 1) for code in range(16)])
_EXTRA = "edges/FEEDS/"


def observed(build: Build, name: str | None = None) -> Observed:
    """A build with an observation, by name or the default one; with none where nothing was observed."""
    if isinstance(build, Observed):
        return build
    chosen = name or observations.default_name(build)
    return Observed(build.path, build.manifest, observations.find(build, chosen) if chosen else None)


@dataclass(frozen=True)
class Observed(Build):
    """A build and perhaps an observation of it. Make one with :func:`observed`."""

    observation: Observation | None = None

    @property
    def n_extra(self) -> int:
        """Edges that evidence alone keeps."""
        return self.observation.manifest["files"]["extra/FEEDS.parquet"]["rows"] if self.observation else 0

    @property
    def says(self) -> str:
        """What the evidence rests on, as JSON, the TranscoderSet's property ``observation``; empty without one."""
        if self.observation is None:
            return ""
        manifest = self.observation.manifest
        said = {
            "name": self.observation.name,
            "text": manifest["corpus"]["name"],
            "positions": manifest["positions"],
            "strongest": manifest["strongest"],
            "run": manifest["run"],
        }
        return json.dumps(said | ({"heads": True} if self.observation.heads else {}))

    def rows(self, prefix: str) -> int:
        """Rows of all files whose name begins with ``prefix``, and the extra edges among FEEDS."""
        return super().rows(prefix) + (self.n_extra if _EXTRA.startswith(prefix) else 0)

    def nodes(self, label: str) -> pa.Table:
        """All nodes of one label; columns as :attr:`atlas.schema.Node.stored`."""
        table = super().nodes(label)
        if label == "TranscoderSet":
            at = table.schema.get_field_index("n_edges")
            table = table.set_column(at, "n_edges", pa.array([self.n_edges], pa.int64()))
            return table.append_column("observation", pa.array([self.says], pa.string()))
        if label == "Feature":
            seen = self.observation.features() if self.observation else None
            for field in _evidence_of(schema.NODE[label]):
                column = pa.nulls(len(table), field.type) if seen is None else seen[field.name].cast(field.type)
                table = table.append_column(field, column)
            paths = through.features(self)
            for field in schema.NODE[label].through_arrow:
                column = pa.nulls(len(table), field.type) if paths is None else paths[field.name].cast(field.type)
                table = table.append_column(field, column)
        return table

    def edges(self, kind: str) -> Iterator[pa.Table]:
        """As :meth:`atlas.staging.Build.edges`, with evidence; extra edges stand where their target's others stand."""
        fields = _evidence_of(schema.EDGE[kind])
        if kind in through.KINDS:
            for name, table in zip(self.edge_files(kind), super().edges(kind), strict=True):
                yield self._through(kind, name.rpartition("/")[2].removesuffix(".parquet"), table, fields)
            return
        names = self.edge_files(kind)
        first, low = 0, 0
        for number, table in enumerate(super().edges(kind)):
            if self.observation is None:
                for field in fields:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
                yield table
                continue
            last = number == len(names) - 1
            high = self.n_features if last or not len(table) else int(table["target"][len(table) - 1].as_py()) + 1
            found = self._with_evidence(kind, table, first)
            if kind == "FEEDS" and high > low:
                found = self._with_extra(found, low, high)
            first, low = first + len(table), max(low, high)
            at = found.schema.get_field_index("kept_by")
            words = pc.take(_WORDS, found["kept_by"].combine_chunks().cast(pa.int32()))
            yield found.set_column(at, "kept_by", words).select(
                ["source", "target", "weight", "z", "share", *(field.name for field in fields)]
            )

    def _through(self, kind: str, head: str, edges: pa.Table, fields: list[pa.Field]) -> pa.Table:
        """Edges of one kind through one head, with evidence; nothing is ever observed of PREDICTS."""
        seen = self.observation.through(kind, head) if fields and self.observation and self.observation.heads else None
        if seen is not None:
            self._follow(seen, edges, f"edges/{kind}/{head}.parquet")
        for field in fields:
            edges = edges.append_column(field, pa.nulls(len(edges), field.type) if seen is None else seen[field.name])
        return edges

    def _with_evidence(self, kind: str, edges: pa.Table, first: int) -> pa.Table:
        evidence = self._evidence(kind).slice(first, len(edges))
        self._follow(evidence, edges, f"edges/{kind}.parquet")
        for name in EVIDENCE.names:
            edges = edges.append_column(name, evidence[name])
        return edges

    def _follow(self, evidence: pa.Table, edges: pa.Table, file: str) -> None:
        assert self.observation is not None
        if not (evidence["source"].equals(edges["source"]) and evidence["target"].equals(edges["target"])):
            where = self.observation.path / file
            raise BadBuild(f"{where} does not follow the build's edges; observe the text again")

    def _with_extra(self, edges: pa.Table, low: int, high: int) -> pa.Table:
        """With the extra edges into rows ``low`` to ``high - 1``."""
        extra = self._evidence("extra")
        start, end = np.searchsorted(extra["target"].to_numpy(), [low, high])
        part = extra.slice(start, end - start)
        between = self.derive("FEEDS", part.select(["source", "target", "weight"]))
        for name in EVIDENCE.names:
            between = between.append_column(name, part[name])
        both = pa.concat_tables([edges, between])
        return both.sort_by([("target", "ascending"), ("source", "ascending")])

    def _evidence(self, kind: str) -> pa.Table:
        assert self.observation is not None
        cache = self.__dict__.setdefault("_evidence_cache", {})
        if kind not in cache:
            cache[kind] = self.observation.extra() if kind == "extra" else self.observation.edges(kind)
        return cache[kind]


def _evidence_of(table: schema.Node | schema.Edge) -> list[pa.Field]:
    return [table.stored_arrow.field(p.name) for p in table.evidence]
