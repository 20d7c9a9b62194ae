"""The recipe: a model and its transcoders become a staged build, step by step, resumable.

::

    open        model weights, transcoders; hash what is read; the build's name (ingest.job)
    compute     every unit that is not there yet (ingest.computing, ingest.parts)
    decide      what columns keep, over all units
    write       edges, statistics, nodes, and last the manifest (ingest.writer)

The only module that knows all steps. Stopped anywhere, the same call goes on; once finished, it returns what is there.
Several processes may share the second step (:func:`share`); the last of them to finish does the rest.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from atlas import schema
from atlas.errors import BadBuild
from atlas.staging import STATS_COLUMNS, Build, open_build
from ingest import nodes, staged_vectors, through, through_files
from ingest.assemble import Assembly, decide_columns
from ingest.computing import Progress, compute_units
from ingest.device import elsewhere
from ingest.directions import Direction
from ingest.edges import Keep, Pool
from ingest.job import Job, prepare
from ingest.parts import Parts, Unit
from ingest.plan import COMPARED, Plan, Sizes, estimate, units
from ingest.ranks import Rank
from ingest.writer import Writer

_STATISTICS = ("ACTIVATES", "FEEDS", "PROMOTES")
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


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
    with_skips: bool = False,
    vectors: bool | None = None,
    directions: Sequence[Direction] = (),
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Build:
    """Compute all connections of a set of transcoders and stage them under ``ATLAS_HOME/builds``.

    ``model``: a local folder, a hub ``repo[@revision]``, or a loaded model. ``transcoders``: a local folder, a hub
    ``repo[/folder][@revision]``, ``saelens:RELEASE``, or a dict by layer. ``name``: ``MODEL/SET``, for keys. ``keep``
    and ``min_z`` say what is kept (:class:`ingest.edges.Keep`). ``with_skips`` lets paths run through the set's linear
    skips, under a name of its own. ``vectors``: whether those of the features are staged too (:mod:`atlas.vectors`);
    None is up to 1 GB, and True adds them to a finished build. ``directions`` stand behind the features
    (:mod:`ingest.directions`). ``check`` first measures how the set fits the model, and refuses one that fits another
    convention better, unless ``force``; ``say`` is called with the figures (:mod:`ingest.guard`). ``progress`` is
    called with (what, done, total), in millions of products while edges are computed.

    Raises :class:`atlas.errors.BadSource` for what cannot be read or does not fit, and :class:`atlas.errors.NoSpace`;
    either way nothing half-written is left, and the same call goes on where it stopped.
    """
    how: dict[str, Any] = {"allow_pickle": allow_pickle, "with_skips": with_skips, "vectors": vectors}
    job = prepare(model, transcoders, name, layers, keep, min_z, device, home, directions=directions, **how)
    done = _finished(job.path) or stage(job.checked(check, force, say), progress)
    assert done is not None  # only ranks leave anything to others
    return staged_vectors.added(job, done)


def share(
    *,
    rank: Rank,
    model: Any,
    transcoders: Any,
    name: str | None = None,
    layers: list[int] | None = None,
    keep: Keep | None = None,
    min_z: float | None = None,
    device: str = "auto",
    home: str | Path | None = None,
    allow_pickle: bool = False,
    with_skips: bool = False,
    vectors: bool | None = None,
    directions: Sequence[Direction] = (),
    check: bool = True,
    force: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Build | None:
    """One rank's share of what :func:`build` does with the same arguments; ``home`` is one folder for all ranks.

    The rank that finds every unit done writes the build and returns it, the others None. A rank that was lost is
    started again with its number; :func:`build`, too, does whatever is missing. The files are those of one process.
    """
    how: dict[str, Any] = {"allow_pickle": allow_pickle, "with_skips": with_skips, "vectors": vectors}
    job = prepare(model, transcoders, name, layers, keep, min_z, device, home, rank.local, directions=directions, **how)
    done = _finished(job.path) or stage(job.checked(check, force, say), progress, rank)
    return done and staged_vectors.added(job, done)


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
    with_skips: bool = False,
    vectors: bool | None = None,
) -> Plan:
    """What :func:`build` would cost with the same arguments; computes and writes nothing.

    ``device`` may be CUDA where there is none: all but the time is the same.
    """
    how: dict[str, Any] = {"allow_pickle": allow_pickle, "with_skips": with_skips, "vectors": vectors}
    here = "cpu" if elsewhere(device) else device
    job = prepare(model, transcoders, name, layers, keep, min_z, here, home, **how)
    return _estimate(job, Sizes.of(job.vectors), device if elsewhere(device) else None)


def stage(job: Job, progress: Progress | None = None, rank: Rank | None = None) -> Build | None:
    """Compute what is missing, or a rank's share of it, and write the build where every unit is there.

    None where other ranks have still to compute theirs, or one of them is writing the build.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    show = progress or (lambda what, done, total: None)
    sizes = Sizes.of(job.vectors)
    todo = units(sizes)
    of_heads = through.units(job.vectors, sizes) if job.keep.heads else []
    predicted = _estimate(job, sizes)
    parts = Parts(job.path / "work")
    with Pool() as pool:
        compute_units(job, rank.share(todo) if rank else todo, sizes, parts, pool, show)
        if of_heads:
            through.compute_units(job, rank.share(of_heads) if rank else of_heads, sizes, parts, pool, show)
        done = _finished(job.path)
        if done or not all(parts.done(unit) for unit in todo + of_heads):
            return done
        with parts.finishing(wait=rank is None) as ours:
            done = _finished(job.path)
            if done or not ours:
                return done
            before = time.perf_counter()
            writer, about = _write(job, todo, of_heads, sizes, parts, pool, show)
            seconds = sum(map(parts.seconds, todo + of_heads)) + time.perf_counter() - before
            writer.json(
                "run.json",
                {
                    "started": started.isoformat(timespec="seconds"),
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "seconds": round(time.perf_counter() - clock, 3),
                    "device": job.device,
                    "threads": torch.get_num_threads(),
                    "predicted": {field: getattr(predicted, field) for field in COMPARED},
                    "actual": {
                        "seconds": round(seconds, 3),
                        "edges": {kind: writer.rows(f"edges/{kind}/") for kind in predicted.edges},
                        "disk": sum(entry["bytes"] for entry in writer.files.values()),
                        "temporary": parts.bytes,
                        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES,
                    },
                    **job.given,
                },
            )
            writer.finish(about)
    return _finished(job.path) or open_build(job.path)


