"""Features by what is said of them: labels and descriptions as vectors, the nearest to a sentence.

Vectors are made when a set is first asked by meaning and kept beside the atlas, in a folder that names the encoder::

    STORE/meaning/ENCODER/SET-STATE/      a store on a server, or one that may not be written: in ATLAS_HOME instead
        texts.parquet     text: what is said, each once
        vectors.npy       float16 [n_texts, width], of length 1
        said.parquet      key, layer, text (row of texts.parquet), matched_by: label or description

STATE stands for the set's run and for what is said of it, so a set that is described anew gets new vectors; those of
texts that stayed are taken over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas import settings
from atlas.errors import BadSetting, NoSpace
from queries.catalog import ask, records
from queries.encoder import Encoder, MiniLM
from queries.held import Held

if TYPE_CHECKING:
    from atlas.stores import Store

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is); the unit is texts."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_MARKS = re.compile(r"^[~→] ")
"""What a label begins with when it is weak, or says what is promoted; not said aloud."""
_TEXTS_AT_ONCE = 512
_ROWS_AT_ONCE = 65_536
_HELD = 8
"""Sets whose texts stay in memory for the next question."""


@dataclass(frozen=True)
class Said:
    """What is said of the features of a set, with vectors."""

    rows: pd.DataFrame
    """``key, layer, text`` (a row of ``texts``), ``matched_by``"""
    texts: list[str]
    vectors: np.ndarray
    """float16 [n_texts, width], memory-mapped"""

    def scores(self, asked: np.ndarray) -> np.ndarray:
        """Cosine of every row with a unit vector; float32 [n_rows]."""
        by_text = np.empty(len(self.vectors), np.float32)
        for begin in range(0, len(by_text), _ROWS_AT_ONCE):
            some = self.vectors[begin : begin + _ROWS_AT_ONCE]
            by_text[begin : begin + len(some)] = some.astype(np.float32) @ asked
        return by_text[self.rows["text"].to_numpy()]


_READY: dict[Path, Said] = {}


@dataclass(frozen=True)
class Near:
    """One feature and the text about it that comes nearest."""

    key: str
    layer: int
    text: str
    score: float
    matched_by: str


def nearest(
    graph: Store,
    asked: np.ndarray,
    sets: Sequence[Held],
    k: int,
    encoder: Encoder,
    *,
    layers: tuple[int, int],
    least: float = -1.0,
    progress: Progress | None = None,
) -> list[Near]:
    """The ``k`` features of some sets and layers whose nearest text has the largest cosine, ties by key."""
    found: list[Near] = []
    for one in sets:
        said = kept(graph, one, encoder, progress)
        scores = said.scores(asked)
        layer = said.rows["layer"].to_numpy()
        scores[(layer < layers[0]) | (layer > layers[1])] = -2
        seen: dict[str, Near] = {}
        for at in np.argsort(-scores, kind="stable"):
            score = float(scores[at])
            if score < max(least, -1.5) or (len(seen) >= k and score < _last(seen)):
                break
            row = said.rows.iloc[int(at)]
            text = said.texts[int(row["text"])]
            seen.setdefault(
                str(row["key"]), Near(str(row["key"]), int(row["layer"]), text, score, str(row["matched_by"]))
            )
        found += seen.values()
    return sorted(found, key=lambda near: (-near.score, near.key))[:k]


def _last(seen: dict[str, Near]) -> float:
    """The smallest score so far: rows come in falling order, so that of the last."""
    return next(reversed(seen.values())).score


def spoken(text: str) -> str:
    """A label or a description as it is read aloud to the encoder."""
    return _MARKS.sub("", text).strip()


def chosen(encoder: Encoder | None) -> Encoder:
    """The encoder that was given, or the usual one. Raises BadSetting for a name that no folder can have."""
    if encoder is None:
        return MiniLM()
    if not isinstance(getattr(encoder, "name", None), str) or not _NAME.fullmatch(encoder.name):
        raise BadSetting("an encoder has a name of letters, digits, '-', '_' and '.', and a method encode")
    return encoder


def unit(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of some texts, float32. Raises BadSetting where the encoder gives anything else than vectors."""
    found = np.asarray(encoder.encode(texts), np.float32)
    if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
        raise BadSetting(f"the encoder {encoder.name} gave {found.shape} for {len(texts)} texts, or not finite numbers")
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def kept(graph: Store, own: Held, encoder: Encoder, progress: Progress | None = None) -> Said:
    """What is said of a set, with vectors: made now where they are not kept or no longer true."""
    folder = _place(graph) / encoder.name
    name = own.key.replace("/", "@")
    place = folder / f"{name}-{_state(graph, own)}"
    if place not in _READY:
        if not place.exists():
            _make(graph, own, encoder, place, name, progress)
        rows = pd.read_parquet(place / "said.parquet")
        texts = pd.read_parquet(place / "texts.parquet")["text"].tolist()
        while len(_READY) >= _HELD:
            _READY.pop(next(iter(_READY)))
        _READY[place] = Said(rows, texts, np.load(place / "vectors.npy", mmap_mode="r"))
    return _READY[place]


