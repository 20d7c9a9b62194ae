"""What a store must change so that it says what is staged: the difference, so that saying it again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from atlas import descriptions, schema
from atlas.staging import Build

if TYPE_CHECKING:
    from atlas.stores import Store

_LOADED = "MATCH (s:TranscoderSet {key: $set}) RETURN s.run AS run"
_SAID = """
MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description) WHERE f.model = $model AND f.set = $set
RETURN d.key AS key, d.text AS text, d.run AS run
"""
_LABELS = """
MATCH (f:Feature) WHERE f.model = $model AND f.set = $set
RETURN f.key AS key, f.label AS label, f.label_source AS label_source
"""


@dataclass(frozen=True)
class Changes:
    """Descriptions to take out and to put in, and labels to set."""

    gone: list[str]
    """keys of Description nodes"""
    nodes: pa.Table
    """new Description nodes; columns as in :data:`atlas.schema.NODES`"""
    edges: pa.Table
    """their DESCRIBED_BY: source (feature's key), target"""
    labels: pa.Table
    """key, label, label_source of the features whose label changes"""

    def __bool__(self) -> bool:
        return bool(self.gone or len(self.nodes) or len(self.labels))


def changes(graph: Store, build: Build) -> Changes | None:
    """What ``graph`` lacks of the build's staged descriptions; None where it does not hold this build."""
    of = {"model": build.model, "set": build.set_key}
    loaded = graph.run(_LOADED, set=build.set_key)
    if loaded.empty or str(loaded["run"].iloc[0]) != build.run:
        return None
    runs = descriptions.staged(build)
    empty_nodes = schema.NODE["Description"].arrow.empty_table()
    empty_edges = schema.EDGE["DESCRIBED_BY"].arrow.empty_table()
    nodes = pa.concat_tables([empty_nodes, *(one.nodes() for one in runs)]).combine_chunks()
    edges = pa.concat_tables([empty_edges, *(one.edges() for one in runs)]).combine_chunks()
    said = graph.run(_SAID, **of)
    there = set(zip(said["key"], said["run"], said["text"], strict=True))
    wanted = list(zip(*(nodes[name].to_pylist() for name in ("key", "run", "text")), strict=True))
    new = pa.array([one not in there for one in wanted], pa.bool_())
    gone = sorted({key for key, _, _ in there - set(wanted)})
    return Changes(gone, nodes.filter(new), edges.filter(new), _relabelled(graph, build))


def _relabelled(graph: Store, build: Build) -> pa.Table:
    found = graph.run(_LABELS, model=build.model, set=build.set_key)
    now = dict(zip(found["key"], zip(found["label"], found["label_source"], strict=True), strict=True))
    wanted = descriptions.labels(build)
    rows = zip(*(wanted[name].to_pylist() for name in ("key", "label", "label_source")), strict=True)
    return wanted.filter(pa.array([now.get(key) != (label, source) for key, label, source in rows], pa.bool_()))


def batches(table: pa.Table, size: int) -> list[list[dict[str, str]]]:
    """A table as lists of rows for a query's parameter."""
    return [table.slice(first, size).to_pylist() for first in range(0, len(table), size)]


def joined(changes: Changes) -> pa.Table:
    """New nodes with ``feature``, the key of what they describe."""
    order = pc.index_in(changes.nodes["key"], changes.edges["target"])  # pyright: ignore[reportAttributeAccessIssue] - made on import
    return changes.nodes.append_column("feature", pc.take(changes.edges["source"], order))
