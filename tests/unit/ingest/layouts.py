"""Every published layout, written as its documentation says, beside the formula that its own library runs.

Nothing of :mod:`ingest.sources` is used here, so that what is written and what is read share no code.
"""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from atlas.model import Activation
from tests.unit.ingest import models

D, LAYERS = models.D_MODEL, range(models.N_LAYERS)
K = 5


@dataclass(frozen=True)
class Layer:
    """What the layout's own formula makes of an input."""

    encode: Callable[[Tensor], Tensor]
    output: Callable[[Tensor], Tensor]


def top(p: Tensor, k: int = K) -> Tensor:
    """relu(topk(p)), by a comparison with the k-th largest."""
    return torch.where(p >= p.sort(dim=-1, descending=True).values[..., k - 1 : k], p, 0.0).clamp(min=0)


def gemma_scope(folder: Path, n: int = 0) -> dict[int, Layer]:
    """npz, features in the columns of W_enc, thresholds; ``average_l0`` is in the path."""
    found = {}
    for layer in LAYERS:
        made = models.transcoder(layer, activation=Activation.JUMPRELU)
        place = folder / f"layer_{layer}" / "width_16k" / f"average_l0_{n or 70 + layer}"
        place.mkdir(parents=True)
        np.savez(
            place / "params.npz",
            W_enc=made.w_enc.T.numpy(),
            W_dec=made.w_dec.numpy(),
            b_enc=made.b_enc.numpy(),
            b_dec=made.b_dec.numpy(),
            threshold=made.threshold.numpy(),
        )
        found[layer] = _jump(made.w_enc, made.b_enc, made.w_dec, made.b_dec, made.threshold)
    return found


def gemma_scope_2(folder: Path, affine: bool = True, config: bool = True, kind: str = "transcoder") -> dict[int, Layer]:
    """Small letters, perhaps an affine skip [d_in, d_out], perhaps a config with the library's module names."""
    found = {}
    for layer in LAYERS:
        made = models.transcoder(layer, activation=Activation.JUMPRELU, skip=affine)
        place = folder / f"layer_{layer}_width_16k_l0_small{'_affine' if affine else ''}"
        place.mkdir(parents=True)
        tensors = {
            "w_enc": made.w_enc.T.contiguous(),
            "w_dec": made.w_dec,
            "b_enc": made.b_enc,
            "b_dec": made.b_dec,
            "threshold": made.threshold,
        }
        skip = made.w_skip.T.contiguous() if made.w_skip is not None else None
        if skip is not None:
            tensors["affine_skip_connection"] = skip
        save_file(tensors, place / "params.safetensors")
        if config:
            stated = {
                "architecture": "jump_relu",
                "model_name": "gemma-v3-270m",
                "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
                "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output",
                "affine_connection": affine,
            }
            (place / "config.json").write_text(json.dumps(stated))
        found[layer] = _jump(made.w_enc, made.b_enc, made.w_dec, made.b_dec, made.threshold, skip)
    return found


def _jump(
    w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, b_dec: Tensor, threshold: Tensor, skip: Tensor | None = None
) -> Layer:
    def encode(x: Tensor) -> Tensor:
        p = x @ w_enc.T + b_enc
        return p * (p > threshold)

    return Layer(encode, lambda x: encode(x) @ w_dec + b_dec + (0 if skip is None else x @ skip))


class LanguageModelSAERunnerConfig:
    """Stands for the class that wrote the published pickles."""

    def __init__(self, layer: int) -> None:
        self.hook_point = f"blocks.{layer}.ln2.hook_normalized"
        self.out_hook_point = f"blocks.{layer}.hook_mlp_out"
        self.hook_point_layer, self.is_transcoder, self.dtype = layer, True, torch.float32


NAMES = ("W_enc", "b_enc", "W_dec", "b_dec", "b_dec_out")


def pchlenski(folder: Path) -> dict[int, Layer]:
    """Pickles of torch, with an object of ``sae_training.config.LanguageModelSAERunnerConfig`` inside."""
    found = {}
    folder.mkdir(parents=True, exist_ok=True)
    for layer in LAYERS:
        made, shift = models.transcoder(layer), models.random(D, seed=900 + layer)
        state = {
            "W_enc": made.w_enc.T.contiguous(),
            "b_enc": made.b_enc,
            "W_dec": made.w_dec,
            "b_dec": shift,
            "b_dec_out": made.b_dec,
        }
        name = f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.ln2.hook_normalized_{made.n_features}.pt"
        save_pickle(folder / name, {"cfg": LanguageModelSAERunnerConfig(layer), "state_dict": state})

        def encode(x: Tensor, made: Any = made, shift: Tensor = shift) -> Tensor:
            return ((x - shift) @ made.w_enc.T + made.b_enc).clamp(min=0)

        found[layer] = Layer(encode, lambda x, made=made, encode=encode: encode(x) @ made.w_dec + made.b_dec)
    return found


