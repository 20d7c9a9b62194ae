"""What tables of the graph are made of: properties, nodes, relationships. :mod:`atlas.schema` declares them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa


class Type(StrEnum):
    """A property's type, by its name in the embedded engine."""

    STRING = "STRING"
    INT = "INT64"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    BOOL = "BOOL"
    FLOATS = "FLOAT[]"
    INTS = "INT64[]"
    STRINGS = "STRING[]"


ARROW = {
    Type.STRING: pa.string(),
    Type.INT: pa.int64(),
    Type.FLOAT: pa.float32(),
    Type.DOUBLE: pa.float64(),
    Type.BOOL: pa.bool_(),
    Type.FLOATS: pa.list_(pa.float32()),
    Type.INTS: pa.list_(pa.int64()),
    Type.STRINGS: pa.list_(pa.string()),
}
IMPORT = {
    Type.STRING: "string",
    Type.INT: "long",
    Type.FLOAT: "float",
    Type.DOUBLE: "double",
    Type.BOOL: "boolean",
    Type.FLOATS: "float[]",
    Type.INTS: "long[]",
    Type.STRINGS: "string[]",
}


@dataclass(frozen=True)
class Property:
    """One property of a node or relationship, and what it means."""

    name: str
    type: Type
    meaning: str


@dataclass(frozen=True)
class Node:
    """One kind of node. Its first property is always ``key``, unique within the table."""

    label: str
    meaning: str
    properties: tuple[Property, ...]
    indexed: tuple[str, ...] = ()
    """properties that a server indexes together, in this order, beside the key"""
    evidence: tuple[Property, ...] = ()
    """what was seen on a text: in stores behind the others, null where nothing was observed; in no build"""
    through: tuple[Property, ...] = ()
    """what a build with heads adds: in stores behind all others, null where it has none"""

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(p.name, ARROW[p.type]) for p in self.properties])

    @property
    def stored(self) -> tuple[Property, ...]:
        """What a store keeps of it."""
        return self.properties + self.evidence + self.through

    @property
    def stored_arrow(self) -> pa.Schema:
        return pa.schema([(p.name, ARROW[p.type]) for p in self.stored])

    @property
    def through_arrow(self) -> pa.Schema:
        return pa.schema([(p.name, ARROW[p.type]) for p in self.through])


@dataclass(frozen=True)
class Edge:
    """One kind of relationship between two kinds of node."""

    type: str
    source: str
    target: str
    meaning: str
    unit: str
    properties: tuple[Property, ...]
    evidence: tuple[Property, ...] = ()
    """as :attr:`Node.evidence`"""

    @property
    def weighted(self) -> bool:
        """Whether it carries ``weight``, ``z`` and ``share``; structure does not."""
        return any(p.name == "weight" for p in self.properties)

    @property
    def arrow(self) -> pa.Schema:
        """``source`` and ``target`` keys, then the properties."""
        ends = [("source", pa.string()), ("target", pa.string())]
        return pa.schema(ends + [(p.name, ARROW[p.type]) for p in self.properties])

    @property
    def stored(self) -> tuple[Property, ...]:
        """What a store keeps of it, beside its ends."""
        return self.properties + self.evidence

    @property
    def stored_arrow(self) -> pa.Schema:
        """:attr:`arrow`, then evidence."""
        return pa.schema([*self.arrow, *((p.name, ARROW[p.type]) for p in self.evidence)])