def _estimate(job: Job, sizes: Sizes, away: str | None = None) -> Plan:
    """``away``: a device that cannot be timed here."""
    plan = estimate(job.name, sizes, job.keep, job.min_z, device=away or job.device, calibrate=away is None)
    plan = replace(plan, disk=plan.disk + staged_vectors.size(job.staged_vectors, sizes))
    return through.estimated(plan, job.vectors, sizes, job.keep.heads) if job.keep.heads else plan


def _write(
    job: Job, todo: list[Unit], of_heads: list[Unit], sizes: Sizes, parts: Parts, pool: Pool, show: Progress
) -> tuple[Writer, dict[str, Any]]:
    """All files but the manifest; returns what it is to say beside them."""
    what, n_layers = "writing (layers)", len(sizes.layers)
    total_columns = 2 * sizes.n_vocab + sum(sizes.n_features[:-1])
    merged = 0

    def tick(columns: int) -> None:
        nonlocal merged
        merged += columns
        show("merging (features and tokens)", merged, total_columns)

    decide_columns(parts, todo, sizes, job.keep, job.min_z, pool, tick)
    writer = Writer(job.path)
    assembly = Assembly(parts, todo, sizes, writer, pool)
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
            nodes.name(rows, [one.name for one in job.vectors.at(layer)])
            features.write_table(nodes.features(job.model_name, job.set_name, layer, job.vectors, rows))
        show(what, n_layers, n_layers)
    logits = [np.arange(sizes.n_vocab, dtype=np.int32), assembly.logit_l1]
    writer.table("stats/logits.parquet", pa.table(logits, schema=STATS_COLUMNS["logits"]))
    if of_heads:
        through_files.write(job, of_heads, sizes, parts, writer)
    if staged_vectors.size(job.staged_vectors, sizes):
        staged_vectors.write(job.vectors, sizes, writer)
    n_edges = writer.rows("edges/")
    cut = {**job.keep.said, "min_z": job.min_z}
    if job.vectors.with_skips:
        cut["paths"] = job.run.settings["paths"]
    writer.table("nodes/Model.parquet", nodes.model(job.model_name, job.model))
    writer.table("nodes/Token.parquet", nodes.tokens(job.model.vocabulary.name, texts))
    writer.table("nodes/Run.parquet", nodes.run_node(job.run))
    set_node = nodes.transcoder_set(job.model_name, job.set_name, job.info, sizes, cut, n_edges, job.run)
    writer.table("nodes/TranscoderSet.parquet", set_node)
    return writer, {
        "run": job.run.id,
        "code": job.run.code,
        "model": {"name": job.model_name, **job.run.inputs["model"]},
        "set": {"name": job.set_name, **job.run.inputs["set"]},
        "settings": job.run.settings,
        "layers": list(sizes.layers),
        "features_per_layer": list(sizes.n_features),
    }


def _finished(path: Path) -> Build | None:
    """The build, where it is there and whole; its parts are not needed any more."""
    try:
        build = open_build(path)
    except BadBuild:
        (path / "manifest.json").unlink(missing_ok=True)
        return None
    shutil.rmtree(path / "work", ignore_errors=True)
    return build
