"""Linear directions as virtual features: a probe, a steering vector, a difference of means.

Any vector of length d_model, registered at a layer and a site, reads what it has a positive dot product with and writes
itself. It stands behind the features of its layer in a set of its own (``MODEL/SET-directions``: all of SET, and the
directions), so it gets every kind of edge with exact cuts, and every question understands it. The set SET stays as it
is. Its read vector follows from the site as a transcoder's does (:mod:`ingest.folding`); what it writes enters the
stream behind the layer's MLP.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas.errors import BadSetting, BadTranscoder
from atlas.model import ReadSite
from ingest.families import Norm
from ingest.folding import Vectors
from ingest.weights import ModelWeights

SITES = (ReadSite.RESID_MID, ReadSite.RESID_MID_CENTRED, ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN)
SUFFIX = "-directions"


@dataclass(frozen=True)
class Direction:
    """One vector of length d_model at one place of a model."""

    name: str
    vector: Tensor
    layer: int
    site: ReadSite = ReadSite.RESID_MID

    @property
    def said(self) -> dict[str, Any]:
        """What it is, for a run's settings."""
        content = np.ascontiguousarray(self.vector.numpy(), np.float32).tobytes()
        return {
            "name": self.name,
            "layer": self.layer,
            "site": str(self.site),
            "sha256": hashlib.sha256(content).hexdigest(),
        }


def read(vectors: Any, layer: int, site: str = "resid_mid", name: str | None = None) -> list[Direction]:
    """Directions from a ``.npy`` or ``.safetensors`` file, an array, or a mapping of names to arrays.

    Each array is [d_model], or [n, d_model] for several. ``name``: where the vectors bring none; else the file's.
    Raises :class:`atlas.errors.BadSetting`.
    """
    if site not in SITES:
        raise BadSetting(f"{site!r} is no site of a direction; take {', '.join(SITES)}")
    where, named = _named(vectors, name)
    found = []
    for key, array in named.items():
        tensor = torch.as_tensor(np.array(array) if not isinstance(array, Tensor) else array).detach()
        if tensor.dim() not in (1, 2) or not tensor.is_floating_point() or not tensor.numel():
            raise BadSetting(f"{where}: {key} has shape {tuple(tensor.shape)} and type {tensor.dtype}; a direction is "
                             "one vector of floating-point numbers, or rows of them")  # fmt: skip
        rows = tensor.to("cpu", torch.float32).reshape(-1, tensor.shape[-1])
        for at, row in enumerate(rows):
            if not torch.isfinite(row).all() or not row.any():
                raise BadSetting(f"{where}: {key} row {at} is zero or not finite; there is nothing to read along it")
            found.append(Direction(key if len(rows) == 1 else f"{key} {at}", row.clone(), layer, ReadSite(site)))
    return found


def _named(vectors: Any, name: str | None) -> tuple[str, Mapping[str, Any]]:
    if isinstance(vectors, Mapping):
        return "the mapping", vectors
    if not isinstance(vectors, str | Path):
        return "the array", {name or "direction": vectors}
    path = Path(vectors).expanduser()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return path.name, load_file(path)
        return path.name, {name or path.stem: np.load(path, allow_pickle=False)}
    except Exception as error:  # libraries raise whatever their readers raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadSetting(f"{path} cannot be read as .npy or .safetensors ({reason})") from error


