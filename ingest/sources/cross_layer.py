"""Cross-layer sets: features read at one layer and write at it and all later ones.

circuit-tracer's layout is ``W_enc_{i}.safetensors`` with ``W_enc_i`` [n_features, d_model], ``b_enc_i``, ``b_dec_i``,
for jumprelu ``threshold_i``, and ``W_dec_{i}.safetensors`` with ``W_dec_i`` [n_features, n_layers - i, d_model]. Gemma
Scope 2 keeps all of a layer in one file, with decoders into all layers (:mod:`ingest.sources.gemma_scope_2`). Decoders
are many times the size of the encoders: each is read alone, as a slice of its file.

Their skips are stored [d_in, d_out] and applied as ``x @ W_skip``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.layered import Place, alike
from ingest.sources.tensors import CALLED, canonical, first_line, keep, read_shapes, record, set_name, skips
from ingest.transcoder import SetInfo, Transcoder
from ingest.weights import digest

_ENCODER = ("w_enc", "b_enc", "b_dec")


@dataclass(frozen=True)
class Files:
    """Where one layer's encoder and decoders are; one file may hold both."""

    encoder: Place
    decoder: Place

    @property
    def all(self) -> list[Place]:
        """Each file once."""
        return [self.encoder] if self.encoder.origin == self.decoder.origin else [self.encoder, self.decoder]


@dataclass(frozen=True)
class _Shape:
    n_features: int
    d_model: int
    threshold: bool
    skip: bool


