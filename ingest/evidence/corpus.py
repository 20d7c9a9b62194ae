"""A text as windows of token ids, on disk: what a model is run on, seeded and hashed.

Sources: a text file, JSON lines, Parquet, a dataset's name on the hub, or windows of ids ready made. A text is cut into
windows that begin with the token the tokenizer starts texts with (without one, the window's own first token takes that
place). The end of a text is a shorter window: nothing of it is lost, and padding never counts.

Ids are written to a file as they come and mapped from there, so memory does not grow with the text.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import BadSource, Unreachable
from atlas.provenance import canonical
from atlas.staging import sha256

PADDING = -1
"""stands behind the last token of a window that is shorter than its batch"""
_PIECE = 1 << 20
_SUFFIXES = {".txt", ".text", ".md", ".jsonl", ".json", ".ndjson", ".parquet", ".npy"}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What text is asked for."""

    text: str | None = None
    """a file, or ``NAME[:CONFIG][@SPLIT]`` on the hub"""
    ids: str | None = None
    """a ``.npy`` of token ids [n_windows, length], run exactly as they are; negative ids behind a row are padding"""
    tokens: int | None = None
    """at most so many positions: windows drawn by the seed; of a dataset on the hub, its first"""
    context: int = 256
    field: str = "text"
    """the column of JSON lines, Parquet and datasets"""
    seed: int = 0
    part: tuple[int, int] | None = None
    """(1, 2) for the first half of the windows, (2, 2) for the second: does a figure repeat on other text?"""


@dataclass(frozen=True)
class Corpus:
    """Windows of token ids. ``ids[starts[w]:starts[w + 1]]`` is window w."""

    ids: np.ndarray
    starts: np.ndarray
    first_counts: bool
    """whether the first position of a window counts; it does in windows that were given as ids"""
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max())

    def windows(self, first: int, last: int) -> np.ndarray:
        """Windows first to last - 1 as int64 [n, longest of them], with :data:`PADDING` behind the shorter."""
        starts = self.starts[first : last + 1]
        lengths = np.diff(starts)
        found = np.full((len(lengths), int(lengths.max())), PADDING, np.int64)
        found[np.arange(found.shape[1]) < lengths[:, None]] = self.ids[starts[0] : starts[-1]]
        return found

    def counted(self, ids: np.ndarray, bos: int | None, pad: int | None, unlike: int = 1) -> np.ndarray:
        """Which positions of :meth:`windows` count: neither BOS nor padding, nor the first ``unlike`` of a text; bool,
        of the shape of ``ids``."""
        mask = ids != PADDING
        for special in (bos, pad):
            if special is not None:
                mask &= ids != special
        mask[ids[:, 0] == bos if self.first_counts else slice(None), :unlike] = False
        return mask


def prepare(request: Request, tokenizer: Any, n_vocab: int, folder: Path, progress: Progress | None = None) -> Corpus:
    """Tokenise into ``folder`` (once: a second call finds it there) and open it.

    Raises :class:`atlas.errors.BadSource` for a text that is empty, shorter than a window, not there, of the wrong
    encoding or without the asked column, for ids that the model does not have, and where fewer positions are asked for
    than one window has.
    """
    if (folder / "corpus.json").exists():
        manifest = json.loads((folder / "corpus.json").read_text())
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        manifest = _write(request, tokenizer, n_vocab, folder, progress)
        (folder / "corpus.json").write_text(canonical(manifest))
    ids = np.memmap(folder / "ids.i32", np.int32, "r")
    return Corpus(ids, np.load(folder / "starts.npy"), request.ids is not None, manifest)


def head(request: Request, tokenizer: Any, n_vocab: int, count: int) -> Corpus:
    """The first ``count`` windows, in memory: enough to time a run and to see that the text can be read."""
    source, rows = _given(request, n_vocab) if request.ids else _tokenised(request, tokenizer, n_vocab, None)
    found = list(islice(rows, count))
    lengths = [len(row) for row in found]
    _enough(request, tokenizer, lengths, whole=len(found) < count)
    starts = np.cumsum([0, *lengths])
    return Corpus(np.concatenate(found).astype(np.int32), starts, request.ids is not None, source)


def _enough(request: Request, tokenizer: Any, lengths: list[int], *, whole: bool = True) -> None:
    """Refuses a text without a token, and a whole one that cannot fill a window: some of its documents may be shorter
    than that, but all of them together are to be more than one sentence."""
    if not lengths:
        raise BadSource(f"{request.ids or request.text} holds no text; give a text of at least one word")
    begun = 0 if tokenizer.bos_token_id is None else 1
    tokens = sum(lengths) - begun * len(lengths)
    if request.text and whole and tokens + begun < request.context:
        raise BadSource(
            f"{request.text} has {tokens:,} tokens, less than one window of {request.context:,}; give more text, or "
            f"smaller windows (`atlas observe --context {tokens + begun}`)"
        )


