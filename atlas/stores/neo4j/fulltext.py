"""What a person types, against labels, descriptions and the texts of tokens.

Neo4j's analysers cut words otherwise than the embedded store's (SQLite's ``unicode61``): they keep ``don't`` together
and accents on. So every node that can be found carries its words, cut and folded here, in the property ``_words``, and
the full-text index cuts that at blanks only. Both stores then find the same nodes; ranking is each one's own.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import pandas as pd

from atlas.words import units

INDEX = "atlas_words"
DDL = (
    f"CREATE FULLTEXT INDEX {INDEX} IF NOT EXISTS FOR (n:Feature|Description|Token) ON EACH [n._words] "
    "OPTIONS {indexConfig: {`fulltext.analyzer`: 'whitespace'}}"
)
QUERY = f"""
CALL db.index.fulltext.queryNodes('{INDEX}', $words, {{limit: $candidates}}) YIELD node, score
OPTIONAL MATCH (described:Feature)-[:DESCRIBED_BY]->(node)
WITH node, score, described,
     CASE WHEN node:Feature THEN 'label' WHEN node:Token THEN 'token' ELSE 'description' END AS by
WHERE by <> 'description' OR described IS NOT NULL
RETURN coalesce(described.key, node.key) AS key, coalesce(node.label, node.text) AS text, by AS matched_by, score,
       node._words AS words
ORDER BY score DESC, key
LIMIT $rows
"""
COLUMNS = ("key", "type", "text", "matched_by", "score")
_TYPES = {"label": "Feature", "description": "Feature", "token": "Token"}
_CANDIDATES = 2_000
Typed = tuple[list[str], tuple[str, ...]]
"""parts of a word or phrase as the index cuts it, and the other forms of the word"""


def words(text: str) -> str:
    """A text's words, lower-case and without accents, with blanks between them.

    >>> words("Don't say naïve_42")
    'don t say naive 42'
    """
    return " ".join("".join(map(_folded, text)).split())


def asked(text: str) -> tuple[str, list[Typed]]:
    """A query for the index, and what was typed (:mod:`atlas.words`), each unit cut as the index cuts, with its other
    forms; the query is empty if there are none."""
    typed = [(parts, unit.forms) for unit in units(text) if (parts := words(unit.text).split())]
    clauses = []
    for parts, forms in typed:
        clauses += [f"+{part}" for part in parts[:-1]]
        clauses.append(f"+({' '.join([f'{parts[-1]}^2', f'{parts[-1]}*', *forms])})")
    return " ".join(clauses), typed


def parameters(query: str, typed: list[Typed], limit: int) -> dict[str, Any]:
    """For :data:`QUERY`: enough candidates that equal scores can be ordered by key. All of them come back only where a
    typed word has several parts, whose order is seen to here."""
    candidates = max(_CANDIDATES, 2 * limit)
    whole = all(len(parts) == 1 for parts, _ in typed)
    return {"words": query, "candidates": candidates, "rows": limit if whole else candidates}


def frame(rows: list[list[Any]], typed: list[Typed], limit: int) -> pd.DataFrame:
    """Rows of :data:`QUERY` as the store's contract says: best first, ties by key."""
    found = [
        (key, _TYPES[by], text, by, float(score))
        for key, text, by, score, held in rows
        if all(_holds(held.split(), parts) or not {*forms}.isdisjoint(held.split()) for parts, forms in typed)
    ]
    found.sort(key=lambda row: (-row[4], row[0]))
    table = pd.DataFrame(found[:limit], columns=pd.Index(COLUMNS))
    return table.astype(dict.fromkeys(COLUMNS[:-1], "str") | {"score": "float64"})


def _holds(held: list[str], parts: list[str]) -> bool:
    """Whether the parts of one word or phrase stand one behind the other, the last as a prefix at least."""
    *before, last = parts
    return any(
        held[at : at + len(before)] == before and held[at + len(before)].startswith(last)
        for at in range(len(held) - len(before))
    )


@cache
def _folded(character: str) -> str:
    """A character's base letters, lower-case; nothing for an accent, a blank for what is no part of a word."""
    if unicodedata.category(character)[0] == "M":
        return ""
    if not (unicodedata.category(character)[0] in "LN" or unicodedata.category(character) == "Co"):
        return " "
    bases = (c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c)[0] != "M")
    return "".join(bases).lower()