class CrossLayerSet:
    """A cross-layer set, one encoder and one decoder at a time.

    ``files`` are those of all its layers, ``layers`` those whose features are wanted: they still write at all later
    ones. ``all_targets``: decoders are stored for all layers, not from the feature's own on. ``called`` names tensors
    of one layer (``W_enc_3``) beside the usual names.
    """

    def __init__(
        self,
        folder: Folder,
        files: Mapping[int, Files],
        layers: Iterable[int],
        *,
        read: ReadSite,
        write: WriteSite,
        all_targets: bool = False,
        configs: Iterable[str] = (),
        called: Mapping[str, str],
        **identity: Any,
    ) -> None:
        self._folder, self._files, self._read, self._write = folder, dict(files), read, write
        self._all_targets, self._called = all_targets, called
        missing = sorted(set(range(len(self._files))) - set(self._files))
        if missing:
            raise BadTranscoder(f"{folder.where}: layer {missing[0]} of the cross-layer set is missing; it needs all")
        shapes = {layer: self._shape(layer) for layer in sorted(self._files)}
        alike({layer: shape.threshold for layer, shape in shapes.items()}, "thresholds", folder.where)
        has_skip = skips({layer: {"w_skip"} if shape.skip else () for layer, shape in shapes.items()}, folder.where)
        width = alike({layer: shape.d_model for layer, shape in shapes.items()}, "a width of", folder.where)
        wanted = list(layers)
        n_features = {layer: shapes[layer].n_features for layer in wanted}
        hashes = {name: folder.sha256(name) for name in configs}
        for parts in self._files.values():
            for place in parts.all:
                hashes[place.origin] = place.folder.sha256(place.name)
        stated: dict[str, Any] = {
            "name": _name(n_features),
            "repo": folder.repo,
            "revision": folder.revision or digest(hashes),
        }
        self.info = SetInfo(
            kind="cross-layer",
            files=dict(sorted(hashes.items())),
            layers=wanted,
            n_features=n_features,
            d_model=width,
            read=read,
            write=write,
            activation=Activation.JUMPRELU if shapes[0].threshold else Activation.RELU,
            targets=tuple(shapes),
            has_skip=has_skip,
            **stated | {name: value for name, value in identity.items() if value is not None},
        )

    def load(self, layer: int) -> Transcoder:
        """Encoder, biases and skip of a layer, and what it writes at the layer itself."""
        keep(self.info.n_features, [layer], self._folder.where)
        parts = self._files[layer]
        named = self._tensors(parts.encoder, layer)
        named["w_dec"] = self.decoder(layer, layer)
        return record(named, layer, read=self._read, write=self._write, activation=self.info.activation)

    def decoder(self, layer: int, into: int) -> Tensor:
        """What the features of ``layer`` write at the layer ``into``."""
        if not layer <= into < len(self._files):
            raise BadTranscoder(f"{self._folder.where}: features of layer {layer} do not write at layer {into}")
        place = self._files[layer].decoder
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(place.folder.path(place.name), framework="pt") as file:
                name = next(name for name in file.keys() if self._known(name, layer) == "w_dec")  # noqa: SIM118
                found = file.get_slice(name)[:, into if self._all_targets else into - layer, :]
        except (SafetensorError, OSError, StopIteration) as error:
            raise BadTranscoder(
                f"layer {layer}: {place.name} is cut short or damaged ({first_line(error)}); fetch it again"
            ) from error
        if not found.is_floating_point():
            raise BadTranscoder(f"layer {layer}: w_dec is stored as {found.dtype}; weights must be floating point")
        found = found.float()
        if not torch.isfinite(found.sum()) and not torch.isfinite(found).all():
            raise BadTranscoder(
                f"layer {layer}: what it writes at layer {into} has NaN or Inf; a compare would drop it"
            )
        return found

    def _known(self, name: str, layer: int) -> str:
        bare = name.lower().removesuffix(f"_{layer}")
        return self._called.get(bare, CALLED.get(bare, name))

    def _tensors(self, place: Place, layer: int) -> dict[str, Tensor]:
        """All but the decoders."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(place.folder.path(place.name), framework="pt") as file:
                names = {name: self._known(name, layer) for name in file.keys()}  # noqa: SIM118
                found = {known: file.get_tensor(name) for name, known in names.items() if known != "w_dec"}
        except (SafetensorError, OSError) as error:
            raise BadTranscoder(
                f"layer {layer}: {place.name} is cut short or damaged ({first_line(error)}); fetch it again"
            ) from error
        if "w_skip" in found:  # a cross-layer set's skip is applied without being transposed
            found["affine_skip"] = found.pop("w_skip")
        return found

    def _shape(self, layer: int) -> _Shape:
        """What the headers of a layer's files say; raises where they contradict each other."""
        parts, n_layers = self._files[layer], len(self._files)
        found: dict[str, tuple[int, ...]] = {}
        for place in parts.all:
            shapes = read_shapes(place.folder, place.name, layer)
            named = {name: self._known(name, layer) for name in shapes}
            if len(set(named.values())) < len(named):
                raise BadTranscoder(f"layer {layer}: {place.name} has one tensor under two names ({', '.join(named)})")
            found |= canonical({named[name]: shape for name, shape in shapes.items()}, layer, needed=())
        missing = [name for name in (*_ENCODER, "w_dec") if name not in found]
        if missing:
            raise BadTranscoder(f"layer {layer}: its files have no {missing[0]} (found {', '.join(sorted(found))})")
        if len(found["b_enc"]) != 1 or len(found["b_dec"]) != 1:
            raise BadTranscoder(f"layer {layer}: b_enc and b_dec have shapes {found['b_enc']} and {found['b_dec']}")
        (n,), (d,) = found["b_enc"], found["b_dec"]
        expected = (n, n_layers if self._all_targets else n_layers - layer, d)
        if found["w_dec"] != expected:
            raise BadTranscoder(
                f"layer {layer}: w_dec has shape {found['w_dec']}, expected {expected}: {n} features, the layers they "
                f"write at, a width of {d}"
            )
        if sorted(found["w_enc"]) != sorted((n, d)) or n == d:
            raise BadTranscoder(
                f"layer {layer}: w_enc has shape {found['w_enc']}, but b_enc has {n} features, b_dec {d}"
            )
        return _Shape(n, d, "threshold" in found, bool({"w_skip", "affine_skip"} & set(found)))


def _name(n_features: Mapping[int, int]) -> str:
    return set_name(n_features).replace("tc-", "clt-")
