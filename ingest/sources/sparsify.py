"""EleutherAI's sparsify layout: ``{hookpoint}/cfg.json`` and ``{hookpoint}/sae.safetensors``.

A file holds ``encoder.weight`` [n_features, d_in], ``encoder.bias``, ``W_dec`` [n_features, d_out], ``b_dec`` and
perhaps ``W_skip`` [d_out, d_in], applied as ``x @ W_skip.T``. The config states ``k`` and ``transcode``. A hookpoint
that names an MLP (``layers.3.mlp``, ``h.3.mlp``) belongs to a transcoder, from the module's input, behind the norm's
gain, to its output; one that names a block to an autoencoder of the stream that leaves it. Autoencoders subtract
``b_dec`` from their input, transcoders do not.

Its fork for cross-layer sets adds, to sets of one layer too, ``post_enc`` (a constant that a feature adds to its
activation where it fires; read where it is zero) and with ``normalize_io`` the scales ``in_norm`` and ``out_norm``: the
input is multiplied by ``sqrt(d) / in_norm``, the output by ``out_norm / sqrt(d)``. Both are folded. Its cross-layer
sets are refused.

Described from https://github.com/EleutherAI/sparsify (MIT) and https://github.com/EleutherAI/clt-training.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.layered import LayeredSet, Place, Traits, alike, count, one_a_layer, read_json
from ingest.sources.tensors import CALLED, keep, read_shapes

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

LAYOUT = "sparsify's cfg.json with sae.safetensors"
_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_HOOKPOINT = re.compile(r"^(?:layers|h|model\.layers|transformer\.h)\.(\d+)(\.mlp)?$")
_CALLED = CALLED | {
    "encoder.weight": "w_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "w_dec",
    "decoder.bias": "b_dec",
    "post_enc": "post_enc",
    "in_norm": "in_norm",
    "out_norm": "out_norm",
}
_SEVERAL = re.compile(r"^(W_decs|b_decs|W_skips|post_encs)\.\d+$")
"""tensors of a transcoder that writes at several layers"""
_OTHER = ("matching_pursuit", "slice_encoder", "slice_decoder", "embed_skip", "gram_lookup", "signed")
"""switches of the library under which its features are none of this record"""


def recognises(folder: Folder) -> bool:
    return any(PurePosixPath(name).name == _WEIGHTS for name in folder.names()) or bool(_in_parts(folder))


def _in_parts(folder: Folder) -> list[str]:
    """Configs of hookpoints beside which weights lie in files of other names."""
    files: dict[PurePosixPath, set[str]] = {}
    for path in map(PurePosixPath, folder.names()):
        files.setdefault(path.parent, set()).add(path.name)
    return [
        f"{place}/{_CONFIG}"
        for place, names in sorted(files.items())
        if _HOOKPOINT.match(place.name) and _CONFIG in names and not {_WEIGHTS, "sae_weights.safetensors"} & names
    ]


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> LayeredSet:
    """The set in a folder that holds one hookpoint, or a folder for each."""
    found: dict[int, list[str]] = {}
    for name in folder.names():
        path = PurePosixPath(name)
        if path.name != _WEIGHTS:
            continue
        match = _HOOKPOINT.match(path.parent.name or _last(folder))
        if match is None:
            raise BadTranscoder(
                f"{folder.where}: {name} lies in a folder that is no hookpoint of an MLP or a block; expected "
                "layers.N.mlp, h.N.mlp or layers.N"
            )
        found.setdefault(int(match[1]), []).append(name)
    if lone := _in_parts(folder):
        raise BadTranscoder(
            f"{folder.where}: {lone[0]} stands without {_WEIGHTS} beside it; where that is split into several files, "
            "join them into one"
        )
    names = keep(one_a_layer(found, folder.where, "give the folder of one hookpoint each"), layers, folder.where)
    configs = {layer: _config(folder, name) for layer, name in names.items()}
    first = next(iter(names))
    if any(_SEVERAL.match(name) for name in read_shapes(folder, names[first], first)):
        raise _cross_layer(f"{folder.where}/{names[first]}")
    read, write = alike(
        {layer: _sites(folder, name, configs[layer]) for layer, name in names.items()}, "sites", folder.where
    )
    k = alike({layer: config["k"] for layer, config in configs.items()}, "k", folder.where)

    def fold(named: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
        config, where = configs[layer], f"{folder.where}/{names[layer]}"
        for stated, axis in (("d_in", 1), ("num_latents", 0)):
            if config.get(stated) and config[stated] != named["w_enc"].shape[axis]:
                raise BadTranscoder(
                    f"{where}: its config has {stated} {config[stated]!r}, its encoder {tuple(named['w_enc'].shape)}"
                )
        if bool(config.get("skip_connection")) != ("w_skip" in named):
            raise BadTranscoder(
                f"{where}: skip_connection is {config.get('skip_connection')!r}, and there is "
                f"{'a' if 'w_skip' in named else 'no'} W_skip"
            )
        if not config["transcode"]:
            named["b_enc"] = named["b_enc"] - named["w_enc"] @ named["b_dec"]
        return _scaled(named, bool(config.get("normalize_io")), where)

    return LayeredSet(
        folder,
        {layer: Place.of(folder, name) for layer, name in names.items()},
        Traits(read, write, Activation.TOPK, k, _CALLED, fold),
        [_beside(name) for name in names.values()],
        l0=dict.fromkeys(names, float(k)),
    )


def _scaled(named: dict[str, Tensor], normalised: bool, where: str) -> dict[str, Tensor]:
    """The record's tensors with what the fork adds folded."""
    constant = named.pop("post_enc", None)
    if constant is not None and constant.any():
        raise BadTranscoder(
            f"{where}: a feature that fires adds a learned constant (post_enc) to its activation, which no weight "
            "stands for"
        )
    norms = [named.pop(name, None) for name in ("in_norm", "out_norm")]
    if not normalised:
        return named
    if not all(norm is not None and norm.numel() == 1 and 0 < norm.item() < float("inf") for norm in norms):
        raise BadTranscoder(f"{where}: normalize_io is on, but in_norm and out_norm are not one number above zero each")
    root = named["w_enc"].shape[1] ** 0.5
    before, after = (norm.item() for norm in norms if norm is not None)
    scales = {"w_enc": root / before, "w_dec": after / root, "b_dec": after / root, "w_skip": after / before}
    return {name: tensor * scales.get(name, 1.0) for name, tensor in named.items()}


