"""Somebody else's Cypher on the embedded engine: what may run, decided before it does.

The database is opened read-only, so the engine itself refuses to change it. What a read-only connection lets through
all the same - reading and writing files, attaching databases, extensions, settings - is refused here, on the text's own
tokens: words in strings, comments and quoted names do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atlas.errors import BadQuery, WriteRefused

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
      | (?P<quoted>`(?:``|[^`])*`)
      | (?P<parameter>\$[^\W\d]\w*)
      | (?P<word>[^\W\d]\w*)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_BEGINS = {"MATCH", "OPTIONAL", "UNWIND", "WITH", "RETURN", "EXPLAIN", "PROFILE"}
_WRITES = {"CREATE", "MERGE", "SET", "DELETE", "DETACH", "REMOVE", "DROP", "ALTER", "COMMENT", "TRUNCATE"}
_REACHES = {
    "LOAD", "COPY", "CALL", "INSTALL", "ATTACH", "USE", "EXPORT", "IMPORT", "FORCE", "UNINSTALL", "BEGIN", "COMMIT",
    "ROLLBACK", "CHECKPOINT", "FOREACH", "PROJECT_GRAPH",
}  # fmt: skip


def check(query: str, parameters: Mapping[str, Any]) -> None:
    """Raise WriteRefused for what would write or reach outside, BadQuery for an absent parameter or several statements."""
    tokens = [
        (match.lastgroup, match.group()) for match in _TOKEN.finditer(query) if match.lastgroup not in ("skip", None)
    ]
    while tokens and tokens[-1] == ("other", ";"):
        tokens.pop()
    if not tokens:
        raise BadQuery("the query is empty; write one such as MATCH (f:Feature) RETURN count(f) AS n")
    if ("other", ";") in tokens:
        raise BadQuery("several statements in one query; ask them one at a time")
    begins = tokens[0][1].upper()
    if begins not in _BEGINS:
        raise WriteRefused(f"only reading is allowed here, and {tokens[0][1][:40]!r} does not begin a question")
    for before, (kind, token) in zip([("", ""), *tokens], tokens, strict=False):
        # After a dot or a colon a word is a property, a label or a type.
        if kind == "word" and before[1] not in (".", ":") and token.upper() in _WRITES | _REACHES:
            what = "change the atlas" if token.upper() in _WRITES else "reach outside the graph"
            raise WriteRefused(f"only reading is allowed here, and {token.upper()} would {what}")
    missing = sorted({token[1:] for kind, token in tokens if kind == "parameter"} - set(parameters))
    if missing:
        names = ", ".join(missing)
        raise BadQuery(f"the query asks for ${names}, which was not given; on the command line: -p {missing[0]}=VALUE")
