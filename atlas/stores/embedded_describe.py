"""Descriptions in one engine file: the difference between what it says and what is staged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.descriptions.loading import Changes, batches
from atlas.stores.embedded_rows import copy_rows

if TYPE_CHECKING:
    import ladybug

    from atlas.stores import Progress

_ROWS = 20_000
_GO = "UNWIND $keys AS key MATCH (d:Description {key: key}) DETACH DELETE d"
_LABEL = (
    "UNWIND $rows AS row MATCH (f:Feature {key: row.key}) SET f.label = row.label, f.label_source = row.label_source"
)


def apply(connection: ladybug.Connection, found: Changes, progress: Progress | None) -> None:
    """Take out, put in, relabel."""
    for first in range(0, len(found.gone), _ROWS):
        connection.execute(_GO, {"keys": found.gone[first : first + _ROWS]})
    copy_rows(connection, "Description", found.nodes)
    copy_rows(connection, "DESCRIBED_BY", found.edges)
    done = 0
    for rows in batches(found.labels, _ROWS):
        connection.execute(_LABEL, {"rows": rows})
        done += len(rows)
        if progress:
            progress("labels", done, len(found.labels))
