"""Pairs of a model and its transcoders that are known by name. Data, and two ways to look at it; nothing is read.

A size that nobody stated and that does not follow from stated shapes is left out. Hub repositories are named without a
commit: ``atlas ingest`` pins the one it reads and writes it into the run.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas import demo
from atlas.errors import BadSource

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Release:
    """One pair, as ``atlas ingest NAME`` reads it."""

    name: str
    model: str
    """folder, or hub repository"""
    transcoders: str
    """folder, hub repository, or ``saelens:RELEASE``"""
    name_as: str
    """what the atlas calls them: ``MODEL/SET``, Neuronpedia's names where it has them"""
    layers: int
    features: int | None
    """over all layers; of the bundled pair its own files tell"""
    bytes: int | None
    """of the transcoders' files"""
    licence: str
    revision: str = "main"


BUNDLED = Release(
    name="bunny",
    model=str(demo.MODEL),
    transcoders=str(demo.TRANSCODERS),
    name_as="bunny/tc-1k",
    layers=4,
    features=None,
    bytes=None,
    licence="as the atlas",
    revision="bundled",
)
RELEASES = (
    BUNDLED,
    Release(
        name="gemma-2-2b",
        model="google/gemma-2-2b",
        transcoders="saelens:gemma-scope-2b-pt-transcoders",
        name_as="gemma-2-2b/gemmascope-transcoder-16k",
        layers=26,
        features=26 * 16_384,
        bytes=26 * 4 * (2 * 2304 * 16_384 + 2 * 16_384 + 2304),
        licence="Gemma terms; transcoders CC-BY-4.0",
    ),
    Release(
        name="llama-3.2-1b",
        model="meta-llama/Llama-3.2-1B",
        transcoders="mntss/transcoder-Llama-3.2-1B",
        name_as="llama-3.2-1b/tc-128k",
        layers=16,
        features=16 * 131_072,
        bytes=16 * 2 * (2 * 2048 * 131_072),
        licence="Llama 3.2 licence; transcoders: see their page",
    ),
    *(
        Release(
            name=f"qwen3-{size}",
            model=f"Qwen/Qwen3-{size.upper()}",
            transcoders=f"mwhanna/qwen3-{size}-transcoders{kind}",
            name_as=f"qwen3-{size}/transcoder-hp{kind}",
            layers=layers,
            features=features,
            bytes=None,
            licence="Apache-2.0; transcoders: see their page",
        )
        for size, kind, layers, features in (
            ("0.6b", "-lowl0", 28, None),
            ("1.7b", "-lowl0", 28, None),
            ("4b", "", 36, 36 * 163_840),
            ("8b", "", 36, None),
        )
    ),
)


def find(name: str) -> Release:
    """A pair by its name; raises :class:`atlas.errors.BadSource` with the names nearest to it."""
    known = {release.name: release for release in RELEASES}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise BadSource(
            f"no pair of model and transcoders is known as {name!r} (near: {', '.join(near)}); `atlas sources` lists "
            "all, and --model with --transcoders takes any"
        )
    return known[name]


def table() -> pd.DataFrame:
    """One row a pair: ``name, model, transcoders, features, bytes, licence, revision``; unknown sizes are missing."""
    import pandas as pd

    rows = [
        (
            release.name,
            _shown(release.model),
            _shown(release.transcoders),
            *(_measured() if release is BUNDLED else (release.features, release.bytes)),
            release.licence,
            release.revision,
        )
        for release in RELEASES
    ]
    columns = ["name", "model", "transcoders", "features", "bytes", "licence", "revision"]
    types = dict.fromkeys(columns, "str") | {"features": "Int64", "bytes": "Int64"}
    return pd.DataFrame(rows, columns=columns).astype(types)


def _shown(place: str) -> str:
    return place.replace(str(demo.HERE), "atlas/demo")


def _measured() -> tuple[int, int]:
    """Features and bytes of the bundled transcoders: a safetensors file begins with the length of its JSON header."""
    features = size = 0
    for path in demo.TRANSCODERS.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        features += header["b_enc"]["shape"][0]
        size += path.stat().st_size
    return features, size
