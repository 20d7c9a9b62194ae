"""Gemma Scope's layout, for Gemma 2: ``layer_{i}/width_{w}/average_l0_{n}/params.npz``.

An archive holds ``W_enc`` [d_in, n_features], ``W_dec`` [n_features, d_out], ``b_enc``, ``b_dec`` and ``threshold`` in
float32; nothing is subtracted from the input. There is no config: the repository's name says what the features read.
Transcoders read the norm's output before its gain and write behind the norm after the MLP; autoencoders read the stream
(``res``), the norm's output behind the MLP (``mlp``) or the heads' values side by side (``att``).

Lieberum et al. 2024 (https://arxiv.org/abs/2408.05147); described from google/gemma-scope-2b-pt-transcoders.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.layered import LayeredSet, Place, Traits, one_a_layer
from ingest.sources.tensors import keep

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

LAYOUT = "Gemma Scope's layer_N/…/params.npz"
_PLACE = re.compile(r"(?:^|/)layer_(\d+)/width_(\w+)/(average|canonical)(?:_l0_(\d+))?/params\.npz$")
_MODEL = re.compile(r"gemma-scope-(\d+b)-(pt|it)", re.IGNORECASE)
_SITES = {
    "transcoders": (ReadSite.NORM_PRE_GAIN, WriteSite.MLP_POST_NORM),
    "res": (ReadSite.RESID_POST, WriteSite.RESID_POST),
    "mlp": (ReadSite.MLP_POST_NORM, WriteSite.MLP_POST_NORM),
    "att": (ReadSite.ATTN_Z, WriteSite.ATTN_Z),
}
_PUBLISHED_L0 = (76, 65, 49, 54, 88, 87, 95, 70, 52, 72, 88, 5, 6, 8, 8, 8, 10, 12, 13, 12, 11, 13, 15, 25, 37, 41)
"""of gemma-scope-2b-pt-transcoders, 16k: the features that SAELens, circuit-tracer and Neuronpedia all use"""


def recognises(folder: Folder) -> bool:
    return any(_PLACE.search(name) for name in folder.names())


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> LayeredSet:
    """The set in a folder; where it has several sets of features for a layer, the published choice or none."""
    found: dict[int, dict[str, re.Match]] = {}
    for name in folder.names():
        if match := _PLACE.search(name):
            found.setdefault(int(match[1]), {})[name] = match
    kind = next((kind for kind in _SITES if re.search(rf"(?:^|[-_/]){kind}(?:$|[-_/@])", folder.repo)), None)
    if kind is None:
        raise BadTranscoder(
            f"{folder.where} is in Gemma Scope's layout, which says nowhere what it reads; name the folder as the "
            f"repository is named, ending in -{', -'.join(_SITES)}, or list its files in a config.yaml with hooks"
        )
    chosen = {layer: _published(layer, names, kind) for layer, names in found.items()}
    how = "list one file a layer in a config.yaml (circuit-tracer's, with hooks)"
    names = keep(one_a_layer(chosen, folder.where, how), layers, folder.where)
    matches = {layer: found[layer][name] for layer, name in names.items()}
    widths = {match[2] for match in matches.values()}
    size = _MODEL.search(folder.repo)
    model_name = f"gemma-2-{size[1]}{'-it' if size[2].lower() == 'it' else ''}".lower() if size else None
    slug = {"transcoders": "transcoder"}.get(kind, kind)
    return LayeredSet(
        folder,
        {layer: Place.of(folder, name) for layer, name in names.items()},
        Traits(*_SITES[kind], Activation.JUMPRELU),
        name=f"gemmascope-{slug}-{widths.pop()}" if len(widths) == 1 else None,
        model_name=model_name,
        l0={layer: float(match[4]) for layer, match in matches.items() if match[4]},
    )


def _published(layer: int, names: dict[str, re.Match], kind: str) -> list[str]:
    """Of several candidates of a layer the one everybody uses, where that is known."""
    if len(names) > 1 and kind == "transcoders" and layer < len(_PUBLISHED_L0):
        chosen = [name for name, m in names.items() if m[2] == "16k" and m[4] == str(_PUBLISHED_L0[layer])]
        return chosen or list(names)
    return list(names)
