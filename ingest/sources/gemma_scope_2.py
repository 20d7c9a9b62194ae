"""Gemma Scope 2's layout, for Gemma 3: ``params.safetensors`` with small letters, and cross-layer sets.

A layer's file holds ``w_enc`` [d_in, n_features], ``w_dec`` [n_features, d_out], ``b_enc``, ``b_dec``, ``threshold``
and perhaps ``affine_skip_connection`` [d_in, d_out]. Beside it stands ``config.json`` with ``hf_hook_point_in`` and
``hf_hook_point_out``, possibly missing: then the folder's name says what it is. A cross-layer set is
``clt/{name}/params_layer_{i}.safetensors`` with ``w_dec`` [n_features, n_layers, d_out] for all layers, those before a
feature's own left unused.

Described from google/gemma-scope-2-270m-pt and the loaders of SAELens 6.54 and circuit-tracer 0.5 (the latter's drops
the last layer of a cross-layer set).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.cross_layer import CrossLayerSet, Files
from ingest.sources.hooks import Stated, sae_site, sites, text
from ingest.sources.layered import LayeredSet, Place, Traits, alike, one_a_layer, read_json
from ingest.sources.tensors import keep

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

Made = TypeVar("Made", LayeredSet, CrossLayerSet)
LAYOUT = "Gemma Scope 2's layer_N_…/params.safetensors"
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:_width_\w+)?/params\.safetensors$")
_CROSS = re.compile(r"(?:^|/)params_layer_(\d+)\.safetensors$")
_MODEL = re.compile(r"gemma-scope-2-(\d+[bm])-(pt|it)", re.IGNORECASE)
_FOLDERS = {
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "clt": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "resid_post": ("output", None),
    "attn_out": ("self_attn.o_proj.input", None),
    "mlp_out": ("post_feedforward_layernorm.output", None),
}
"""what a folder of each name reads and writes, where no config says it"""
_HOW = "give the folder of one: REPO/transcoder_all holds many, a config.yaml (circuit-tracer's) lists one file a layer"


def recognises(folder: Folder) -> bool:
    return any(_LAYER.search(name) or _CROSS.search(name) for name in folder.names())


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> LayeredSet | CrossLayerSet:
    """The set in a folder: one file a layer, of one kind."""
    names = folder.names()
    cross = {name: match for name in names if (match := _CROSS.search(name))}
    single = {name: match for name in names if (match := _LAYER.search(name))}
    if cross and single:
        raise BadTranscoder(f"{folder.where} holds per-layer and cross-layer sets; {_HOW}")
    found: dict[int, list[str]] = {}
    for name, match in (cross or single).items():
        found.setdefault(int(match[1]), []).append(name)
    chosen = one_a_layer(found, folder.where, _HOW)
    if not cross:
        return of_files(folder, keep(chosen, layers, folder.where), model)
    read, write, model_name, affine, beside = _known(folder, chosen, model)
    made = CrossLayerSet(
        folder,
        {layer: Files(Place.of(folder, name), Place.of(folder, name)) for layer, name in chosen.items()},
        sorted(keep(chosen, layers, folder.where)),
        read=read,
        write=write,
        all_targets=True,
        configs=beside,
        called={},
        model_name=model_name,
    )
    return _as_stated(made, affine, folder)


def of_files(folder: Folder, names: Mapping[int, str], model: ModelWeights | None, **identity: Any) -> LayeredSet:
    """A per-layer set of which the files are known: ``params.safetensors`` by layer."""
    read, write, model_name, affine, beside = _known(folder, names, model)
    places = {layer: Place.of(folder, name) for layer, name in names.items()}
    traits = Traits(read, write, Activation.JUMPRELU)
    made = LayeredSet(folder, places, traits, beside, **{"model_name": model_name, **identity})
    return _as_stated(made, affine, folder)


def _as_stated(made: Made, affine: bool | None, folder: Folder) -> Made:
    """The set, if it has an affine skip where its configs say so."""
    if affine is not None and affine != made.info.has_skip:
        raise BadTranscoder(
            f"{folder.where}: affine_connection is {affine}, but its files have "
            f"{'an' if made.info.has_skip else 'no'} affine_skip_connection"
        )
    return made


def _known(
    folder: Folder, names: Mapping[int, str], model: ModelWeights | None
) -> tuple[ReadSite, WriteSite, str | None, bool | None, list[str]]:
    """Sites, model, whether it says that it has a skip, and configs of a set, one of each but the last."""
    configs = {layer: _config(folder, name) for layer, name in names.items()}
    known = {layer: _traits(folder, layer, configs[layer], names[layer], model) for layer in names}
    affine = {layer: config.get("affine_connection") for layer, (_, config) in configs.items()}
    stated = alike(affine, "affine_connection", folder.where)
    traits = alike(known, "sites", folder.where)
    return (
        *traits,
        stated if isinstance(stated, bool) else None,
        sorted({name for name, _ in configs.values() if name}),
    )


def _config(folder: Folder, name: str) -> tuple[str, dict[str, Any]]:
    """The config beside a file of weights, and its name; nothing where there is none."""
    beside = f"{name.rpartition('/')[0]}/config.json".lstrip("/")
    return (beside, read_json(folder, beside)) if beside in folder.names() else ("", {})


def _traits(
    folder: Folder, layer: int, config: tuple[str, dict[str, Any]], name: str, model: ModelWeights | None
) -> tuple[ReadSite, WriteSite, str | None]:
    stated, where = config[1], f"{folder.where}/{config[0] or name}"
    if stated.get("architecture", "jump_relu") != "jump_relu":
        raise BadTranscoder(f"{where}: architecture is {stated['architecture']!r}, expected jump_relu")
    read, write = text(stated.get("hf_hook_point_in")), text(stated.get("hf_hook_point_out"))
    if read is None:
        # the nearest folder counts: clt/…, transcoder/…, else the folder that was given
        path = f"{getattr(folder, 'folder', '')}/{folder.repo}/{name}".lower()
        places = [place for place in _FOLDERS if re.search(rf"(?:^|[/_-]){place}", path)]
        if not places:
            raise BadTranscoder(
                f"{where} has no config.json with hf_hook_point_in, and its folder is named after none of "
                f"{', '.join(_FOLDERS)}, so nothing says what it reads"
            )
        read, write = _FOLDERS[places[0]]
    size = _MODEL.search(folder.repo)
    named = text(stated.get("model_name")) or (f"gemma-3-{size[1]}-{size[2]}".lower() if size else None)
    model_name = named.replace("-v3", "-3") if named else None
    if write is None:
        return (*sae_site(Stated(read, "", where, model_name=model_name, hf_read_hook=read), model), model_name)
    stated_sites = Stated(read, write, where, model_name=model_name, hf_read_hook=read, hf_write_hook=write)
    return (*sites(stated_sites, model), model_name)
