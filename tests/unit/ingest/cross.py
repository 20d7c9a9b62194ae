"""A small random cross-layer set in memory, and as the files that publish one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from atlas.model import Activation, ReadSite, WriteSite
from ingest.transcoder import SetInfo, Transcoder
from tests.unit.ingest import models


class CrossLayer:
    """A source of features that write at their own and all later layers; ``read`` lists the decoders asked for."""

    def __init__(self, read: ReadSite, write: WriteSite, **options: Any) -> None:
        plain = models.transcoders(read, write, **options)
        self._plain, self._dtype = plain, options.get("dtype", torch.float32)
        self.info: SetInfo = replace(plain.info, kind="cross-layer", targets=tuple(plain.info.layers))
        self.read: list[tuple[int, int]] = []

    def load(self, layer: int) -> Transcoder:
        return self._plain.load(layer)

    def decoder(self, layer: int, into: int) -> Tensor:
        self.read.append((layer, into))
        return decoder(self._plain.load(layer), into)


def decoder(transcoder: Transcoder, into: int) -> Tensor:
    """What a layer's features write at a layer: random, and at their own what the transcoder says."""
    if into == transcoder.layer:
        return transcoder.w_dec
    seed = 1000 + 100 * transcoder.layer + into
    return models.random(*transcoder.w_dec.shape, seed=seed, dtype=transcoder.w_dec.dtype)


def decoders(transcoder: Transcoder, first: int = 0) -> Tensor:
    """All of them [n_features, n_layers - first, d_model]; zero before the feature's own layer, which nothing reads."""
    layers = range(first, models.N_LAYERS)
    of = [decoder(transcoder, t) if t >= transcoder.layer else torch.full_like(transcoder.w_dec, 9.0) for t in layers]
    return torch.stack(of, dim=1).contiguous()


def write_cross_layer(folder: Path, activation: Activation = Activation.RELU, **config: Any) -> list[Transcoder]:
    """circuit-tracer's cross-layer layout, as its own ``to_safetensors`` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [models.transcoder(layer, activation=activation) for layer in range(models.N_LAYERS)]
    for i, transcoder in enumerate(written):
        encoder = {f"W_enc_{i}": transcoder.w_enc, f"b_enc_{i}": transcoder.b_enc, f"b_dec_{i}": transcoder.b_dec}
        if transcoder.threshold is not None:
            encoder[f"threshold_{i}"] = transcoder.threshold
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": decoders(transcoder, first=i)}, folder / f"W_dec_{i}.safetensors")
    stated = {
        "model_name": "tiny",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "mlp.hook_out",
        "scan": "tiny",
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({key: value for key, value in stated.items() if value}))
    return written


def write_gemma_scope_2(folder: Path, affine: bool = True) -> list[Transcoder]:
    """Gemma Scope 2's cross-layer layout: one file a layer, small letters, decoders into all layers."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        models.transcoder(layer, activation=Activation.JUMPRELU, skip=affine) for layer in range(models.N_LAYERS)
    ]
    for transcoder in written:
        tensors = {
            "w_enc": transcoder.w_enc.T,
            "w_dec": decoders(transcoder),
            "b_enc": transcoder.b_enc,
            "b_dec": transcoder.b_dec,
            "threshold": transcoder.threshold,
            "affine_skip_connection": None if transcoder.w_skip is None else transcoder.w_skip.T,
        }
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None},
            folder / f"params_layer_{transcoder.layer}.safetensors",
        )
    return written
