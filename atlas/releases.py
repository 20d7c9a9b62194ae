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
    d_model: int | None = None
    needs: str = ""
    """what must be given, or done, before it can be read"""

    @property
    def layer_bytes(self) -> int | None:
        """Memory for one layer's encoder and one decoder in float32; a set is read a layer at a time."""
        if self.features is None or self.d_model is None:
            return None
        return 4 * 2 * self.d_model * (self.features // self.layers)


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
_SEE = "see page"
"""a set's licence that its card does not state in a word"""
_GATED = "HF_TOKEN, terms accepted"
"""its terms must be accepted on the model's page, and the token of who did so be set"""


def _per_layer(layers: int, d_model: int, features: int, size: int) -> int:
    """Bytes of encoders, decoders and biases of one width."""
    return layers * size * (2 * d_model * features + features + d_model)


RELEASES = (
    BUNDLED,
    Release(
        name="gpt2-small",
        model="openai-community/gpt2",
        transcoders="pchlenski/gpt2-transcoders",
        name_as="gpt2-small/tc-24k",
        layers=12,
        features=12 * 24_576,
        bytes=_per_layer(12, 768, 24_576, 4),
        licence=f"MIT; {_SEE}",
        d_model=768,
        needs="--allow-pickle",
    ),
    Release(
        name="gemma-2-2b",
        model="google/gemma-2-2b",
        transcoders="saelens:gemma-scope-2b-pt-transcoders",
        name_as="gemma-2-2b/gemmascope-transcoder-16k",
        layers=26,
        features=26 * 16_384,
        bytes=_per_layer(26, 2304, 16_384, 4) + 26 * 4 * 16_384,
        licence="Gemma terms; CC-BY-4.0",
        d_model=2304,
        needs=_GATED,
    ),
    *(
        Release(
            name=f"gemma-2-2b-clt-{size}",
            model="google/gemma-2-2b",
            transcoders=f"mntss/clt-gemma-2-2b-{repo}",
            name_as=f"gemma-2-2b/{name}",
            layers=26,
            features=26 * features,
            bytes=None,
            licence=f"Gemma terms; {_SEE}",
            d_model=2304,
            needs=_GATED,
        )
        for size, repo, name, features in (("426k", "426k", "clt-16k", 16_384), ("2.5m", "2.5M", "clt-hp", 98_304))
    ),
    *(
        Release(
            name=f"gemma-3-{size}",
            model=f"google/gemma-3-{model}",
            transcoders=f"saelens:gemma-scope-2-{size}-pt-transcoders-all:layer_*_width_16k_l0_small_affine",
            name_as=f"gemma-3-{size}/gemmascope-2-transcoder-16k",
            layers=layers,
            features=layers * 16_384,
            bytes=None,
            licence=f"Gemma terms; {_SEE}",
            d_model=d_model,
            needs=_GATED,
        )
        for size, model, layers, d_model in (("270m", "270m", 18, 640), ("1b", "1b-pt", 26, 1152))
    ),
    Release(
        name="gemma-3-270m-clt",
        model="google/gemma-3-270m",
        transcoders="google/gemma-scope-2-270m-pt/clt/width_262k_l0_medium_affine",
        name_as="gemma-3-270m/gemmascope-2-clt-262k",
        layers=18,
        features=None,
        bytes=None,
        licence=f"Gemma terms; {_SEE}",
        d_model=640,
        needs=_GATED,
    ),
    Release(
        name="llama-3.2-1b",
        model="meta-llama/Llama-3.2-1B",
        transcoders="mntss/transcoder-Llama-3.2-1B",
        name_as="llama-3.2-1b/tc-128k",
        layers=16,
        features=16 * 131_072,
        bytes=16 * 2 * (2 * 2048 * 131_072),
        licence=f"Llama 3.2 licence; {_SEE}",
        d_model=2048,
        needs=_GATED,
    ),
    Release(
        name="llama-3.2-1b-skip",
        model="meta-llama/Llama-3.2-1B",
        transcoders="EleutherAI/skip-transcoder-Llama-3.2-1B-131k",
        name_as="llama-3.2-1b/skip-128k",
        layers=16,
        features=16 * 131_072,
        bytes=None,
        licence=f"Llama 3.2 licence; {_SEE}",
        d_model=2048,
        needs=_GATED,
    ),
    Release(
        name="llama-3.2-1b-clt",
        model="meta-llama/Llama-3.2-1B",
        transcoders="mntss/clt-llama-3.2-1b-524k",
        name_as="llama-3.2-1b/clt-32k",
        layers=16,
        features=16 * 32_768,
        bytes=None,
        licence=f"Llama 3.2 licence; {_SEE}",
        d_model=2048,
        needs=_GATED,
    ),
    Release(
        name="llama-3.1-8b-instruct",
        model="meta-llama/Llama-3.1-8B-Instruct",
        transcoders="facebook/crv-8b-instruct-transcoders",
        name_as="llama-3.1-8b-instruct/crv",
        layers=32,
        features=None,
        bytes=None,
        licence=f"Llama 3.1 licence; {_SEE}",
        d_model=4096,
        needs=_GATED,
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
            licence=f"Apache-2.0; {_SEE}",
            d_model=d_model,
        )
        for size, kind, layers, features, d_model in (
            ("0.6b", "-lowl0", 28, None, 1024),
            ("1.7b", "-lowl0", 28, None, 2048),
            ("4b", "", 36, 36 * 163_840, 2560),
            ("8b", "", 36, None, 4096),
            ("14b", "", 40, None, 5120),
        )
    ),
    Release(
        name="qwen3-1.7b-llamascope",
        model="Qwen/Qwen3-1.7B",
        transcoders="OpenMOSS-Team/Llama-Scope-2-Qwen3-1.7B/transcoder/8x/k64",
        name_as="qwen3-1.7b/llamascope-2-8x-k64",
        layers=28,
        features=28 * 8 * 2048,
        bytes=None,
        licence=f"Apache-2.0; {_SEE}",
        d_model=2048,
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
    """One row a pair: ``name, model, transcoders, layers, features, bytes, memory, licence, revision, needs``.

    ``memory`` is one layer's, in bytes; unknown sizes are missing.
    """
    import pandas as pd

    rows = [
        (
            release.name,
            _shown(release.model),
            _shown(release.transcoders),
            release.layers,
            *(_measured() if release is BUNDLED else (release.features, release.bytes)),
            release.layer_bytes,
            release.licence,
            release.revision,
            release.needs,
        )
        for release in RELEASES
    ]
    numbers = ["layers", "features", "bytes", "memory"]
    columns = ["name", "model", "transcoders", *numbers, "licence", "revision", "needs"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns, "str") | dict.fromkeys(numbers, "Int64"))


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The table for a person: sizes in words, the number of layers left out."""
    found = frame.drop(columns=["layers"])
    for name in ("bytes", "memory"):
        known = frame[name].notna()
        found[name] = [f"{size / 1e9:.2g} GB" if here else "" for size, here in zip(frame[name], known, strict=True)]
    return found.rename(columns={"bytes": "disk"})


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
