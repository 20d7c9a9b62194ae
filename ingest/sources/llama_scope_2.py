"""OpenMOSS's layout of Llama Scope 2: ``layer{i}_transcoder_{w}_k{k}/config.json`` and ``sae_weights.safetensors``.

A file holds ``W_E`` [d_model, n_features], ``b_E``, ``W_D`` [n_features, d_model], ``b_D``, for jumprelu
``activation_function.log_jumprelu_threshold``, and one scalar a hook, ``dataset_average_activation_norm.{hook}``. With
``norm_activation: dataset-wise`` the features read ``x * s_in`` and write ``y / s_out``, where
``s = sqrt(d_model) / norm``; with ``sparsity_include_decoder_norm`` features compete by ``p * |W_D row|``. All of it is
folded, so that decoder rows have length one where features compete by it::

    n = |W_D row| * s_in / s_out (or 1)
    w_enc = W_E.T * n                       b_enc = b_E * n / s_in      threshold = exp(log) / s_out (or s_in)
    w_dec = W_D * s_in / (s_out * n)        b_dec = b_D / s_out

An activation is then the library's own, after its ``standardize_parameters_of_dataset_norm``, times ``n``.

Described from https://github.com/OpenMOSS/Language-Model-SAEs.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation
from ingest.folders import Folder
from ingest.sources.hooks import Stated, layer_of, sites, text
from ingest.sources.layered import LayeredSet, Place, Traits, alike, count, one_a_layer, read_json
from ingest.sources.tensors import keep

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

LAYOUT = "Llama Scope 2's config.json with sae_weights.safetensors"
_CONFIG, _WEIGHTS = "config.json", "sae_weights.safetensors"
_NORM = "dataset_average_activation_norm."
_CALLED = {
    "w_e": "w_enc",
    "b_e": "b_enc",
    "w_d": "w_dec",
    "b_d": "b_dec",
    "activation_function.log_jumprelu_threshold": "threshold",
}
_ACTIVATIONS = {"topk": Activation.TOPK, "jumprelu": Activation.JUMPRELU, "relu": Activation.RELU}


def recognises(folder: Folder) -> bool:
    names = set(folder.names())
    return any(
        PurePosixPath(name).name == _WEIGHTS and _beside(name) in names and not _saelens(name, names) for name in names
    )


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> LayeredSet:
    """The set in a folder that holds one layer, or a folder for each."""
    found: dict[int, list[str]] = {}
    configs = {}
    for name in folder.names():
        if PurePosixPath(name).name == _WEIGHTS:
            config = _config(folder, name)
            configs[name] = config
            found.setdefault(config["layer"], []).append(name)
    how = "give the folder of one kind of transcoders, such as REPO/transcoder/8x/k64"
    names = keep(one_a_layer(found, folder.where, how), layers, folder.where)
    of = {layer: configs[name] for layer, name in names.items()}
    stated = {layer: _stated(folder, config) for layer, config in of.items()}
    read, write = alike({layer: sites(one, model) for layer, one in stated.items()}, "sites", folder.where)
    activation = alike({layer: config["activation"] for layer, config in of.items()}, "activation", folder.where)
    k = alike({layer: config["k"] for layer, config in of.items()}, "k", folder.where)
    hooks = {key for config in of.values() for key in (config["hook_point_in"], config["hook_point_out"])}
    called = _CALLED | {f"{_NORM}{hook}".lower(): f"{_NORM}{hook}" for hook in hooks}

    def fold(named: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
        return _folded(named, of[layer], f"{folder.where}/{names[layer]}")

    return LayeredSet(
        folder,
        {layer: Place.of(folder, name) for layer, name in names.items()},
        Traits(read, write, activation, k, called, fold),
        [_beside(name) for name in names.values()],
        model_name=next(iter(stated.values())).model_name,
        l0=dict.fromkeys(names, float(k)) if k else {},
    )


def _folded(named: dict[str, Tensor], config: dict[str, Any], where: str) -> dict[str, Tensor]:
    """What the record means by a layer's tensors; scalars that say how the input was scaled are used up."""
    norms = {name.removeprefix(_NORM): value for name, value in named.items() if name.startswith(_NORM)}
    named = {name: value for name, value in named.items() if not name.startswith(_NORM)}
    if named["w_enc"].ndim != 2 or named["w_dec"].ndim != 2:
        raise BadTranscoder(
            f"{where}: W_E and W_D have {named['w_enc'].ndim} and {named['w_dec'].ndim} axes, expected two"
        )
    n, d = named["b_enc"].shape[0], named["w_enc"].numel() // max(named["b_enc"].numel(), 1)
    w_enc = named["w_enc"] if named["w_enc"].shape[0] == n else named["w_enc"].T
    w_dec = named["w_dec"] if named["w_dec"].shape[0] == n else named["w_dec"].T
    s_in, s_out = 1.0, 1.0
    if config["scaled"]:
        for hook in (config["hook_point_in"], config["hook_point_out"]):
            value = norms.get(hook)
            if value is None or value.numel() != 1 or not 0 < float(value) < math.inf:
                raise BadTranscoder(
                    f"{where}: its input is scaled by the dataset's norm, and {_NORM}{hook} is "
                    f"{'not there' if value is None else value.flatten()[:3].tolist()}, expected a number above zero"
                )
        s_in, s_out = (math.sqrt(d) / float(norms[config[hook]]) for hook in ("hook_point_in", "hook_point_out"))
    scaled = w_dec * (s_in / s_out)
    length = scaled.norm(dim=1) if config["by_length"] else torch.ones(n)
    folded = {
        "w_enc": w_enc * length[:, None],
        "b_enc": named["b_enc"] * length / s_in,
        # a row of length zero competes with zero: its feature never fires, and writes nothing
        "w_dec": scaled / torch.where(length > 0, length, torch.ones_like(length))[:, None],
        "b_dec": named["b_dec"] / s_out,
    }
    if "threshold" in named:
        own = 1 / s_out if config["by_length"] else 1 / s_in
        folded["threshold"] = named["threshold"].exp() * own
    return folded


