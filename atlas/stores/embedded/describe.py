"""Descriptions in one engine file: the difference between what it says and what is staged."""

from __future__ import annotations

from atlas.descriptions.loading import Changes, batches
from atlas.stores import Progress
from atlas.stores.embedded.engine import Engine

_ROWS = 20_000
_GO = "UNWIND $keys AS key MATCH (d:Description {key: key}) DETACH DELETE d"
_LABEL = (
    "UNWIND $rows AS row MATCH (f:Feature {key: row.key}) SET f.label = row.label, f.label_source = row.label_source"
)


def apply(engine: Engine, found: Changes, show: Progress) -> None:
    """Take out, put in, relabel."""
    for first in range(0, len(found.gone), _ROWS):
        engine.table(_GO, {"keys": found.gone[first : first + _ROWS]})
    for name, rows in (("Description", found.nodes), ("DESCRIBED_BY", found.edges)):
        if len(rows):
            engine.table(f"COPY {name} FROM $rows", {"rows": rows})
    done = 0
    for rows in batches(found.labels, _ROWS):
        engine.table(_LABEL, {"rows": rows})
        done += len(rows)
        show("labels", done, len(found.labels))
