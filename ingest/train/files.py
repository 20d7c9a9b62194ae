"""Transcoders on disk, in the layout circuit-tracer reads: ``config.yaml`` and ``layer_{i}.safetensors``.

A layer holds ``W_enc`` and ``W_dec`` of shape ``(n_features, d_model)``, ``b_enc``, ``b_dec``, and for JumpReLU
``activation_function.threshold``. Everything is in half precision but the thresholds: a threshold that is rounded fires
elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from atlas.errors import BadTranscoder
from ingest.train.dictionary import Settings

THRESHOLD = "activation_function.threshold"


def layer_file(folder: Path, layer: int) -> Path:
    """Where the transcoder of ``layer`` lies."""
    return folder / f"layer_{layer}.safetensors"


def write_layer(folder: Path, layer: int, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one layer beside its place, then put it there.

    Raises :class:`BadTranscoder` rather than write NaN or Inf.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.float() if name == THRESHOLD else value.half() for name, value in tensors.items()}
    for name, value in stored.items():
        if not torch.isfinite(value).all():
            raise BadTranscoder(f"layer {layer}: training ended with NaN or Inf in {name}. Try a lower learning rate.")
    path = layer_file(folder, layer)
    beside = path.with_suffix(".new")
    save_file(stored, beside, metadata=metadata)
    os.chmod(beside, 0o644)
    os.replace(beside, path)


def write_config(folder: Path, model_name: str, scan: str, settings: Settings) -> None:
    """Write ``config.yaml``; the activation is named where the tensors do not tell it."""
    config = {
        "model_name": model_name,
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
        "scan": scan,
    }
    if settings.activation == "topk":
        config |= {"activation": "topk", "k": int(settings.l0)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
