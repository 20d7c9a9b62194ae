"""Transcoders that are in memory already: just trained, or made by another library."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from atlas.errors import BadTranscoder
from ingest.sources.tensors import checked, keep, set_name, skips
from ingest.transcoder import SetInfo, Transcoder
from ingest.weights import digest

_TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "w_skip")


class InMemory:
    """A source over layers that are held already: ``{layer: Transcoder}``."""

    def __init__(self, layers: dict[int, Transcoder], *, name: str | None = None, **stated: Any) -> None:
        if not layers:
            raise BadTranscoder("there are no transcoders; give a dict of one or more, by layer")
        self._layers = {layer: checked(layers[layer]) for layer in sorted(layers)}
        first = next(iter(self._layers.values()))
        for layer, transcoder in self._layers.items():
            for trait in ("read", "write", "activation", "d_out"):
                here, there = getattr(transcoder, trait), getattr(first, trait)
                if here != there:
                    raise BadTranscoder(
                        f"layer {layer} has {trait} {here}, layer {first.layer} has {there}; a set is of one kind"
                    )

        self.info = self._info(name, stated)

    def _info(self, name: str | None, stated: dict[str, Any]) -> SetInfo:
        first = next(iter(self._layers.values()))
        files = {f"layer_{layer}": _hash(transcoder) for layer, transcoder in self._layers.items()}
        n_features = {layer: transcoder.n_features for layer, transcoder in self._layers.items()}
        has_skip = skips(
            {layer: () if of.w_skip is None else {"w_skip"} for layer, of in self._layers.items()}, "the set"
        )
        return SetInfo(
            name=name or set_name(n_features),
            kind="sae" if first.is_autoencoder else "skip" if has_skip else "transcoder",
            has_skip=has_skip,
            repo=name or "memory",
            revision=digest(files),
            files=files,
            layers=list(self._layers),
            n_features=n_features,
            d_model=first.d_out,
            read=first.read,
            write=first.write,
            activation=first.activation,
            **stated,
        )

    def load(self, layer: int) -> Transcoder:
        return keep(self._layers, [layer], "the set")[layer]


def _hash(transcoder: Transcoder) -> str:
    seen = hashlib.sha256(f"{transcoder.activation} {transcoder.k}".encode())
    for name in _TENSORS:
        tensor = getattr(transcoder, name)
        if tensor is not None:
            seen.update(f"{name}{tuple(tensor.shape)}".encode())
            seen.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return seen.hexdigest()
