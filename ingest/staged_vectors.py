"""Writing the vectors of features into a build: :mod:`atlas.vectors` is the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from atlas.staging import Build, open_build
from atlas.vectors import NAMES, file_name, staged
from ingest.plan import Sizes
from ingest.writer import Writer

if TYPE_CHECKING:
    from ingest.folding import Vectors
    from ingest.job import Job

MOST = 10**9
"""bytes of both files up to which they are written where nothing else is asked"""
_ROWS = 8192


def size(asked: bool | None, sizes: Sizes) -> int:
    """Bytes of both files, 0 where they are left out: ``asked`` says, or their size does."""
    both = len(NAMES) * 2 * sum(sizes.n_features) * sizes.d_model
    return both if asked or (asked is None and both <= MOST) else 0


def write(vectors: Vectors, sizes: Sizes, writer: Writer) -> None:
    """Both files, a layer at a time; lengths and quotients in float64."""
    shape = sum(sizes.n_features), sizes.d_model
    with writer.array(file_name("encoder"), shape) as encoder, writer.array(file_name("decoder"), shape) as decoder:
        for layer in sizes.layers:
            for file, rows in ((encoder, vectors.reads(layer)), (decoder, vectors.writes(layer))):
                for some in rows.split(_ROWS):
                    exact = some.to("cpu", torch.float64)
                    length = exact.norm(dim=1, keepdim=True)
                    file.write((exact / length.where(length > 0, 1)).numpy().astype("<f2").tobytes())


def added(job: Job, build: Build) -> Build:
    """A finished build, with its vectors where they are asked for and it was made without."""
    if not job.staged_vectors or staged(build):
        return build
    writer = Writer(build.path)
    about = dict(build.manifest)
    writer.files = dict(about.pop("files"))
    write(job.vectors, Sizes.of(job.vectors), writer)
    writer.finish(about)
    return open_build(build.path)