@dataclass
class WithDirections(Vectors):
    """:class:`ingest.folding.Vectors` with directions behind the features of their layers."""

    directions: Sequence[Direction] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.directions:
            if one.layer not in self.source.info.layers:
                raise BadSetting(
                    f"direction {one.name!r} is at layer {one.layer}, where {self.source.info.name} has no features; "
                    f"take one of {', '.join(map(str, self.source.info.layers))}"
                )
            if len(one.vector) != self.d_model:
                raise BadSetting(f"direction {one.name!r} has length {len(one.vector)}, {self.model.name} has d_model "
                                 f"{self.d_model}")  # fmt: skip
            _read(self.model, one)  # refuses a site that the model does not have

    def at(self, layer: int) -> list[Direction]:
        return [one for one in self.directions if one.layer == layer]

    @property
    def n_features(self) -> list[int]:
        return [n + len(self.at(layer)) for layer, n in zip(self.layers, super().n_features, strict=True)]

    def reads(self, layer: int) -> Tensor:
        return _behind(super().reads(layer), [self._here(_read(self.model, one)[0]) for one in self.at(layer)])

    def writes(self, layer: int, before: int | None = None) -> Tensor:
        own = [self.carried(self._here(one.vector)[None], layer + 1, before) for one in self.at(layer)]
        return _behind(super().writes(layer, before), own)

    def bias(self, layer: int) -> Tensor:
        return _behind(super().bias(layer), [self._here(_read(self.model, one)[1]) for one in self.at(layer)])

    def threshold(self, layer: int) -> Tensor:
        return _behind(super().threshold(layer), [self._here(torch.zeros(1)) for _ in self.at(layer)])


def _behind(features: Tensor, directions: list[Tensor]) -> Tensor:
    """Nothing is copied where there are no directions: a layer is asked for once for every layer behind it."""
    return torch.cat([features, *directions]) if directions else features


def _read(model: ModelWeights, one: Direction) -> tuple[Tensor, Tensor]:
    """What a direction reads from the stream [1, d_model], and its bias [1], as a transcoder's encoder would."""
    vector, norm = one.vector, model.layers[one.layer]
    bias = torch.zeros(1)
    if one.site in (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN) and not model.has_mlp_norm:
        raise BadTranscoder(f"{model.name} has no norm before its MLPs; a direction there is at {ReadSite.RESID_MID}")
    if one.site is ReadSite.RESID_MID_CENTRED and model.norm is not Norm.LAYER:
        raise BadTranscoder(f"{model.name} has RMSNorm: nothing is centred; a direction there is at "
                            f"{ReadSite.RESID_MID}")  # fmt: skip
    if one.site is ReadSite.NORM_POST_GAIN:
        assert norm.mlp_gain is not None
        if norm.mlp_bias is not None:
            bias = (vector @ norm.mlp_bias)[None]
        vector = vector * norm.mlp_gain
    normalised = one.site in (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN) and model.norm is Norm.LAYER
    if normalised or one.site is ReadSite.RESID_MID_CENTRED:
        vector = vector - vector.mean()
    return vector[None], bias


class Registered:
    """The directions of one set that this machine knows, beside its builds."""

    def __init__(self, home: Path, set_key: str) -> None:
        self.folder = home / "directions" / set_key.replace("/", "@")

    def all(self) -> list[Direction]:
        """In the order in which they were registered."""
        if not (self.folder / "directions.json").exists():
            return []
        stated = json.loads((self.folder / "directions.json").read_text())
        return [
            Direction(
                one["name"],
                torch.from_numpy(np.load(self.folder / f"{one['sha256']}.npy")),
                one["layer"],
                ReadSite(one["site"]),
            )
            for one in stated
        ]

    def add(self, new: Sequence[Direction]) -> list[Direction]:
        """Register some; one of a name that is there takes its place. Returns all."""
        known = {one.name: one for one in self.all()} | {one.name: one for one in new}
        self.folder.mkdir(parents=True, exist_ok=True)
        for one in known.values():
            with self._beside(f"{one.said['sha256']}.npy") as part, part.open("wb") as file:
                np.save(file, one.vector.numpy())
        with self._beside("directions.json") as part:
            part.write_text(json.dumps([one.said for one in known.values()], indent=1))
        return list(known.values())

    @contextmanager
    def _beside(self, name: str) -> Iterator[Path]:
        """A file of this process's own that takes its place once it is whole: several ranks may register the same."""
        part = self.folder / f".{name}@{socket.gethostname()}@{os.getpid()}"
        yield part
        part.replace(self.folder / name)