def _last(folder: Folder) -> str:
    """The name of the folder that was given."""
    return (getattr(folder, "folder", "") or folder.repo).rpartition("/")[2]


def _beside(name: str) -> str:
    return str(PurePosixPath(name).with_name(_CONFIG))


def _config(folder: Folder, name: str) -> dict[str, Any]:
    beside = _beside(name)
    where = f"{folder.where}/{beside}"
    if beside not in folder.names():
        raise BadTranscoder(f"{folder.where}: {name} stands without {_CONFIG}, which alone states its k")
    config = read_json(folder, beside)
    if config.get("activation", "topk") != "topk":
        raise BadTranscoder(f"{where}: activation is {config['activation']!r}; only topk is read")
    if config.get("n_targets") or config.get("n_sources"):
        raise _cross_layer(where)
    for switch in _OTHER:
        if config.get(switch):
            raise BadTranscoder(f"{where}: {switch} is on, which no weight-based edge can follow")
    if "k" not in config:
        raise BadTranscoder(f"{where} states no k, which the weights do not tell")
    count(config["k"], "k", where)
    if not isinstance(config.get("transcode", False), bool):
        raise BadTranscoder(f"{where}: transcode is {config['transcode']!r}, expected true or false")
    return {"transcode": False, **config}


def _cross_layer(where: str) -> BadTranscoder:
    return BadTranscoder(
        f"{where} is of a cross-layer set of EleutherAI's fork, whose layout is not read: there a feature that fires "
        "adds a learned constant at each layer (post_encs), which no weight stands for; take a cross-layer set in "
        "circuit-tracer's or Gemma Scope 2's layout"
    )


def _sites(folder: Folder, name: str, config: dict[str, Any]) -> tuple[ReadSite, WriteSite]:
    match = _HOOKPOINT.match(PurePosixPath(name).parent.name or _last(folder))
    assert match is not None
    if bool(match[2]) != config["transcode"]:
        raise BadTranscoder(
            f"{folder.where}: {name} is {'a transcoder' if config['transcode'] else 'an autoencoder'} of "
            f"{'an MLP' if match[2] else 'a block'}; read are transcoders of MLPs and autoencoders of blocks"
        )
    if match[2]:
        return ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW
    return ReadSite.RESID_POST, WriteSite.RESID_POST
