"""What nodes are called, many of them in one question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from queries.catalog import records

if TYPE_CHECKING:
    from atlas.stores import Store


class Called(NamedTuple):
    """What is said of a node beside its key."""

    label: str
    """of a token, its text"""
    layer: int | None
    """of a token, None"""


def called(graph: Store, keys: Iterable[str]) -> dict[str, Called]:
    """Labels and layers of features and tokens, by key, each key once, in the order given.

    A question a node would cost a round trip each over Bolt, which is more than most searches.
    """
    wanted = list(dict.fromkeys(keys))
    found: dict[str, Called] = {}
    if features := [key for key in wanted if not key.startswith("tok:")]:
        named = records(graph, "labels_of", keys=features)
        found |= {row["key"]: Called(str(row["label"]), int(row["layer"])) for row in named}
    if tokens := [key for key in wanted if key.startswith("tok:")]:
        found |= {row["key"]: Called(str(row["text"]), None) for row in records(graph, "texts_of", keys=tokens)}
    return {key: found[key] for key in wanted}