def _make(graph: Store, own: Held, encoder: Encoder, place: Path, name: str, progress: Progress | None) -> None:
    labels = ask(graph, "labels", set=own.key).rename(columns={"label": "text"}).assign(matched_by="label")
    said = ask(graph, "said", set=own.key).drop(columns="method").assign(matched_by="description")
    rows = pd.concat([labels, said], ignore_index=True)
    rows["text"] = [spoken(text) for text in rows["text"]]
    rows = rows.loc[rows["text"].str.len() > 0].drop_duplicates(["key", "text"]).sort_values("key", kind="stable")
    codes, unique = pd.factorize(rows["text"], sort=True)
    texts = [str(text) for text in unique]
    old = _older(place.parent, name)
    vectors = _vectors(texts, old, encoder, own.key, progress)
    rows = rows.assign(text=codes.astype(np.int64))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=".new-"))
        try:
            rows.to_parquet(scratch / "said.parquet", index=False)
            pd.DataFrame({"text": texts}).to_parquet(scratch / "texts.parquet", index=False)
            np.save(scratch / "vectors.npy", vectors)
            with contextlib.suppress(FileExistsError):
                scratch.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if place.exists():  # somebody else was faster
            return
        raise NoSpace(f"the vectors of {own.key} cannot be kept in {place.parent} ({error.strerror})") from error
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)


def _vectors(
    texts: list[str], old: list[Path], encoder: Encoder, set_key: str, progress: Progress | None
) -> np.ndarray:
    """float16 [n_texts, width]; those of texts that an older folder has are taken from there."""
    known: dict[str, np.ndarray] = {}
    for folder in old:
        before = pd.read_parquet(folder / "texts.parquet")["text"].tolist()
        known |= dict(zip(before, np.load(folder / "vectors.npy", mmap_mode="r"), strict=True))
    missing = [text for text in texts if text not in known]
    for begin in range(0, len(missing), _TEXTS_AT_ONCE):
        some = missing[begin : begin + _TEXTS_AT_ONCE]
        known |= dict(zip(some, unit(encoder, some).astype(np.float16), strict=True))
        if progress is not None:
            progress(f"reading what is said of {set_key}", begin + len(some), len(missing))
    return np.stack([known[text] for text in texts]) if texts else np.zeros((0, 1), np.float16)


def _older(folder: Path, name: str) -> list[Path]:
    return sorted(
        path for path in folder.glob(f"{name}-*") if re.fullmatch(r"[0-9a-f]{16}", path.name[len(name) + 1 :])
    )


def _place(graph: Store) -> Path:
    """Beside the atlas where that is a folder one may write; else in the home, under the address."""
    if not settings.is_address(graph.address) and os.access(graph.address, os.W_OK):
        return Path(graph.address) / "meaning"
    where = hashlib.sha256(graph.address.encode()).hexdigest()[:12]
    return settings.load().home / "meaning" / where


def _state(graph: Store, own: Held) -> str:
    """Changes when anything else is said of the set."""
    told = [records(graph, name, set=own.key) for name in ("label_sources", "description_runs")]
    return hashlib.sha256(json.dumps([own.run, told], default=str).encode()).hexdigest()[:16]
