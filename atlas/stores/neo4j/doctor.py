"""What is wrong with an atlas on a server, and mending it.

Each set is counted against the manifest of the build it came from, which the server keeps in ``(:AtlasSet)``; a load
that stopped half-way goes on from its build where that is still here, and is dropped where it is not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import neo4j
import pandas as pd

from atlas import settings
from atlas.errors import AtlasError
from atlas.observed import observed
from atlas.staging import WEIGHTED, Build, open_build
from atlas.stores import adjacency
from atlas.stores.neo4j import fetched, meaning, publish, sweep
from atlas.stores.neo4j.load import LOADS, under_way
from atlas.stores.neo4j.state import DDL, FORMAT, READ, Writer

COLUMNS = ("check", "subject", "expected", "found", "state", "advice")
_MEND = "atlas doctor --mend"
_MEANING = "meaning"

_INDEXES = "SHOW INDEXES YIELD name, state WHERE name IS NOT NULL RETURN name, state ORDER BY name"
_SETS = """
MATCH (s:TranscoderSet)
OPTIONAL MATCH (a:AtlasSet {key: s.key})
RETURN s.key AS key, s.model AS model, s.run AS run, s.observation AS observation, properties(a) AS ledger,
       COUNT { MATCH (s)-[:OF]->(m:Model) WHERE m.key = s.model } AS models,
       COUNT { MATCH (s)-[:LOADED_BY]->(r:Run) WHERE r.key = s.run } AS runs
