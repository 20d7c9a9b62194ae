"""What is wrong with an embedded atlas: what it holds against what was loaded."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from atlas import vectors
from atlas.errors import AtlasError, BadBuild
from atlas.staging import WEIGHTED, open_build
from atlas.stores import adjacency
from atlas.stores.embedded.engine import PINNED, Engine
from atlas.stores.embedded.folder import ADJACENCY, INDEX, VECTORS, Folder
from atlas.stores.embedded.index import Index

TOKENS, WORDS = "tokens", "words"
_COLUMNS = ["check", "subject", "expected", "found", "state", "advice"]
_MEND = "`atlas doctor --mend` loads it anew from its build"
_COUNTS = {
    "ACTIVATES": "MATCH (:Token)-[e:ACTIVATES]->(f:Feature) RETURN f.set, count(*)",
    "FEEDS": "MATCH (:Feature)-[e:FEEDS]->(f:Feature) RETURN f.set, count(*)",
    "PROMOTES": "MATCH (f:Feature)-[e:PROMOTES]->(:Token) RETURN f.set, count(*)",
    "ACTIVATES_VIA": "MATCH (:Token)-[e:ACTIVATES_VIA]->(f:Feature) RETURN f.set, count(*)",
    "FEEDS_VIA": "MATCH (:Feature)-[e:FEEDS_VIA]->(f:Feature) RETURN f.set, count(*)",
    "PROMOTES_VIA": "MATCH (f:Feature)-[e:PROMOTES_VIA]->(:Token) RETURN f.set, count(*)",
    "PREDICTS": "MATCH (:Token)-[e:PREDICTS]->(:Token) MATCH (s:TranscoderSet {run: e.run}) RETURN s.key, count(*)",
    "Feature": "MATCH (f:Feature) RETURN f.set, count(*)",
}


@dataclass(frozen=True)
class Finding:
    """One check; ``state`` is right, wrong or mended."""

    check: str
    subject: str
    expected: str
    found: str
    state: str
    advice: str


def look(engine: Engine, folder: Folder, state: dict[str, Any], current: Path) -> list[Finding]:
    """Every check, right or wrong."""
    findings = [_finding("engine", str(folder.path), PINNED, state["engine"], _MEND)]
    counts = {kind: dict(engine.values(query)) for kind, query in _COUNTS.items()}
    vocabularies = dict(engine.values("MATCH (t:Token) RETURN t.vocabulary, count(*)"))
    models = dict(engine.values("MATCH (m:Model) RETURN m.key, m.tokenizer"))
    words = _words(current)
    for entry in state["builds"]:
        key, expected = entry["set"], entry["counts"]
        for kind in ("Feature", *WEIGHTED):
            findings.append(_finding(kind, key, expected.get(kind, 0), counts[kind].get(key, 0), _MEND))
        vocabulary = models.get(key.partition("/")[0], "")
        # another model with this vocabulary may have brought more of it
        found = min(expected["Token"], vocabularies.get(vocabulary, 0))
        findings.append(_finding("Token", key, expected["Token"], found, _MEND))
        findings.append(_finding("full text", key, expected["Feature"], words.get(f"set {key} label", 0), _MEND))
        findings.append(_finding("adjacency", key, entry["run"], _adjacency_run(current, key, entry), _MEND))
        if entry.get("vectors"):
            findings.append(_finding("vectors", key, entry["run"], _vectors_run(current, key, entry), _MEND))
        findings.append(_staged(key, entry))
    listed = sorted(entry["set"] for entry in state["builds"])
    held = sorted(key for (key,) in engine.values("MATCH (s:TranscoderSet) RETURN s.key"))
    findings.append(_finding("sets", str(folder.path), ", ".join(listed), ", ".join(held), "`atlas doctor --mend`"))
    unused = sorted(vocabularies.keys() - set(models.values()))
    findings.append(_finding("tokens without a user", TOKENS, "", ", ".join(unused), "`atlas doctor --mend`"))
    for name in sorted(set(models.values())):
        found = words.get(f"vocabulary {name} token", 0)
        findings.append(
            _finding("full text of tokens", WORDS, vocabularies.get(name, 0), found, "`atlas doctor --mend`")
        )
    left = ", ".join(path.name for path in folder.left_over())
    findings.append(_finding("left-over generations", str(folder.path), "", left, "`atlas doctor --mend` deletes them"))
    return findings


def mended(before: list[Finding], after: list[Finding]) -> list[Finding]:
    """What is so now; right where it was wrong is mended."""
    wrong = {(finding.check, finding.subject) for finding in before if finding.state == "wrong"}
    return [
        replace(finding, state="mended")
        if finding.state == "right" and (finding.check, finding.subject) in wrong
        else finding
        for finding in after
    ]


def table(findings: list[Finding]) -> pd.DataFrame:
    return pd.DataFrame([astuple(finding) for finding in findings], columns=_COLUMNS).astype("str")


def _finding(check: str, subject: str, expected: object, found: object, advice: str) -> Finding:
    right = str(expected) == str(found)
    return Finding(check, subject, str(expected), str(found), "right" if right else "wrong", "" if right else advice)


def _adjacency_run(current: Path, key: str, entry: dict[str, Any]) -> str:
    try:
        read = adjacency.read(current / ADJACENCY / key.replace("/", "@"), entry["run"])
        if len(read.source) != entry["counts"]["FEEDS"]:
            return f"{len(read.source):,} of {entry['counts']['FEEDS']:,} edges"
        return read.run
    except BadBuild as error:
        return f"unreadable ({error})"


def _vectors_run(current: Path, key: str, entry: dict[str, Any]) -> str:
    try:
        read = vectors.read(current / VECTORS / key.replace("/", "@"), entry["run"])
        if len(read.encoder) != entry["counts"]["Feature"]:
            return f"{len(read.encoder):,} of {entry['counts']['Feature']:,} features"
        return read.run
    except BadBuild as error:
        return f"unreadable ({error})"


def _staged(key: str, entry: dict[str, Any]) -> Finding:
    """A pruned build is no fault: the atlas answers without it."""
    try:
        found = "finished" if open_build(entry["path"]).run == entry["run"] else "another run"
    except BadBuild:
        found = "gone"
    advice = "" if found == "finished" else "questions do not need it; rebuilding the atlas would"
    return Finding("staged build", key, "finished", found, "right", advice)


def _words(current: Path) -> dict[str, int]:
    try:
        index = Index(current / INDEX)
        try:
            return index.rows()
        finally:
            index.close()
    except AtlasError:
        return {}
