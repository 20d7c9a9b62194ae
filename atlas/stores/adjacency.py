"""The kept FEEDS edges of one set as a compact adjacency: what path search reads.

Rows are targets; within a row, sources ascend. Flat files that are mapped into memory, 16 B an edge; 32 where a text
was observed::

    offsets.npy   int64 [n_features + 1]     where each target's row begins
    source.npy    int32 [n_edges]            row number of the source feature
    weight.npy, z.npy, share.npy   float32 [n_edges]
    coactivation.npy   int64 [n_edges]       positions at which both ends are active
    drive.npy, twera.npy   float32 [n_edges] evidence; not a number where it is undefined
    adjacency.json                           the run it belongs to, layers and features of each, and whether it has
                                             the files of evidence
    via/                                     where the build has heads: the same files of FEEDS and FEEDS_VIA together,
      head.npy                               and int32, for each -1 or the head it passes through: layer << 16 | number

Written beside an atlas when a build is loaded. It names its run and refuses to answer for another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atlas.errors import BadBuild, BadSetting
from atlas.staging import Build

_COLUMNS = ("weight", "z", "share")
EVIDENCE = {"coactivation": "n_both", "drive": "drive_active", "twera": "twera"}
"""Files of evidence, and the properties of edges that are in them."""
_TYPES = {"source": np.int32, "coactivation": np.int64}


@dataclass(frozen=True)
class Adjacency:
    """Edges by target, memory-mapped. Features are numbered by (layer, idx)."""

    run: str
    layers: list[int]
    features_per_layer: list[int]
    offsets: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    share: np.ndarray
    evidence: dict[str, np.ndarray] = field(default_factory=dict)
    """by the names of :data:`EVIDENCE`; empty where nothing was observed"""
    head: np.ndarray | None = None
    """which head each edge passes through, layer << 16 | number; -1 for none. Where it is asked for"""


def write(build: Build, folder: Path) -> None:
    """Write the adjacency of a build's FEEDS edges into a folder that it makes; the description comes last."""
    folder.mkdir(parents=True)
    n_edges = build.rows("edges/FEEDS/")
    counts = np.zeros(sum(build.features_per_layer) + 1, np.int64)
    seen = bool(getattr(build, "says", ""))
    columns = {name: name for name in ("source", *_COLUMNS)} | (EVIDENCE if seen else {})
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", _TYPES.get(name, np.float32), (n_edges,))
        for name in columns
    }
    at = 0
    for table in build.edges("FEEDS"):
        for name, file in files.items():
            file[at : at + len(table)] = table[columns[name]].to_numpy()
        counts[1:] += np.bincount(table["target"].to_numpy(), minlength=len(counts) - 1)
        at += len(table)
    for file in files.values():
        file.flush()
    np.save(folder / "offsets.npy", np.cumsum(counts))
    if "FEEDS_VIA" in getattr(build, "kinds", ()):
        _write_via(build, folder / "via", len(counts) - 1)
    described = {"run": build.run, "layers": build.layers, "features_per_layer": build.features_per_layer}
    described["observed"] = seen
    (folder / "adjacency.json").write_text(json.dumps(described))


def _write_via(build: Build, folder: Path, n_features: int) -> None:
    """FEEDS and FEEDS_VIA in one order, by target, source and head; sorted in memory, some 40 B an edge."""
    folder.mkdir()
    parts: list[tuple[np.ndarray, ...]] = []
    for kind in ("FEEDS", "FEEDS_VIA"):
        for table in build.edges(kind):
            columns = [table[name].to_numpy() for name in ("target", "source", *_COLUMNS)]
            head = np.full(len(table), -1, np.int32)
            if kind == "FEEDS_VIA" and len(table):
                head[:] = (table["layer"].to_numpy() << 16) | table["head"].to_numpy()
            parts.append((*columns, head))
    target, source, *numbers = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    # files of heads come by layer and number, so a stable order leaves heads ascending
    order = np.argsort(target.astype(np.int64) << 32 | source, kind="stable")
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(np.bincount(target, minlength=n_features))]))
    for name, column in zip(("source", *_COLUMNS, "head"), (source, *numbers), strict=True):
        np.save(folder / f"{name}.npy", column[order])


def read(folder: Path, run: str, *, heads: bool = False) -> Adjacency:
    """Map an adjacency into memory; with ``heads``, one whose edges also pass through attention heads.

    Raises :class:`atlas.errors.BadBuild` where it is absent or of another run, and
    :class:`atlas.errors.BadSetting` where nothing is kept through heads.
    """
    if heads and not (folder / "via").is_dir() and (folder / "adjacency.json").exists():
        raise BadSetting(
            "nothing is kept through attention heads here; `atlas ingest --heads` computes it (a server's atlas needs "
            "its build on this machine)"
        )
    place = folder / "via" if heads else folder
    try:
        described = json.loads((folder / "adjacency.json").read_text())
        seen = described.pop("observed", False)
        found = EVIDENCE if seen and not heads else ()
        names = ("offsets", "source", *_COLUMNS, *found, *(["head"] if heads else []))
        arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError) as error:
        raise BadBuild(f"{folder} holds no adjacency ({error}); `atlas doctor --mend` writes it again") from error
    if described["run"] != run:
        raise BadBuild(
            f"{folder} belongs to run {described['run']}, the atlas holds run {run}; `atlas doctor --mend` mends it"
        )
    return Adjacency(**described, evidence={name: arrays.pop(name) for name in found}, **arrays)
