"""The recipe: a model and its transcoders become a staged build, step by step, resumable.

::

    open        model weights, transcoders; hash what is read; the build's name
    compute     every unit that is not there yet (ingest.edges, ingest.parts)
    decide      what columns keep, over all units
    write       edges, statistics, nodes, and last the manifest (ingest.writer)

The only module that knows all steps. Stopped anywhere, the same call goes on; once finished, it returns what is there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from atlas import schema
from atlas.builds import folder as builds_folder
from atlas.errors import AtlasError, BadBuild, BadModel, BadSetting, BadTranscoder
from atlas.model import MODEL_NAME, SET_NAME
from atlas.provenance import Run
from atlas.staging import STATS_COLUMNS, Build, open_build
from ingest import nodes
from ingest.assemble import Assembly, decide_columns
from ingest.edges import Group, Keep, Pool, compute, rules, spread
from ingest.edges.tiles import Floors, NotFinite
from ingest.folding import Vectors
from ingest.parts import Parts, Unit
from ingest.plan import Plan, Sizes, estimate, units
from ingest.sources import open_transcoders
from ingest.transcoder import SetInfo
from ingest.weights import ModelWeights, open_model
from ingest.writer import Writer

Progress = Callable[[str, int, int], None]
_STATISTICS = ("ACTIVATES", "FEEDS", "PROMOTES")
_MILLION = 1_000_000


@dataclass(frozen=True)
class Job:
    """What is to be built, opened and checked, with nothing computed yet."""

    model_name: str
    set_name: str
    model: ModelWeights
    info: SetInfo
    vectors: Vectors
    keep: Keep
    min_z: float | None
    run: Run
    device: str
    path: Path
    given: dict[str, str]
    """where model and transcoders were read, for whoever runs them again; noted outside the hash"""

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.set_name}"


def build(
    *,
    model: Any,
    transcoders: Any,
    name: str | None = None,
    layers: list[int] | None = None,
    keep: Keep | None = None,
    min_z: float | None = None,
    device: str = "auto",
    home: str | Path | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Build:
    """Compute all connections of a set of transcoders and stage them under ``ATLAS_HOME/builds``.

    ``model``: a local folder, a hub ``repo[@revision]``, or a loaded model. ``transcoders``: a local folder, a hub
    ``repo[/folder][@revision]``, ``saelens:RELEASE``, or a dict by layer. ``name``: ``MODEL/SET``, for keys. ``keep``
    and ``min_z`` say what is kept (:class:`ingest.edges.Keep`). ``progress`` is called with (what, done, total), in
    millions of products while edges are computed.

    Raises :class:`atlas.errors.BadSource` for what cannot be read or does not fit, and :class:`atlas.errors.NoSpace`;
    either way nothing half-written is left, and the same call goes on where it stopped.
    """
    _refuse_pickles(allow_pickle)
    job = prepare(model, transcoders, name, layers, keep, min_z, device, home)
    return _finished(job.path) or stage(job, progress)


def plan(
    *,
    model: Any,
    transcoders: Any,
    name: str | None = None,
    layers: list[int] | None = None,
    keep: Keep | None = None,
    min_z: float | None = None,
    device: str = "auto",
    home: str | Path | None = None,
    allow_pickle: bool = False,
) -> Plan:
    """What :func:`build` would cost with the same arguments; computes and writes nothing."""
    _refuse_pickles(allow_pickle)
    job = prepare(model, transcoders, name, layers, keep, min_z, device, home)
    return estimate(job.name, Sizes.of(job.vectors), job.keep, min_z, device=job.device)


def prepare(
    model: Any,
    transcoders: Any,
    name: str | None,
    layers: list[int] | None,
    keep: Keep | None,
    min_z: float | None,
    device: str,
    home: str | Path | None,
) -> Job:
    """Open and check everything that goes in."""
    keep = keep or Keep()
    wrong = [option for option, count in asdict(keep).items() if count < 0]
    if wrong or (min_z is not None and not min_z > 0):
        raise BadSetting(f"keep {', '.join(wrong)} must not be negative, and min_z ({min_z}) must be positive")
    weights = open_model(model)
    source = open_transcoders(transcoders, layers, model=weights)
    info = source.info
    model_name, set_name = _names(name, weights.name, info.name)
    run = Run(
        inputs={
            "model": {"repo": weights.repo, "revision": weights.revision, "files": weights.files},
            "set": {"repo": info.repo, "revision": info.revision, "files": info.files},
            "vocabulary": weights.vocabulary.name,
        },
        settings={
            "name": f"{model_name}/{set_name}",
            "layers": info.layers,
            "keep": asdict(keep),
            "min_z": min_z,
        },
    )
    return Job(
        model_name=model_name,
        set_name=set_name,
        model=weights,
        info=info,
        vectors=Vectors(weights, source),
        keep=keep,
        min_z=min_z,
        run=run,
        device=_device(device),
        path=builds_folder(home) / f"{model_name}-{set_name}-{run.id}",
        given={"model": _place(model), "transcoders": _place(transcoders)},
    )


def _place(spec: Any) -> str:
    if not isinstance(spec, str | Path):
        return ""
    return str(Path(spec).expanduser().resolve()) if Path(spec).expanduser().is_dir() else str(spec)


def stage(job: Job, progress: Progress | None = None) -> Build:
    """Compute what is missing and write the build."""
    started, clock = datetime.now(UTC), time.perf_counter()
    show = progress or (lambda what, done, total: None)
    sizes = Sizes.of(job.vectors)
    todo = units(sizes)
    parts = Parts(job.path / "work")
    with Pool() as pool:
        _compute(job, todo, sizes, parts, pool, show)
        _write(job, todo, sizes, parts, show)
    temporary = parts.bytes
    Writer(job.path).json(
        "run.json",
        {
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "device": job.device,
            "threads": torch.get_num_threads(),
            "temporary_bytes": temporary,
            **job.given,
        },
    )
    return _finished(job.path) or open_build(job.path)


def _compute(job: Job, todo: list[Unit], sizes: Sizes, parts: Parts, pool: Pool, show: Progress) -> None:
    total = -(-sum(unit.products for unit in todo) // _MILLION)
    done = sum(unit.products for unit in todo if parts.done(unit))
    floors: dict[tuple[str, int, int], Floors] = {}
    show("edges (million products)", done // _MILLION, total)

    def tick(products: int) -> None:
        nonlocal done
        done += products
        show("edges (million products)", min(total, -(-done // _MILLION)), total)

    for unit in todo:
        if parts.done(unit):
            continue
        groups = [_group(job, unit, position, sizes, parts, pool) for position in _columns(unit)]
        known = [floors.get((unit.kind, position, unit.layer), Floors()) for position in _columns(unit)]
        rows = _rows(job, unit, sizes)[unit.first : unit.last]
        first = unit.first + (0 if unit.kind == "logits" else sizes.first[unit.layer])
        try:
            result = compute(
                rows,
                first,
                (make() for make in groups),
                rules(unit.kind, job.keep, job.min_z),
                pool,
                floors=known,
                device=job.device,
                tick=tick,
            )
        except NotFinite as error:
            raise _not_finite(unit, error, sizes) from error
        parts.save(unit, result)
        for position, floor in zip(_columns(unit), result.floors, strict=True):
            _raise(floors, unit, position, floor, len(sizes.layers))


def _not_finite(unit: Unit, error: NotFinite, sizes: Sizes) -> AtlasError:
    """Which vector it is, in the reader's words."""
    how = "is not finite, or too long for float32"
    of_rows = error.side == "row"
    if unit.kind == "logits" or (not of_rows and unit.kind != "FEEDS"):
        what = "token" if unit.kind == "ACTIVATES" or (unit.kind == "logits" and not of_rows) else "logit"
        return BadModel(f"the vector of {what} {error.index} {how}; look at the embedding and the final norm's gain")
    writes = unit.kind == "PROMOTES" or not of_rows
    layer = sizes.layers[unit.layer if of_rows else error.group]
    idx = error.index + (unit.first if of_rows else 0)
    return BadTranscoder(
        f"layer {layer}: what feature {idx} {'writes' if writes else 'reads'} {how}; look at its weights and its gains"
    )


