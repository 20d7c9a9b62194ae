"""Text search beside the graph: SQLite's FTS5 over labels, descriptions and the texts of tokens.

Each row belongs to an owner, a set or a vocabulary, and comes and goes with it. https://www.sqlite.org/fts5.html
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pandas as pd

from atlas.errors import StoreError
from atlas.stores.embedded.engine import Engine
from atlas.words import Unit, units

_COLUMNS = ["key", "type", "text", "matched_by", "score"]
_TABLE = """
CREATE VIRTUAL TABLE words USING fts5(
    text, key UNINDEXED, type UNINDEXED, matched_by UNINDEXED, owner UNINDEXED,
    tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
)
"""
_COUNTS = "SELECT owner || ' ' || matched_by, count(*) FROM words GROUP BY owner, matched_by"
_OF_SET = (
    ("Feature", "label", "MATCH (f:Feature) WHERE f.set = $owner RETURN f.label AS text, f.key AS key"),
    (
        "Feature",
        "description",
        "MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description) WHERE f.set = $owner RETURN d.text AS text, f.key AS key",
    ),
)
_OF_VOCABULARY = (
    ("Token", "token", "MATCH (t:Token) WHERE t.vocabulary = $owner RETURN t.text AS text, t.key AS key"),
)


def write(path: Path, engine: Engine, *, anew: frozenset[str] = frozenset()) -> None:
    """Let the index say what the graph says: rows of owners that went leave, those that came or changed come.

    ``anew``: sets whose words changed. A vocabulary changes when a model brings more of it.
    """
    wanted = {f"set {key}": (key, _OF_SET) for (key,) in engine.values("MATCH (s:TranscoderSet) RETURN s.key")}
    n_tokens = dict(engine.values("MATCH (t:Token) RETURN t.vocabulary, count(*)"))
    wanted |= {f"vocabulary {name}": (name, _OF_VOCABULARY) for name in n_tokens}
    index = sqlite3.connect(path)
    try:
        index.execute("PRAGMA journal_mode = OFF")  # the file counts only once it is whole
        index.execute("PRAGMA synchronous = OFF")
        if not index.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone():
            index.execute(_TABLE)
        held = dict(index.execute("SELECT owner, count(*) FROM words GROUP BY owner"))
        stale = {f"set {key}" for key in anew}
        stale |= {f"vocabulary {name}" for name, n in n_tokens.items() if held.get(f"vocabulary {name}") != n}
        for owner in held.keys() - (wanted.keys() - stale):
            index.execute("DELETE FROM words WHERE owner = ?", (owner,))
        for owner in wanted.keys() - (held.keys() - stale):
            name, queries = wanted[owner]
            for type_, matched_by, query in queries:
                rows, _ = engine.table(query, {"owner": name})
                texts = zip(rows["text"].to_pylist(), rows["key"].to_pylist(), strict=True)
                index.executemany(
                    "INSERT INTO words VALUES (?, ?, ?, ?, ?)",
                    ((text, key, type_, matched_by, owner) for text, key in texts),
                )
        index.commit()
    finally:
        index.close()


class Index:
    """The index of one generation, open for reading."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            # nobody writes to it any more
            self._index = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def search(self, text: str, limit: int) -> pd.DataFrame:
        """What a person typed (:mod:`atlas.words`), all of it; columns as the store's contract says, best first."""
        found: list[tuple[str, str, str, str, float]] = []
        # a word without a letter or a digit is none to the index, and would match nothing
        typed = text.replace("\0", " ").encode(errors="ignore").decode()
        asked = [unit for unit in units(typed) if any(map(str.isalnum, unit.text))]
        if asked:
            query = " AND ".join(map(_anyhow, asked))
            try:
                with self._lock:
                    found = self._index.execute(
                        "SELECT key, type, text, matched_by, -bm25(words) AS score FROM words WHERE words MATCH ? "
                        "ORDER BY score DESC, key LIMIT ?",
                        (query, limit),
                    ).fetchall()
            except sqlite3.Error as error:
                raise self._broken(error) from error
        frame = pd.DataFrame(found, columns=_COLUMNS)
        return frame.astype(dict.fromkeys(_COLUMNS[:-1], "str") | {"score": "float64"})

    def rows(self) -> dict[str, int]:
        """How many there are, by owner and kind: ``set MODEL/SET label``, ``vocabulary NAME token``."""
        try:
            with self._lock:
                return dict(self._index.execute(_COUNTS).fetchall())
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        self._index.close()

    def _broken(self, error: Exception) -> StoreError:
        return StoreError(f"{self._path} cannot be searched ({error}); `atlas doctor --mend` writes it again")


def _anyhow(unit: Unit) -> str:
    """A unit as FTS5 is asked for it: what was typed as a beginning, or another form as it stands."""
    typed = unit.text.replace('"', '""')
    return "(" + " OR ".join([f'"{typed}" *', *(f'"{form}"' for form in unit.forms)]) + ")"