def _one_window(request: Request, length: int) -> None:
    """Windows are drawn whole, so fewer positions than one has cannot be."""
    if request.tokens is not None and request.tokens < length:
        raise BadSource(
            f"{request.tokens:,} positions are less than one window of {length:,}; ask for more or, of a text, for "
            "smaller windows (`atlas observe --context`)"
        )


def _write(request: Request, tokenizer: Any, n_vocab: int, folder: Path, progress: Progress | None) -> dict[str, Any]:
    source, rows = _given(request, n_vocab) if request.ids else _tokenised(request, tokenizer, n_vocab, progress)
    lengths = []
    with (folder / "all.i32").open("wb") as file:
        for row in rows:
            file.write(row.astype(np.int32).tobytes())
            lengths.append(len(row))
    _enough(request, tokenizer, lengths)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    chosen = _chosen(np.asarray(lengths), request)
    everything = np.memmap(folder / "all.i32", np.int32, "r")
    digest = hashlib.sha256()
    with (folder / "ids.i32").open("wb") as file:
        for window in chosen.tolist():
            content = everything[starts[window] : starts[window + 1]].tobytes()
            digest.update(content)
            file.write(content)
    kept = np.concatenate([[0], np.cumsum(np.asarray(lengths)[chosen], dtype=np.int64)])
    digest.update(kept.tobytes())
    np.save(folder / "starts.npy", kept)
    del everything
    (folder / "all.i32").unlink()
    return {
        **source,
        "context": request.context if request.text else int(max(lengths)),
        "seed": request.seed,
        "part": list(request.part) if request.part else None,
        "windows": len(chosen),
        "windows_in_source": len(lengths),
        "tokens": int(kept[-1]),
        "ids_sha256": digest.hexdigest(),
    }


def _chosen(lengths: np.ndarray, request: Request) -> np.ndarray:
    """Windows to keep, ascending: drawn without replacement until the asked number of positions is reached."""
    chosen = np.arange(len(lengths))
    if request.tokens is not None and lengths.sum() > request.tokens:
        order = np.random.default_rng(request.seed).permutation(len(lengths))
        count = int(np.searchsorted(np.cumsum(lengths[order]), request.tokens, side="right"))
        chosen = np.sort(order[:count])
    if request.part is None:
        return chosen
    number, of = request.part
    if not 1 <= number <= of <= len(chosen):
        raise BadSource(f"part {number} of {of} is none of {len(chosen)} windows; the first half is 1/2")
    return np.array_split(chosen, of)[number - 1]


def _given(request: Request, n_vocab: int) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    path = Path(str(request.ids))
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadSource(f"{path} is not there; give a .npy file of token ids, one window a row") from None
    except (OSError, ValueError) as error:
        raise BadSource(f"{path} is no .npy file of numbers ({error})") from error
    if table.ndim != 2 or table.dtype.kind not in "iu" or not table.size:
        raise BadSource(
            f"{path} holds {table.dtype} of shape {table.shape}; windows are whole numbers [n_windows, length]"
        )
    longest = 0
    for row in table:
        if row.max() >= n_vocab:
            raise BadSource(
                f"{path} has the id {row.max()}, but the model has {n_vocab} tokens: another tokenizer's ids?"
            )
        padded = row < 0
        if padded[0] or (np.diff(padded.astype(np.int8)) < 0).any():
            raise BadSource(f"{path} has padding before a token; padding belongs behind a window's last token")
        longest = max(longest, len(row) - int(padded.sum()))
    _one_window(request, longest)
    source = {"kind": "ids", "name": path.name, "sha256": sha256(path)}
    return source, (np.asarray(row[row >= 0]) for row in table)