def _columns(unit: Unit) -> list[int]:
    """The groups of columns that a unit meets: source layers by position, or the one vocabulary."""
    return list(range(unit.layer)) if unit.kind == "FEEDS" else [0]


def _rows(job: Job, unit: Unit, sizes: Sizes) -> torch.Tensor:
    if unit.kind == "logits":
        return job.vectors.logit_reads()
    layer = sizes.layers[unit.layer]
    return job.vectors.writes(layer) if unit.kind == "PROMOTES" else job.vectors.reads(layer)


def _group(job: Job, unit: Unit, position: int, sizes: Sizes, parts: Parts, pool: Pool) -> Callable[[], Group]:
    """Makes one group of columns when it is its turn."""

    def make() -> Group:
        if unit.kind == "FEEDS":
            vectors, first, name = job.vectors.writes(sizes.layers[position]), sizes.first[position], f"{position:03}"
        elif unit.kind == "PROMOTES":
            vectors, first, name = job.vectors.logit_reads(), 0, "logits"
        else:
            vectors, first, name = job.vectors.token_writes(), 0, "tokens"
        if unit.kind == "logits":
            return Group(first, vectors)
        return Group(first, vectors, parts.spread(name, lambda: spread(vectors, pool)))

    return make


def _raise(floors: dict[tuple[str, int, int], Floors], unit: Unit, position: int, found: Floors, n_layers: int) -> None:
    """Note what columns have reached, for the units in which the same rule goes on."""
    for layer in range(n_layers):
        key = (unit.kind, position, layer)
        before = floors.get(key, Floors())
        same_layer = unit.kind != "FEEDS" or layer == unit.layer
        floors[key] = Floors(
            col_abs=_higher(before.col_abs, found.col_abs if same_layer else None),
            col_z=_higher(before.col_z, found.col_z),
        )


