"""The corpus the bundled model is trained on: public-domain books, one row a book, with where each came from.

``python -m atlas.demo.corpus FOLDER`` makes ``corpus.parquet`` from a folder that holds ``MANIFEST.json`` (a list of
books with title, source repository, commit, file, sha256 of the text, licence) and ``TITLE.txt`` for each of them.
Texts are taken as they are. Their project's headers were cut before; what remains of them is part of the text.

The split is by place, not by chance: the first 95 % of the characters of every book are for training, the rest is
held out.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.demo import CORPUS
from atlas.errors import AtlasError

TRAIN_SHARE = 0.95
SCHEMA = pa.schema(
    [
        (name, pa.int64() if name == "chars" else pa.string())
        for name in ("title", "repo", "commit", "file", "sha256", "licence", "chars", "text")
    ]
)


class BadCorpus(AtlasError):
    """A folder of books that does not hold what its manifest promises."""


@dataclass(frozen=True)
class Book:
    """One book: its title, and its text cut in two."""

    title: str
    train: str
    held_out: str


def gather(folder: Path) -> pa.Table:
    """Every book of ``folder``, checked against the sha256 in its manifest; raises :class:`BadCorpus`."""
    rows = []
    for entry in sorted(json.loads((folder / "MANIFEST.json").read_text("utf-8")), key=lambda row: row["title"]):
        raw = (folder / f"{entry['title']}.txt").read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        if digest != entry["sha256"]:
            raise BadCorpus(
                f"{entry['title']}.txt has sha256 {digest}, but MANIFEST.json says {entry['sha256']}. "
                "Fetch the book again at the commit named there."
            )
        text = raw.decode("utf-8")
        rows.append({**entry, "text": text, "chars": len(text)})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def books(path: Path = CORPUS) -> list[Book]:
    """The books of ``corpus.parquet`` in its order, each cut into its training and its held-out part."""
    table = pq.read_table(path, columns=["title", "text"])
    found = []
    for row in table.to_pylist():
        cut = int(len(row["text"]) * TRAIN_SHARE)
        found.append(Book(row["title"], row["text"][:cut], row["text"][cut:]))
    return found


def main(folder: str) -> None:
    """Write ``corpus.parquet`` from ``folder``."""
    table = gather(Path(folder))
    pq.write_table(table, CORPUS, compression="zstd", compression_level=19)
    print(f"{table.num_rows} books, {sum(table['chars'].to_pylist()):,} characters, {CORPUS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