def save_pickle(path: Path, content: Any) -> None:
    """As the library's authors' machine had it: the config class under its published name, and gone afterwards."""
    package, module = types.ModuleType("sae_training"), types.ModuleType("sae_training.config")
    before = LanguageModelSAERunnerConfig.__module__
    LanguageModelSAERunnerConfig.__module__ = "sae_training.config"
    module.LanguageModelSAERunnerConfig = LanguageModelSAERunnerConfig  # type: ignore[attr-defined]
    sys.modules |= {"sae_training": package, "sae_training.config": module}
    try:
        held = io.BytesIO()
        torch.save(content, held)
        path.write_bytes(held.getvalue())
    finally:
        LanguageModelSAERunnerConfig.__module__ = before
        del sys.modules["sae_training"], sys.modules["sae_training.config"]


def sparsify(folder: Path, transcode: bool = True, skip: bool = True, point: str = "layers.{}.mlp") -> dict[int, Layer]:
    """A folder a hookpoint; autoencoders subtract b_dec from their input, transcoders do not."""
    found = {}
    for layer in LAYERS:
        made = models.transcoder(layer, skip=skip)
        place = folder / point.format(layer)
        place.mkdir(parents=True)
        tensors = {
            "encoder.weight": made.w_enc,
            "encoder.bias": made.b_enc,
            "W_dec": made.w_dec,
            "b_dec": made.b_dec,
        }
        if made.w_skip is not None:
            tensors["W_skip"] = made.w_skip
        save_file(tensors, place / "sae.safetensors")
        stated = {
            "activation": "topk",
            "expansion_factor": 32,
            "num_latents": made.n_features,
            "k": K,
            "multi_topk": False,
            "skip_connection": skip,
            "transcode": transcode,
            "d_in": D,
        }
        (place / "cfg.json").write_text(json.dumps(stated))

        def encode(x: Tensor, made: Any = made) -> Tensor:
            return top((x if transcode else x - made.b_dec) @ made.w_enc.T + made.b_enc)

        def output(x: Tensor, made: Any = made, encode: Any = encode) -> Tensor:
            return encode(x) @ made.w_dec + made.b_dec + (x @ made.w_skip.T if skip else 0)

        found[layer] = Layer(encode, output)
    return found


NORMS = {"blocks.{}.ln2.hook_normalized": 31.0, "blocks.{}.hook_mlp_out": 7.0}


def llama_scope_2(
    folder: Path, act_fn: str = "topk", by_length: bool = True, scaling: str = "dataset-wise"
) -> dict[int, Layer]:
    """Scales of the dataset beside the weights; features compete by their decoder's length. The formula is that of
    ``normalize_activations``, ``encode``, ``decode`` and ``denormalize_activations``, one after the other."""
    found = {}
    read, write = NORMS
    for layer in LAYERS:
        made = models.transcoder(layer)
        log = models.random(made.n_features, seed=70 + layer)
        place = folder / f"layer{layer}_transcoder_8x_k{K}"
        place.mkdir(parents=True)
        tensors = {"W_E": made.w_enc.T.contiguous(), "b_E": made.b_enc, "W_D": made.w_dec, "b_D": made.b_dec}
        if act_fn == "jumprelu":
            tensors["activation_function.log_jumprelu_threshold"] = log
        for hook, norm in NORMS.items():
            tensors[f"dataset_average_activation_norm.{hook.format(layer)}"] = torch.tensor(norm)
        save_file(tensors, place / "sae_weights.safetensors")
        stated = {
            "sae_type": "sae",
            "d_model": D,
            "act_fn": act_fn,
            "top_k": K,
            "norm_activation": scaling,
            "sparsity_include_decoder_norm": by_length,
            "hook_point_in": read.format(layer),
            "hook_point_out": write.format(layer),
            "use_glu_encoder": False,
        }
        (place / "config.json").write_text(json.dumps(stated))
        s_in, s_out = (D**0.5 / norm if scaling == "dataset-wise" else 1.0 for norm in NORMS.values())
        length = made.w_dec.norm(dim=1) if by_length else torch.ones(made.n_features)

        def library(
            x: Tensor, made: Any = made, log: Tensor = log, s_in: float = s_in, length: Tensor = length
        ) -> Tensor:
            p = (x * s_in @ made.w_enc.T + made.b_enc) * length
            active = top(p) if act_fn == "topk" else p * (p > log.exp()) if act_fn == "jumprelu" else p.clamp(min=0)
            return active / length

        def output(x: Tensor, made: Any = made, library: Any = library, s_out: float = s_out) -> Tensor:
            return (library(x) @ made.w_dec + made.b_dec) / s_out

        def encode(x: Tensor, library: Any = library, a: float = s_in, b: float = s_out, n: Tensor = length) -> Tensor:
            """The library's after it folded its scales, times the length of the decoder's rows where they compete."""
            return library(x) / a * (n * a / b if by_length else 1)

        found[layer] = Layer(encode, output)
    return found