def _beside(name: str) -> str:
    return str(PurePosixPath(name).with_name(_CONFIG))


def _saelens(name: str, names: set[str]) -> bool:
    return str(PurePosixPath(name).with_name("cfg.json")) in names


def _config(folder: Folder, name: str) -> dict[str, Any]:
    """One layer's config, checked, with what was read off it: layer, activation, k, scaled, by_length."""
    beside = _beside(name)
    where = f"{folder.where}/{beside}"
    if beside not in folder.names():
        raise BadTranscoder(f"{folder.where}: {name} stands without {_CONFIG} beside it")
    config = read_json(folder, beside)
    if config.get("sae_type", "sae") != "sae":
        raise BadTranscoder(
            f"{where} is of the type {config['sae_type']!r}; its transcoders, which have the type sae, are read"
        )
    if config.get("use_glu_encoder"):
        raise BadTranscoder(f"{where} has a gated encoder (use_glu_encoder), whose pre-activation is no dot product")
    function = text(config.get("act_fn")) or "relu"
    if function not in _ACTIVATIONS:
        raise BadTranscoder(
            f"{where}: act_fn is {function!r}, which decides over many positions at once; read are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    scaling = text(config.get("norm_activation")) or "dataset-wise"
    if scaling not in ("dataset-wise", "inference"):
        raise BadTranscoder(
            f"{where}: norm_activation is {scaling!r}, which scales each text by itself; no fold exists"
        )
    read, write = text(config.get("hook_point_in")), text(config.get("hook_point_out"))
    layer = layer_of(read or "")
    if read is None or write is None or layer is None or layer_of(write) != layer:
        raise BadTranscoder(
            f"{where}: hook_point_in is {read!r}, hook_point_out {write!r}; expected blocks.N.… of one layer"
        )
    activation = _ACTIVATIONS[function]
    k = count(config.get("top_k"), "top_k", where) if activation is Activation.TOPK else None
    return {
        **config,
        "layer": layer,
        "activation": activation,
        "k": k,
        "scaled": scaling == "dataset-wise",
        "by_length": bool(config.get("sparsity_include_decoder_norm", True)),
    }


def _stated(folder: Folder, config: dict[str, Any]) -> Stated:
    named = text(config.get("model_name")) or (
        "Qwen/Qwen3-1.7B" if re.search(r"Llama-Scope-2-Qwen3-1\.7B", folder.repo) else None
    )
    return Stated(config["hook_point_in"], config["hook_point_out"], folder.where, model_name=named)