def _higher(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else np.maximum(a, b)


def _write(job: Job, todo: list[Unit], sizes: Sizes, parts: Parts, show: Progress) -> None:
    what, n_layers = "writing (layers)", len(sizes.layers)
    total_columns = 2 * sizes.n_vocab + sum(sizes.n_features[:-1])
    merged = 0

    def tick(columns: int) -> None:
        nonlocal merged
        merged += columns
        show("merging (features and tokens)", merged, total_columns)

    columns = decide_columns(parts, todo, sizes, job.keep, job.min_z, tick)
    writer = Writer(job.path)
    assembly = Assembly(parts, todo, sizes, columns, writer)
    texts, bos = job.model.vocabulary.texts, job.model.bos_id
    with ExitStack() as stack:
        stats = {
            kind: stack.enter_context(writer.open(f"stats/{kind}.parquet", STATS_COLUMNS[kind])) for kind in _STATISTICS
        }
        features = stack.enter_context(writer.open("nodes/Feature.parquet", schema.NODE["Feature"].arrow))
        for position, layer in enumerate(sizes.layers):
            show(what, position, n_layers)
            found = assembly.layer(position)
            for kind, file in stats.items():
                file.write_table(assembly.statistics(kind, position, found))
            rows = assembly.rows(position, found, texts, bos)
            features.write_table(nodes.features(job.model_name, job.set_name, layer, job.vectors, rows))
        show(what, n_layers, n_layers)
    logits = [np.arange(sizes.n_vocab, dtype=np.int32), assembly.logit_l1]
    writer.table("stats/logits.parquet", pa.table(logits, schema=STATS_COLUMNS["logits"]))
    n_edges = sum(entry["rows"] for file, entry in writer.files.items() if file.startswith("edges/"))
    cut = {**asdict(job.keep), "min_z": job.min_z}
    writer.table("nodes/Model.parquet", nodes.model(job.model_name, job.model))
    writer.table("nodes/Token.parquet", nodes.tokens(job.model.vocabulary.name, texts))
    writer.table("nodes/Run.parquet", nodes.run_node(job.run))
    set_node = nodes.transcoder_set(job.model_name, job.set_name, job.info, list(sizes.layers), cut, n_edges, job.run)
    writer.table("nodes/TranscoderSet.parquet", set_node)
    writer.finish(
        {
            "run": job.run.id,
            "code": job.run.code,
            "model": {"name": job.model_name, **job.run.inputs["model"]},
            "set": {"name": job.set_name, **job.run.inputs["set"]},
            "settings": job.run.settings,
            "layers": list(sizes.layers),
            "features_per_layer": list(sizes.n_features),
        }
    )


def _finished(path: Path) -> Build | None:
    """The build, where it is there and whole; its parts are not needed any more."""
    try:
        build = open_build(path)
    except BadBuild:
        (path / "manifest.json").unlink(missing_ok=True)
        return None
    shutil.rmtree(path / "work", ignore_errors=True)
    return build


def _refuse_pickles(allow_pickle: bool) -> None:
    if allow_pickle:
        raise BadSetting("no layout of transcoders is read from pickles; save them as safetensors")


def _names(name: str | None, model: str, set_: str) -> tuple[str, str]:
    if name is None:
        return model, set_
    given, slash, of_set = name.partition("/")
    if not slash or not MODEL_NAME.match(given) or not SET_NAME.match(of_set):
        raise BadSetting(f"{name!r} is no name; write MODEL/SET, such as gpt2-small/tc-24k")
    return given, of_set


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise BadSetting(
            f"device {asked!r} cannot be used here ({str(error).splitlines()[0]}); try cpu or auto"
        ) from error
    return asked
