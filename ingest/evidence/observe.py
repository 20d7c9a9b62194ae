"""The recipe: a text goes through the model, and what is seen is staged beside a build.

The text is taken a shard at a time. Where the sums of all features fit into the memory allowed, one pass does
everything and the sums themselves are the checkpoint; where not, what fired is kept on disk a shard a file, and the
features are taken block by block over those files. Where the build has heads it is kept either way, and the model runs
over the text again for what its attention carries (:mod:`ingest.evidence.through`). A run that is killed goes on at the
shard it was in, and gives what an uninterrupted one gives, to the rounding of the model's own forward pass.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas import observations
from atlas.errors import BadSetting
from atlas.observations import Observation
from atlas.provenance import Run
from atlas.staging import Build
from atlas.through import has_heads
from ingest import skips
from ingest.evidence import corpus as texts
from ingest.evidence.capture import Batch, Reader, joined
from ingest.evidence.corpus import Corpus, Request
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.fidelity import Fidelity, fidelity
from ingest.evidence.interference import Interference
from ingest.evidence.relations import Relations, Totals
from ingest.evidence.staged import examples, layers, windows, write
from ingest.evidence.subject import Subject
from ingest.evidence.through import Reading, ThroughHeads
from ingest.folding import Vectors
from ingest.parts import disk

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """How a text is observed. Only :attr:`examples`, :attr:`strongest` and :attr:`heads` change what comes out."""

    examples: int = 16
    """of each feature, of each kind: the strongest, and a uniform sample"""
    strongest: int = 16
    """of each target, by TWERA and by drive: edges that enter the atlas whatever their weight"""
    memory: int = 2 << 30
    """bytes for sums; what needs more is done in blocks"""
    batch: int = 4096
    """positions in one forward pass"""
    shard: int = 65536
    """positions between two looks at the clock; what fired in one shard is held in memory"""
    checkpoint: float = 60.0
    """seconds of work that a killed run may lose, and a shard"""
    heads: bool = True
    """follow attention too, where the build has edges through heads"""

    def __post_init__(self) -> None:
        for name in ("examples", "strongest", "memory", "batch", "shard"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.examples > observations.MOST_EXAMPLES:
            raise BadSetting(
                f"examples is {self.examples:,}; {observations.MOST_EXAMPLES:,} of each feature is the most"
            )


def observe(
    subject: Subject,
    request: Request,
    options: Options | None = None,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> Observation:
    """Observe a text and stage what was seen in ``BUILD/observations/NAME``. The same call again resumes, or finds it.

    The first observation of a build becomes its default. Raises :class:`atlas.errors.BadSource` for a text that cannot
    be read and :class:`atlas.errors.BadSetting` where the name is taken by another text.
    """
    options = options or Options()
    started = datetime.now(UTC)
    settings = _settings(subject.build, options)
    name = name or _name(request, settings)
    folder = observations.folder(subject.build) / name
    work = folder / "work"
    _claim(folder, json.dumps({"request": asdict(request), **settings}), name)
    if (folder / "manifest.json").exists():
        return observations.find(subject.build, name)
    with disk(folder):
        try:
            text = texts.prepare(request, subject.tokenizer, subject.weights.n_vocab, work / "corpus", progress)
            subject.runner.refuse_longer(text.longest, f"a window of {text.longest:,}")
        except Exception:
            shutil.rmtree(folder)
            raise
        fits = _once(work / "fidelity.json", lambda: [asdict(found) for found in _fidelity(subject, text)])
        seen = _Pass(subject, text, options, work, progress)
        tables = seen.run()
        tables["layers.parquet"] = layers(
            subject.source.info.layers, fits, seen.totals, tables["features.parquet"], seen.shape
        )
        run = Run(
            inputs={"build": subject.build.run, "ids": text.manifest["ids_sha256"]},
            settings=settings,
        )
        heads = seen.follow(folder) if "heads" in settings else []
        manifest = {
            "format": observations.FORMAT,
            "build": subject.build.run,
            "run": run.id,
            "code": run.code,
            "corpus": text.manifest,
            "positions": seen.totals.positions,
            "interference": seen.interference.figures(),
            **run.settings,
        }
        write(folder, tables, manifest, started, str(subject.runner.device), heads)
        if observations.names(subject.build) == [name]:
            observations.make_default(subject.build, name)
    return observations.find(subject.build, name)


class _Pass:
    """The text through the model, and the sums that come of it."""

    def __init__(self, subject: Subject, text: Corpus, options: Options, work: Path, progress: Progress | None) -> None:
        self.subject, self.text, self.options, self.work, self.progress = subject, text, options, work, progress
        self.shape = Shape(np.cumsum([0, *subject.shape_of]), subject.weights.n_vocab, options.examples)
        self.blocks = self.shape.blocks(options.memory)
        self.sums = Sums(self.shape, self.blocks[0]) if len(self.blocks) == 1 else None
        self.totals = _no_totals(self.shape)
        self.done = 0
        self.shards = _shards(text, options.shard)
        self.rows = max(1, options.batch // text.longest)  # windows in one forward pass
        self.keeps = self.sums is None or "heads" in _settings(subject.build, options)

    def run(self) -> dict[str, pa.Table]:
        """Everything to be staged, by file name, but the figures by layer."""
        self._restore()
        reader = Reader(self.subject.runner, self.subject.source) if self.done < len(self.shards) else None
        saved = time.monotonic()
        for number in range(self.done, len(self.shards)):
            assert reader is not None
            batch = joined(list(self._batches(reader, *self.shards[number])))
            self._count(batch)
            self.done = number + 1
            if self.keeps:
                _save(self.work / f"shard-{number:06}.npz", _arrays_of(batch))
            if self.sums is None or time.monotonic() - saved > self.options.checkpoint or self.done == len(self.shards):
                self._checkpoint()
                saved = time.monotonic()
            if self.progress:
                self.progress("reading features (windows)", self.shards[number][1], len(self.text))
        return self._relate()

    def _batches(self, reader: Reader, first: int, last: int) -> Iterator[Batch]:
        """Windows of about equal length run together: a batch is as wide as its longest."""
        for start in range(first, last, self.rows):
            ids = self.text.windows(start, min(start + self.rows, last))
            yield reader.read(ids, self.text.counted(ids, *self.subject.special), start)

    def _count(self, batch: Batch) -> None:
        totals, n = self.totals, self.shape.n_features
        totals.positions += len(batch.token)
        totals.token_n += np.bincount(batch.token, minlength=self.shape.n_vocab)
        totals.n += np.bincount(batch.feature, minlength=n)
        totals.sum += np.bincount(batch.feature, weights=batch.value, minlength=n)
        for name, sums in batch.inverse.items():
            totals.inverse[name] += sums
        if self.sums is not None:
            self.sums.add(batch)

    def _relate(self) -> dict[str, pa.Table]:
        if not self.totals.positions:
            raise BadSetting("no position of this text counts: it holds nothing but BOS and padding")
        paths = skips.of_settings(self.subject.build.manifest["settings"])
        vectors = Vectors(self.subject.weights, self.subject.source, **paths)
        found = self.found = Relations(self.subject.build, vectors, self.shape, self.totals, self.options.strongest)
        self.interference = Interference(found)
        parts: dict[str, list[pa.Table]] = {}
        for number, block in enumerate(self.blocks):
            sums = self.sums if self.sums is not None else self._block(block)
            feeds, extra = found.feeds(sums)
            self.interference.add(sums)
            made = {
                "features.parquet": found.features(sums),
                "edges/FEEDS.parquet": feeds,
                "edges/ACTIVATES.parquet": found.activates(sums),
                "extra/FEEDS.parquet": extra,
                "examples.parquet": examples(sums),
            }
            for name, table in made.items():
                parts.setdefault(name, []).append(table)
            if self.progress:
                self.progress("relating features (blocks)", number + 1, len(self.blocks))
        tables = {name: pa.concat_tables(some) for name, some in parts.items()}
        tables["edges/PROMOTES.parquet"] = found.promotes()
        tables["windows.parquet"] = windows(self.text, np.unique(tables["examples.parquet"]["window"].to_numpy()))
        return tables

    def _block(self, block: range) -> Sums:
        sums = Sums(self.shape, block)
        for number in range(len(self.shards)):
            sums.add(self._fired(number))
        return sums

    def _fired(self, number: int) -> Batch:
        """What fired in a shard, as it was kept."""
        with np.load(self.work / f"shard-{number:06}.npz") as stored:
            return Batch(**{name: stored[name] for name in stored.files}, inverse={})

    def follow(self, folder: Path) -> list[str]:
        """After :meth:`run`: evidence for edges through heads, into the observation's folder; the files' names."""
        self.sums = None  # their memory is what those of heads may take
        subject, options = self.subject, self.options
        reading = Reading(self.text, subject.special, self.shards, self.rows, self._fired)
        heads = ThroughHeads(subject.build, subject.runner, reading, options.memory, self.work, _save)
        return heads.run(self.found, folder, options.checkpoint, self.progress)

    def _checkpoint(self) -> None:
        totals = self.totals
        arrays = {"done": np.asarray(self.done), "positions": np.asarray(totals.positions)}
        arrays |= {"token_n": totals.token_n, "n": totals.n, "sum": totals.sum}
        arrays |= {f"inverse_{name}": sums for name, sums in totals.inverse.items()}
        if self.sums is not None:
            arrays |= {f"sums_{name}": array for name, array in self.sums.arrays.items()}
        _save(self.work / "state.npz", arrays)

    def _restore(self) -> None:
        try:
            stored = np.load(self.work / "state.npz")
        except FileNotFoundError:
            return
        with stored:
            if ("sums_n" in stored) != (self.sums is not None):
                return  # other memory was allowed: what is there is of no use, so it begins anew
            self.done = int(stored["done"])
            inverse = {name: stored[f"inverse_{name}"] for name in self.totals.inverse}
            self.totals = Totals(int(stored["positions"]), stored["token_n"], inverse, stored["n"], stored["sum"])
            if self.sums is not None:
                for name in self.sums.arrays:
                    self.sums.arrays[name] = stored[f"sums_{name}"]


def _fidelity(subject: Subject, text: Corpus) -> list[Fidelity]:
    return fidelity(subject.runner, subject.source, text, *subject.special)


def _claim(folder: Path, asked: str, name: str) -> None:
    """Take the folder for this request, or find that it is ours already."""
    observations.check_name(name)
    note = folder / "asked.json"
    if note.exists() and note.read_text() != asked:
        raise BadSetting(
            f"the observation {name!r} is of another text or of other settings; choose another name (--as)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(asked)


def _once(path: Path, make: Callable[[], Any]) -> Any:
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def _shards(text: Corpus, positions: int) -> list[tuple[int, int]]:
    rows = np.searchsorted(text.starts, np.arange(0, int(text.starts[-1]), positions), side="left")
    ends = [*np.unique(np.minimum(rows, len(text) - 1)).tolist(), len(text)]
    return list(pairwise(ends))


def _no_totals(shape: Shape) -> Totals:
    layers = len(shape.first) - 1
    inverse = {"in": np.zeros(layers), "out": np.zeros(layers), "final": np.zeros(1)}
    n = shape.n_features
    return Totals(0, np.zeros(shape.n_vocab, np.int64), inverse, np.zeros(n, np.int64), np.zeros(n))


def _arrays_of(batch: Batch) -> dict[str, np.ndarray]:
    return {name: value for name, value in vars(batch).items() if name != "inverse"}


def _save(path: Path, arrays: dict[str, Any]) -> None:
    """All or nothing, whenever the process dies."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _settings(build: Build, options: Options) -> dict[str, Any]:
    """What changes what comes out."""
    heads = {"heads": True} if options.heads and has_heads(build) else {}
    return {"examples": options.examples, "strongest": options.strongest, **heads}


def _name(request: Request, settings: dict[str, Any]) -> str:
    given = Path(str(request.ids or request.text)).name.partition("@")[0].partition(":")[0]
    stem = "".join(c if c.isalnum() else "-" for c in Path(given).stem).strip("-").lower() or "text"
    digest = Run(inputs=asdict(request), settings=settings).id
    return f"{stem[:32]}-{digest[:6]}"
