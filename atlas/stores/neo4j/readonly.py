"""Somebody else's Cypher: read, and nothing but read.

A read transaction refuses writes, schema changes and user administration, but lets through LOAD CSV of files and
addresses, TERMINATE TRANSACTIONS, SHOW SETTINGS and procedures with effects. So the server is asked for the plan first,
and the plan must be a read of the graph. The settings of the server are the second wall
(:data:`atlas.server.home.SETTINGS`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import neo4j

from atlas.errors import WriteRefused

PROCEDURES = frozenset(
    {
        "db.index.fulltext.queryNodes",
        "db.index.fulltext.queryRelationships",
        "db.index.vector.queryNodes",
        "db.index.vector.queryRelationships",
        "db.info",
        "db.labels",
        "db.ping",
        "db.propertyKeys",
        "db.relationshipTypes",
        "db.schema.nodeTypeProperties",
        "db.schema.relTypeProperties",
        "db.schema.visualization",
    }
)
"""procedures that read the graph and have no other effect; a plug-in's may reach anywhere"""

_REACHES_OUT = re.compile(r"^(LoadCSV|Terminate|Show|AdministrationCommand)")
_POSITION = re.compile(r"\(line (\d+), column (\d+) \(offset: \d+\)\)")


def check(tx: neo4j.Transaction, query: str, parameters: Mapping[str, Any]) -> None:
    """Have the server plan the query, without running it.

    Raises WriteRefused where it would change the atlas or reach outside it; the server's own error, where it is
    malformed, passes through.
    """
    # on a line of its own, so that the columns in the server's messages are the writer's
    summary = tx.run(f"EXPLAIN\n{query}", dict(parameters)).consume()  # type: ignore[arg-type]
    for operator, details in _operators(summary.plan or {}):
        if _REACHES_OUT.match(operator):
            what = "reads files or addresses (LOAD CSV)" if operator == "LoadCSV" else "looks at or governs the server"
            raise WriteRefused(f"the query {what}; only reading the graph is allowed here")
        if operator == "ProcedureCall" and (name := details.partition("(")[0].strip()) not in PROCEDURES:
            raise WriteRefused(f"the query calls {name}, which is not one of: {', '.join(sorted(PROCEDURES))}")
    if summary.query_type != "r":
        raise WriteRefused("the query would change the atlas or govern the server; only reading is allowed here")


def positioned(message: str) -> str:
    """A message about ``EXPLAIN\\n{query}`` with the line as the writer of the query counts it."""
    return _POSITION.sub(lambda found: f"(line {int(found[1]) - 1}, column {found[2]})", message)


def _operators(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if plan:
        yield str(plan["operatorType"]).partition("@")[0], str(plan.get("args", {}).get("Details", ""))
    for child in plan.get("children", ()):
        yield from _operators(child)
