"""A whole graph as sets of tuples: what is on the server, and what it should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas import schema
from tests import toy
from tests.neo4j.servers import Place
from tests.toy import Toy

Graph = dict[str, Counter[tuple[Any, ...]]]


def stage(home: Path, **arguments: Any) -> Toy:
    """A toy build in a home, under its own id, as ingest leaves it."""
    scratch = home / "builds" / "scratch"
    written = toy.write(scratch, **arguments)
    folder = scratch.with_name(written.build.id)
    scratch.rename(folder)
    return replace(written, path=folder)


def on(place: Place) -> Graph:
    """Everything on the server with a label or type of the atlas; a thing that is there twice counts twice."""
    graph: Graph = {}
    for node in schema.NODES:
        rows = place.query(f"MATCH (n:{node.label}) RETURN properties(n) AS n")
        graph[node.label] = Counter(_flat(row["n"]) for row in rows)
    for edge in schema.EDGES:
        rows = place.query(
            f"MATCH (a)-[e:{edge.type}]->(b) RETURN a.key AS a, b.key AS b, properties(e) AS e, "
            f"labels(a) = ['{edge.source}'] AND labels(b) = ['{edge.target}'] AS labelled"
        )
        graph[edge.type] = Counter((row["a"], row["b"], row["labelled"], *_flat(row["e"])) for row in rows)
    return graph


def of(*toys: Toy) -> Graph:
    """What a server that holds exactly these builds should have."""
    nodes: dict[str, dict[str, Any]] = {node.label: {} for node in schema.NODES}
    graph: Graph = {edge.type: Counter() for edge in schema.EDGES}
    for one in toys:
        for label, rows in one.nodes.items():
            seen = {"observation": ""} if label == "TranscoderSet" else {}
            nodes[label] |= {row["key"]: _flat(row | seen) for row in rows}
        for kind, edges in one.edges.items():
            graph[kind].update(
                (a, b, True, *_flat({"weight": weight, "z": z, "share": share})) for a, b, weight, z, share in edges
            )
        for kind, ends in one.structure.items():
            graph[kind].update((a, b, True) for a, b in ends)
    return {label: Counter(rows.values()) for label, rows in nodes.items()} | graph


def internal(place: Place) -> dict[str, int]:
    """How many nodes the store keeps for itself that should be gone when nobody writes."""
    labels = ("Loading", "Leaving", "AtlasLoad", "AtlasBatch")
    counted = {label: place.query(f"MATCH (n:{label}) RETURN count(n) AS n")[0]["n"] for label in labels}
    return {label: n for label, n in counted.items() if n}


def _flat(properties: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(properties.items())
        if name != "row" and not name.startswith("_")  # the store's own
    )
