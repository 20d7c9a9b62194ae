"""Text search beside the embedded store: SQLite's FTS5 over labels, descriptions and token texts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = ["key", "type", "text", "matched_by", "score"]
_TYPES = {"label": "Feature", "description": "Feature", "token": "Token"}


def write(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Index rows of (key, text, matched_by) in a new file."""
    with sqlite3.connect(path) as index:
        index.execute(
            "CREATE VIRTUAL TABLE words USING fts5(key UNINDEXED, text, matched_by UNINDEXED, "
            "tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
        )
        index.executemany("INSERT INTO words VALUES (?, ?, ?)", rows)
    index.close()


def search(path: Path, text: str, limit: int) -> pd.DataFrame:
    """What a person typed, every word as a prefix at least; columns as the store's contract says, best first."""
    words = [word.replace('"', '""') for word in text.replace("\0", " ").split()]
    found: list[tuple[str, str, str, str, float]] = []
    if words:
        index = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            query = " ".join(f'"{word}" *' for word in words)
            rows = index.execute(
                "SELECT key, text, matched_by, -bm25(words) AS score FROM words WHERE words MATCH ? "
                "ORDER BY score DESC, key LIMIT ?",
                (query, limit),
            )
            found = [(key, _TYPES[by], said, by, score) for key, said, by, score in rows]
        finally:
            index.close()
    frame = pd.DataFrame(found, columns=COLUMNS)
    return frame.astype(dict.fromkeys(COLUMNS[:-1], "str") | {"score": "float64"})