ORDER BY key
"""
_OF_SET = "MATCH (f:Feature {model: $model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set\n"
_FEATURES = _OF_SET + "RETURN count(f) AS n"
_EDGES = {
    "ACTIVATES": _OF_SET + "MATCH (:Token)-[e:ACTIVATES]->(f) RETURN count(e) AS n",
    "FEEDS": _OF_SET + "MATCH (:Feature)-[e:FEEDS]->(f) RETURN count(e) AS n",
    "PROMOTES": _OF_SET + "MATCH (f)-[e:PROMOTES]->(:Token) RETURN count(e) AS n",
    "ACTIVATES_VIA": _OF_SET + "MATCH (:Token)-[e:ACTIVATES_VIA]->(f) RETURN count(e) AS n",
    "FEEDS_VIA": _OF_SET + "MATCH (:Feature)-[e:FEEDS_VIA]->(f) RETURN count(e) AS n",
    "PROMOTES_VIA": _OF_SET + "MATCH (f)-[e:PROMOTES_VIA]->(:Token) RETURN count(e) AS n",
    "PREDICTS": (
        "MATCH (s:TranscoderSet {key: $set})\nMATCH (:Token)-[e:PREDICTS]->(:Token) WHERE e.run = s.run AND "
        "s.model = $model RETURN count(e) AS n"
    ),
}
_VOCABULARIES = """
MATCH (a:AtlasSet)
WITH a.vocabulary AS vocabulary, max(a.tokens) AS expected
RETURN vocabulary, expected, COUNT { MATCH (t:Token) WHERE t.vocabulary = vocabulary } AS found
ORDER BY vocabulary
"""
_USERLESS = """
OPTIONAL MATCH (m:Model)
WITH collect(m.tokenizer) AS used
MATCH (t:Token) WHERE NOT t.vocabulary IN used
RETURN count(t) AS n
"""
_STRAY = """
OPTIONAL MATCH (s:TranscoderSet)
WITH collect(s.key) AS known
MATCH (f:Feature) WHERE NOT f.set IN known
RETURN count(f) AS n
"""


@dataclass(frozen=True)
class Finding:
    check: str
    subject: str
    expected: str
    found: str
    state: str
    advice: str = ""


def look(session: neo4j.Session, address: str) -> list[Finding]:
    """Every check, in order; reads only."""
    return [*_Look(session, address).findings()]


def table(findings: list[Finding]) -> pd.DataFrame:
    """Findings as the store returns them: text columns, one row each."""
    rows = [[getattr(finding, name) for name in COLUMNS] for finding in findings]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS), dtype="str")


def mended(before: list[Finding], after: list[Finding]) -> list[Finding]:
    """What is left, and what was wrong before and no longer is."""
    still = {(finding.check, finding.subject) for finding in after if finding.state == "wrong"}
    fixed = [
        replace(finding, state="mended", advice="")
        for finding in before
        if finding.state == "wrong" and (finding.check, finding.subject) not in still
    ]
    known = {(finding.check, finding.subject) for finding in fixed}
    return fixed + [finding for finding in after if (finding.check, finding.subject) not in known]


def staged(build: str) -> Build | None:
    """The build of this name, where it is still on this machine and sound."""
    try:
        return observed(open_build(settings.load().builds / build))
    except AtlasError:
        return None


def mend(writer: Writer, findings: list[Finding], load: Callable[[Build], None]) -> None:
    """Finish or drop what stopped half-way, and load again what does not count up; ``load`` loads a build anew."""
    publish.recover(writer)
    for half in under_way(writer):
        build = staged(half.build)
        if half.state == "loading" and build is not None:
            load(build)
        elif half.state == "loading":
            sweep.forget(writer, half)
    wrong = {finding.subject for finding in findings if finding.state == "wrong" and finding.check.endswith("of set")}
    for row in writer.run(_SETS):
        build = staged(row["ledger"]["build"]) if row["ledger"] else None
        if row["key"] in wrong and build is not None:
            load(build)
    bad = {finding.subject for finding in findings if finding.state == "wrong" and finding.check == "adjacency"}
    for row in writer.run(_SETS):
        if row["key"] in bad:
            shutil.rmtree(fetched.place(row["key"], row["run"], row["observation"]))
    for finding in findings:
        if finding.state == "wrong" and finding.check == _MEANING:
            meaning.forget(writer, finding.subject.partition(" ")[0])


class _Look:
    def __init__(self, session: neo4j.Session, address: str) -> None:
        self._session = session
        self._address = address

    def findings(self) -> Iterator[Finding]:
        version = str(self._session.run("RETURN 1").consume().server.agent)
        state = self._rows(READ)[0]
        yield _counted(
            "version", self._address, f"atlas format {FORMAT}", f"atlas format {state['format']}", note=version
        )
        yield from self._settled(state)
        yield from self._indexes()
        for row in self._rows(_SETS):
            yield from self._set(row)
        yield _counted("features without a set", self._address, 0, self._count(_STRAY))
        for row in self._rows(_VOCABULARIES):
            # a vocabulary that a model with a larger one brought keeps all its tokens
            yield _counted("tokens", row["vocabulary"], row["expected"], min(row["expected"], row["found"]))
        yield _counted("tokens without a user", self._address, 0, self._count(_USERLESS))
        yield from self._halves(state)

    def _settled(self, state: dict[str, Any]) -> Iterator[Finding]:
        odd = state["generation"] % 2 == 1
        if odd and state["alive"]:
            yield Finding("change", self._address, "none", f"{state['what']}, going on", "right", "ask again later")
        elif odd:
            yield Finding("change", self._address, "none", "one that stopped half-way", "wrong", _MEND)
        else:
            yield Finding("change", self._address, "none", "none", "right")

    def _indexes(self) -> Iterator[Finding]:
        found = {row["name"]: row["state"] for row in self._rows(_INDEXES)}
        for name in expected_indexes():
            state = found.get(name, "missing")
            yield _counted("index", name, "ONLINE", state)

    def _set(self, row: dict[str, Any]) -> Iterator[Finding]:
        key, ledger = row["key"], row["ledger"]
        if ledger is None:
            yield Finding("set", key, "a record of its build", "none", "wrong", "load its build again")
            return
        here = staged(ledger["build"]) is not None
        lost = f"{_MEND} loads it again" if here else "load its build again: it is not on this machine"
        chosen = {"model": row["model"], "set": key}
        yield _counted("run of set", key, ledger["run"], row["run"], lost)
        yield _counted("model and run of set", key, 2, row["models"] + row["runs"], lost)
        yield _counted("Feature of set", key, ledger["features"], self._count(_FEATURES, **chosen), lost)
        for kind in WEIGHTED:
            yield _counted(f"{kind} of set", key, ledger.get(kind, 0), self._count(_EDGES[kind], **chosen), lost)
        advice = "" if here else "the store answers; to load it elsewhere, ingest it again"
        yield Finding("staged build", key, "finished", "finished" if here else "gone", "right", advice)
        yield from self._vectors(row)
        yield from self._adjacency(row)

    def _vectors(self, row: dict[str, Any]) -> Iterator[Finding]:
        """What is there for search by meaning, of each encoder whose vectors were written."""
        made = {index["name"] for index in self._rows(_INDEXES) if index["state"] == "ONLINE"}
        for encoder, expected in (one.split(" ") for one in row["ledger"].get("meaning", ())):
            chosen = {"model": row["model"], "set": row["key"]}
            found = str(sum(self._count(query, **chosen) for query in meaning.counts(encoder)))
            if not made.issuperset(meaning.name(encoder, label) for label in meaning.LABELS):
                found = "no index"
            advice = f"{_MEND} lets search do without them, atlas index {row['key']} writes them again"
            yield _counted(_MEANING, f"{row['key']} by {encoder}", expected, found, advice)

    def _adjacency(self, row: dict[str, Any]) -> Iterator[Finding]:
        """What this machine keeps of the set's edges, if it does."""
        folder = fetched.place(row["key"], row["run"], row["observation"])
        if folder.exists():
            try:
                found = len(adjacency.read(folder, row["run"]).source)
            except AtlasError:
                found = "unreadable"
            yield _counted("adjacency", row["key"], row["ledger"]["FEEDS"], found, f"{_MEND} drops it: it is kept anew")

    def _halves(self, state: dict[str, Any]) -> Iterator[Finding]:
        numbers = []
        busy = state["alive"] and state["what"]
        for row in (found["load"] for found in self._rows(LOADS)):
            numbers.append(row["number"])
            if busy:
                yield Finding("load", row["key"], "finished", f"{row['state']}, going on", "right", "ask again later")
                continue
            here = staged(row["build"]) is not None
            advice = (
                "finishes it" if here or row["state"] != "loading" else "drops it: its build is not on this machine"
            )
            yield Finding("load", row["key"], "finished", f"stopped while {row['state']}", "wrong", f"{_MEND} {advice}")
        left = {
            "nodes on their way out": "MATCH (n:Leaving) RETURN count(n) AS n",
            "markers of no load": "MATCH (b:AtlasBatch) WHERE NOT b.load IN $numbers RETURN count(b) AS n",
            "nodes of no load": "MATCH (n:Loading) WHERE $none RETURN count(n) AS n",
        }
        for what, query in left.items():
            found = self._count(query, numbers=numbers, none=not numbers)
            if busy:
                yield Finding("left over", what, "0", str(found), "right", "a writer is at work")
            else:
                yield _counted("left over", what, 0, found)

    def _rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        return self._session.run(query, parameters).data()  # type: ignore[arg-type]

    def _count(self, query: str, **parameters: Any) -> int:
        return int(self._rows(query, **parameters)[0]["n"])


def expected_indexes() -> list[str]:
    """Names of all indexes that the store's DDL makes, constraints' included."""
    return [statement.split(" IF NOT EXISTS")[0].split()[-1] for statement in DDL]


def _counted(check: str, subject: str, expected: object, found: object, advice: str = _MEND, note: str = "") -> Finding:
    if expected == found:
        return Finding(check, subject, str(expected), str(found), "right", note)
    return Finding(check, subject, str(expected), str(found), "wrong", advice)