def _tokenised(
    request: Request, tokenizer: Any, n_vocab: int, progress: Progress | None
) -> tuple[dict[str, Any], Iterator[np.ndarray]]:
    source, pieces, total = _pieces(request)
    bos = tokenizer.bos_token_id
    span = request.context if bos is None else request.context - 1
    if span < 1:
        raise BadSource(f"a window of {request.context} has no room for a token; give --context 2 or more")
    _one_window(request, request.context)

    def rows() -> Iterator[np.ndarray]:
        left, done, kept = np.empty(0, np.int64), 0, 0
        for piece, ends in pieces:
            ids = np.asarray(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
            if len(ids) and ids.max() >= n_vocab:
                raise BadSource(f"the tokenizer gives the id {ids.max()}, but the model has {n_vocab} tokens")
            left = np.concatenate([left, ids])
            cut = len(left) if ends else len(left) // span * span
            for start in range(0, cut, span):
                window = left[start : min(start + span, cut)]
                if len(window) > (bos is None):  # a lone start token says nothing
                    kept += len(window)
                    yield window if bos is None else np.concatenate([[bos], window])
            left, done = left[cut:], done + len(piece)
            if progress:
                progress("reading text (characters)", done, max(total, done))
            if source["kind"] == "dataset" and request.tokens and kept >= request.tokens:
                return

    return source, rows()


def _pieces(request: Request) -> tuple[dict[str, Any], Iterator[tuple[str, bool]], int]:
    """What the source is, its texts in pieces (piece, whether the text ends there), and about how many characters."""
    path = Path(str(request.text)).expanduser()
    if path.is_file():
        source = {"kind": "file", "name": path.name, "sha256": sha256(path)}
        match path.suffix.lower():
            case ".parquet":
                return source, ((text, True) for text in _parquet(path, request.field)), path.stat().st_size * 3
            case ".jsonl" | ".ndjson":
                return source, ((text, True) for text in _json_lines(path, request.field)), path.stat().st_size
            case ".npy":
                raise BadSource(f"{path} holds token ids, not text; give it as --ids {path}")
            case _:
                return source, _plain(path), path.stat().st_size
    if path.exists() or path.suffix.lower() in _SUFFIXES or path.is_absolute() or str(request.text).startswith("."):
        raise BadSource(
            f"{request.text} is {'a folder' if path.exists() else 'not there'}; give a .txt, .jsonl or .parquet file, "
            "or a dataset's name"
        )
    return {"kind": "dataset", "name": str(request.text)}, ((text, True) for text in _dataset(request)), 0


def _plain(path: Path) -> Iterator[tuple[str, bool]]:
    """One text in pieces that end where a line does, so that a file of any size streams."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            held, said = file.read(_PIECE), False
            while more := file.read(_PIECE):
                cut = held.rfind("\n") + 1
                if cut:
                    said = said or not held[:cut].isspace()
                    yield held[:cut], False
                held = held[cut:] + more
            if said or held.strip():
                yield held, True
    except UnicodeDecodeError as error:
        raise BadSource(f"{path} is not UTF-8 ({_not_utf8(path)}); convert it first") from error


def _not_utf8(path: Path) -> str:
    """Where: what the decoder says counts from where its buffer begins."""
    begin = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return f"line {number:,}, byte {begin + error.start:,}: {error.reason}"
            begin += len(line)
    return "it changed while it was read"


def _json_lines(path: Path, field: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadSource(f"{path} line {number} is no JSON in UTF-8 ({error})") from error
            text = row.get(field) if isinstance(row, dict) else row
            if not isinstance(text, str):
                raise BadSource(f"{path} line {number} has no text under {field!r}; name the field with --field")
            yield text


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise BadSource(f"{path} is no Parquet file ({error})") from error
    if field not in file.schema_arrow.names:
        raise BadSource(f"{path} has no column {field!r}; it has {', '.join(file.schema_arrow.names)} (--field)")
    if not pa.types.is_string(kind := file.schema_arrow.field(field).type) and not pa.types.is_large_string(kind):
        raise BadSource(f"{path}: column {field!r} holds {kind}, not text")
    for batch in file.iter_batches(64, columns=[field]):
        yield from (text for text in batch[field].to_pylist() if text)


def _dataset(request: Request) -> Iterator[str]:
    name, _, split = str(request.text).partition("@")
    name, _, config = name.partition(":")
    try:
        from datasets import load_dataset
    except ImportError:
        raise BadSource(f"{name} is no file, and datasets need `pip install datasets`") from None
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # every try again would be a line of its own; what failed in the end is told below
    try:
        rows = load_dataset(name, config or None, split=split or "train", streaming=True)
        for row in rows:
            if not isinstance(row.get(request.field), str):
                raise BadSource(
                    f"dataset {name} has no text under {request.field!r}; it has {', '.join(row)} (--field)"
                )
            yield row[request.field]
    except (ConnectionError, OSError, ValueError) as error:  # what datasets raises for a name it cannot find or reach
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreachable(f"{name!r} is no file here, and no dataset that can be read ({reason[:200]})") from error
    finally:
        hub.setLevel(level)
