"""Somebody else's Cypher: what may run, decided on its words before it does.

The file is opened read-only, so the engine itself refuses to change the graph. What it lets through all the same is
refused here: LOAD FROM reads files, COPY TO and EXPORT write them, ATTACH and INSTALL reach further, CALL changes
settings or crashes the process. Words in texts, comments and backticks do not count, nor do names that look like them.
:mod:`.asking` is the second wall.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from atlas.errors import BadQuery, WriteRefused

_TOKEN = re.compile(
    r"""(?P<skip>\s+ | //[^\n\r]* | /\*.*?\*/)
      | (?P<text>'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*")
      | (?P<name>`(?:``|[^`])*`)
      | (?P<parameter>\$\w+)
      | (?P<number>\d+)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_QUESTIONS = {"MATCH", "OPTIONAL", "UNWIND", "WITH", "RETURN"}
_PLANS = {"EXPLAIN", "PROFILE"}
_WRITES = {"CREATE", "MERGE", "SET", "DELETE", "DETACH", "DROP", "ALTER", "COMMENT", "UPDATE", "ANALYZE", "REMOVE"}
_CALLS = {"show_tables", "show_connection", "table_info", "show_functions", "db_version"}
"""functions that only describe the graph; of the others some change settings, some show files, some crash"""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    depth: int
    """how many brackets are open around it"""

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "word" else ""


def check(query: str, given: Collection[str]) -> None:
    """Refuse what is no single question, or lacks a parameter. Raises WriteRefused, BadQuery."""
    tokens = _tokens(query)
    if not tokens:
        raise BadQuery("the query is empty; ask something like MATCH (f:Feature) RETURN count(f) AS features")
    if any(token.text == ";" for token in tokens):
        raise BadQuery("the query holds several statements; ask them one at a time")
    begins = next((token for token in tokens if token.word not in _PLANS), tokens[0])
    if begins.word in _WRITES:
        raise WriteRefused(f"{begins.word} would change the atlas; only reading is allowed here")
    if begins.word not in _QUESTIONS | {"CALL"}:
        raise WriteRefused(f"{begins.text[:40]!r} does not begin a question; MATCH, UNWIND, WITH, RETURN and CALL do")
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.word == "LOAD" and following and following.word in {"FROM", "WITH", "EXTENSION"}:
            raise WriteRefused("LOAD would read files; only reading the graph is allowed here")
    for token, name, following in zip(tokens, [*tokens[1:], None], [*tokens[2:], None, None], strict=True):
        if token.word != "CALL" or name is None:
            continue
        is_call = name.text == "{" or (
            name.kind in {"word", "name"} and following and following.text in {"(", "=", "."}
        )
        if is_call and not (name.word.lower() in _CALLS and following and following.text == "("):
            raise WriteRefused(f"CALL {name.text[:40]} is not allowed here; these are: {', '.join(sorted(_CALLS))}")
    missing = sorted({token.text[1:] for token in tokens if token.kind == "parameter"} - set(given))
    if missing:
        raise BadQuery(f"the query asks for ${', $'.join(missing)}, which was not given")


def used(query: str) -> set[str]:
    """Names of the parameters that a query asks for."""
    return {token.text[1:] for token in _tokens(query) if token.kind == "parameter"}


def limited(query: str, rows: int) -> str:
    """The query with a LIMIT where its last part has none, so that the engine can stop early."""
    tokens = _tokens(query)
    last = max((at for at, token in enumerate(tokens) if token.word == "RETURN" and not token.depth), default=None)
    if last is None or any(token.word in {"LIMIT"} and not token.depth for token in tokens[last:]):
        return query
    if any(token.word == "UNION" for token in tokens):
        return query
    # on a line of its own: the query may end in a comment
    return f"{query.rstrip().rstrip(';')}\nLIMIT {rows}"


def _tokens(query: str) -> list[_Token]:
    tokens, depth = [], 0
    for match in _TOKEN.finditer(query):
        kind, text = str(match.lastgroup), match.group()
        # a sign that is no ASCII is none of the language; the engine takes some for spaces
        if kind == "skip" or (kind == "sign" and not text.isascii()):
            continue
        if kind == "sign" and text in "'\"`":
            raise BadQuery(f"the query opens a {text} that it does not close")
        if text in (")", "]", "}"):
            depth -= 1
        tokens.append(_Token(kind, text, depth))
        if text in ("(", "[", "{"):
            depth += 1
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    return tokens
