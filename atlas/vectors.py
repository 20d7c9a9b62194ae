"""The vectors with which features read and write, of length 1: in a staged build, and beside an atlas.

Specification, an optional part of :mod:`atlas.staging`'s format 1. A build has both files or neither, and the same run
with and without them: they are no part of its settings. ::

    vectors/encoder.npy   float16 [n_features, d_model]   what each feature reads from the stream
    vectors/decoder.npy   float16 [n_features, d_model]   what it has written into the stream by the model's end

* Files MUST be of numpy's format 1.0, little-endian and by rows, rows in the order of nodes/Feature. A row MUST have
  length 1 within float16's precision; a feature that reads, or writes, nothing has zeros. Lengths are the feature's
  ``norm_enc`` and ``norm_dec``.

An embedded atlas keeps links to these files, and ``vectors.json``, which names the run that they belong to.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import BadBuild

if TYPE_CHECKING:
    from atlas.staging import Build

NAMES = ("encoder", "decoder")
_DESCRIPTION = "vectors.json"


@dataclass(frozen=True)
class Vectors:
    """Both arrays of one set, memory-mapped. Features are numbered by (layer, idx)."""

    run: str
    layers: list[int]
    features_per_layer: list[int]
    encoder: np.ndarray
    decoder: np.ndarray

    def number(self, layer: int, idx: int) -> int:
        """The row of a feature."""
        return sum(self.features_per_layer[: self.layers.index(layer)]) + idx

    def place(self, number: int) -> tuple[int, int]:
        """Layer and idx of a row."""
        ends = np.cumsum(self.features_per_layer)
        at = int(np.searchsorted(ends, number, side="right"))
        return self.layers[at], number - int(ends[at]) + self.features_per_layer[at]


def file_name(name: str) -> str:
    return f"vectors/{name}.npy"


def staged(build: Build) -> bool:
    """Whether a build has its vectors."""
    return file_name(NAMES[0]) in build.manifest["files"]


def absent(set_key: str) -> BadBuild:
    """What to raise where a set came without vectors."""
    return BadBuild(
        f"{set_key} was built without its vectors; `atlas ingest --vectors` with the same arguments adds them and "
        "computes nothing else again"
    )


def of_build(build: Build) -> Vectors:
    """Map a build's vectors into memory. Raises BadBuild where it has none, or they break the specification."""
    if not staged(build):
        raise absent(build.set_key)
    return _mapped(build.path / "vectors", build.run, build.layers, build.features_per_layer)


def keep(build: Build, folder: Path, link: Callable[[str, str], str]) -> None:
    """Put a build's vectors into a folder that is made, by ``link``; the description comes last."""
    of_build(build)
    folder.mkdir(parents=True)
    for name in NAMES:
        link(str(build.path / file_name(name)), str(folder / f"{name}.npy"))
    described = {"run": build.run, "layers": build.layers, "features_per_layer": build.features_per_layer}
    (folder / _DESCRIPTION).write_text(json.dumps(described))


def read(folder: Path, run: str) -> Vectors:
    """Map what :func:`keep` left into memory. Raises BadBuild where it is damaged, or of another run."""
    mend = "`atlas doctor --mend` puts them there again"
    try:
        described = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        belongs, layers, sizes = (described[name] for name in ("run", "layers", "features_per_layer"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadBuild(f"{folder} holds no vectors ({error}); {mend}") from error
    if belongs != run:
        raise BadBuild(f"{folder} belongs to run {belongs}, the atlas holds run {run}; {mend}")
    return _mapped(folder, run, layers, sizes)


def _mapped(folder: Path, run: str, layers: list[int], sizes: list[int]) -> Vectors:
    arrays = []
    for name in NAMES:
        file = folder / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise BadBuild(f"{file} cannot be read ({error}); load its build again") from error
        if array.ndim != 2 or len(array) != sum(sizes) or array.dtype != "<f2" or not array.flags.c_contiguous:
            raise BadBuild(
                f"{file} has {array.dtype} {array.shape}, expected float16 by rows, one for each of {sum(sizes):,} "
                "features; ingest its build again"
            )
        arrays.append(array)
    if arrays[0].shape != arrays[1].shape:
        raise BadBuild(f"{folder}: encoder and decoder have widths {arrays[0].shape[1]} and {arrays[1].shape[1]}")
    return Vectors(run, layers, sizes, *arrays)
