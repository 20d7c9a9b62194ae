"""Features of two sets that stand for each other, on their way into a store.

What makes them alike is the business of ``queries``; here is what a store is given: pairs of keys with their score, and
the run that says how they were found. One method has one matching of two sets: a newer one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas import schema
from atlas.errors import BadKey
from atlas.provenance import Run

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = schema.EDGE["MATCHES"].arrow
_SETS = "MATCH (s:TranscoderSet) RETURN s.key AS key, s.run AS run ORDER BY key"
_KEPT = """
MATCH (a:Feature)-[e:MATCHES]->(b:Feature)
WHERE a.model = $model AND a.set = $a AND b.set = $b AND e.run = $run
RETURN count(e) AS n
"""
USED = "MATCH (a:Feature)-[e:MATCHES]->(b:Feature) RETURN DISTINCT e.run AS run"
"""the runs that the matches of a store name"""


@dataclass(frozen=True)
class Matches:
    """A matching of two sets. Its relationships lead from the set whose key comes first."""

    a: str
    b: str
    runs: dict[str, str]
    """the run of each of the two sets"""
    method: str
    run: Run
    table: pa.Table
    """columns as in :data:`atlas.schema.EDGES`: source, target, score, null_p, method, run"""

    def check(self, graph: Store) -> None:
        """Refuse a store that does not hold both sets as they were when they were compared. Raises BadKey."""
        found = graph.run(_SETS)
        held = dict(zip(found["key"], found["run"], strict=True))
        for key, run in self.runs.items():
            if held.get(key) != run:
                now = f"holds it as run {held[key]}" if key in held else "does not hold it"
                raise BadKey(f"{key} was compared as run {run}, and {graph.address} {now}; compare again")

    def kept_in(self, graph: Store) -> bool:
        """Whether a store has them already."""
        of = {"model": self.a.partition("/")[0], "a": self.a, "b": self.b, "run": self.run.id}
        return len(self.table) > 0 and int(graph.run(_KEPT, **of)["n"].iloc[0]) == len(self.table)


def matches(sets: dict[str, str], method: str, run: Run, pairs: Iterable[tuple[str, str, float, float]]) -> Matches:
    """A matching from ``(feature of the first set, feature of the second, score, null_p)``.

    ``sets``: the two sets' keys, each with its run.
    """
    one, other = sets
    a, b = sorted((one, other))
    rows = list(pairs)
    source, target = ([row[at] for row in rows] for at in ((0, 1) if a == one else (1, 0)))
    columns = {
        "source": source,
        "target": target,
        "score": [row[2] for row in rows],
        "null_p": [row[3] for row in rows],
        "method": [method] * len(rows),
        "run": [run.id] * len(rows),
    }
    return Matches(a, b, dict(sets), method, run, pa.table(columns, schema=COLUMNS))
