"""SAELens' layout: a folder a layer with ``cfg.json`` and ``sae_weights.safetensors``; and its objects and releases.

``W_enc`` is [d_in, n_features] there. Architectures read: transcoder, skip_transcoder, jumprelu_transcoder,
jumprelu_skip_transcoder, and the plain autoencoders standard, jumprelu and topk. SAELens' jumprelu is
``relu(p) * (p > threshold)``: a threshold below zero is zero in the record, which is the same function. What an
autoencoder does to its input is folded: ``apply_b_dec_to_input`` (``b_enc - b_dec @ W_enc``), a topk that competes by
``p * |W_dec row|``, and a model whose writes into the stream were centred while it was trained.

Described from SAELens 6.54 (https://github.com/decoderesearch/SAELens, MIT); a test compares activations with the
library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.hooks import Stated, layer_of, sae_site, sites, text
from ingest.sources.layered import count, read_json
from ingest.sources.memory import InMemory
from ingest.sources.tensors import (
    CALLED,
    canonical,
    floats,
    keep,
    read_shapes,
    read_tensors,
    record,
    set_name,
    sizes,
    skips,
)
from ingest.transcoder import SetInfo, Transcoder
from ingest.weights import digest

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

LAYOUT = "SAELens' cfg.json with sae_weights.safetensors"
_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = {
    "transcoder": Activation.RELU,
    "skip_transcoder": Activation.RELU,
    "jumprelu_transcoder": Activation.JUMPRELU,
    "jumprelu_skip_transcoder": Activation.JUMPRELU,
}
AUTOENCODERS = {"standard": Activation.RELU, "jumprelu": Activation.JUMPRELU, "topk": Activation.TOPK}
_CALLED = CALLED | {"scaling_factor": "scaling_factor", "finetuning_scaling_factor": "scaling_factor"}


@dataclass(frozen=True)
class Config:
    """What one layer's config says that matters to an edge."""

    layer: int
    read: ReadSite
    write: WriteSite
    activation: Activation
    model_name: str | None
    neuronpedia_id: str | None
    k: int | None = None
    subtracts_b_dec: bool = False
    by_length: bool = False
    """topk: whether features compete by their pre-activation times the length of their decoder's row"""
    has_skip: bool = False
    centred: bool = False
    """an autoencoder of a model whose writes into the stream are centred"""

    @property
    def is_autoencoder(self) -> bool:
        return str(self.read) == str(self.write)

    def transcoder(self, tensors: Mapping[str, Tensor]) -> Transcoder:
        """The record of this layer."""
        named = floats(canonical(tensors, self.layer, _CALLED), self.layer)
        if ("w_skip" in named) != self.has_skip:
            raise BadTranscoder(
                f"layer {self.layer}: its architecture has {'a' if self.has_skip else 'no'} skip, and its file "
                f"{'none' if self.has_skip else 'a W_skip'}"
            )
        if "threshold" in named:
            named["threshold"] = named["threshold"].clamp(min=0)
        scale = named.pop("scaling_factor", None)
        if scale is not None and not torch.equal(scale, torch.ones_like(scale)):
            raise BadTranscoder(
                f"layer {self.layer}: its features are scaled after the activation; fold the scale first"
            )
        made = record(named, self.layer, read=self.read, write=self.write, activation=self.activation, k=self.k)
        return self._folded(made) if self.is_autoencoder else made

    def _folded(self, sae: Transcoder) -> Transcoder:
        w_enc, b_enc, w_dec = sae.w_enc, sae.b_enc, sae.w_dec
        if self.subtracts_b_dec:
            b_enc = b_enc - w_enc @ sae.b_dec
        if self.by_length:
            length = w_dec.norm(dim=1)
            w_enc, b_enc = w_enc * length[:, None], b_enc * length
            w_dec = w_dec / torch.where(length > 0, length, torch.ones_like(length))[:, None]
        if self.centred:
            w_enc = w_enc - w_enc.mean(dim=1, keepdim=True)
        return replace(sae, w_enc=w_enc, b_enc=b_enc, w_dec=w_dec)


def recognises(folder: Folder) -> bool:
    return any(PurePosixPath(name).name == _CONFIG for name in folder.names())


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> Set:
    """The set in a folder, which holds one layer or a folder for each; ``layers`` keeps some of it."""
    found: dict[int, tuple[str, Config]] = {}
    names = folder.names()
    for name in names:
        path = PurePosixPath(name)
        if path.name != _CONFIG:
            continue
        place = "" if path.parent == PurePosixPath(".") else f"{path.parent}/"
        if place + _WEIGHTS not in names:
            raise BadTranscoder(f"{folder.where}: {name} stands without {_WEIGHTS} beside it")
        config = read_config(read_json(folder, name), f"{folder.where}/{name}", model)
        if config.layer in found:
            raise BadTranscoder(
                f"{folder.where} has two transcoders for layer {config.layer}: {found[config.layer][0] or '.'} and "
                f"{place or '.'}; give a folder with one a layer"
            )
        found[config.layer] = (place, config)
    return Set(folder, keep(found, layers, folder.where))


class Set:
    """A set in this layout, read a layer at a time."""

    def __init__(self, folder: Folder, places: dict[int, tuple[str, Config]]) -> None:
        self._folder, self._places = folder, places
        self.info = self._info()

    def _info(self) -> SetInfo:
        shapes = {
            layer: canonical(read_shapes(self._folder, place + _WEIGHTS, layer), layer, _CALLED)
            for layer, (place, _) in self._places.items()
        }
        of = {layer: sizes(shape, layer) for layer, shape in shapes.items()}
        names = sorted(place + name for place, _ in self._places.values() for name in (_CONFIG, _WEIGHTS))
        files = {name: self._folder.sha256(name) for name in names}
        return set_info(
            {layer: config for layer, (_, config) in self._places.items()},
            of,
            has_skip=skips(shapes, self._folder.where),
            repo=self._folder.repo,
            revision=self._folder.revision or digest(files),
            files=files,
        )

    def load(self, layer: int) -> Transcoder:
        place, config = keep(self._places, [layer], self._folder.where)[layer]
        return config.transcoder(read_tensors(self._folder.path(place + _WEIGHTS), layer))


def set_info(
    configs: dict[int, Config], of: dict[int, tuple[int, int, int]], *, has_skip: bool, **identity: Any
) -> SetInfo:
    """What the layers' configs and sizes say together; raises where they are not of one set."""
    first = next(iter(configs.values()))
    for layer, config in configs.items():
        for trait in ("read", "write", "activation"):
            if getattr(config, trait) != getattr(first, trait):
                raise BadTranscoder(
                    f"{identity['repo']}: layer {layer} has {trait} {getattr(config, trait)}, layer {first.layer} has "
                    f"{getattr(first, trait)}; a set is of one kind"
                )
    widths = {width for _, d_in, d_out in of.values() for width in (d_in, d_out)}
    if len(widths) > 1:
        raise BadTranscoder(f"{identity['repo']}: its layers read and write different widths {sorted(widths)}")
    n_features = {layer: n for layer, (n, _, _) in of.items()}
    return SetInfo(
        name=neuronpedia_set(first.neuronpedia_id) or set_name(n_features),
        layers=list(configs),
        n_features=n_features,
        d_model=widths.pop(),
        read=first.read,
        write=first.write,
        activation=first.activation,
        neuronpedia_id=neuronpedia_set(first.neuronpedia_id),
        model_name=first.model_name,
        kind="sae" if first.is_autoencoder else "skip" if has_skip else "transcoder",
        has_skip=has_skip,
        **{"l0": {layer: float(config.k) for layer, config in configs.items() if config.k}, **identity},
    )


def from_objects(saes: Mapping[int, Any], model: ModelWeights | None = None) -> InMemory:
    """SAELens' own transcoders by layer: ``{0: sae, 1: sae}``."""
    configs, layers = {}, {}
    for layer, sae in sorted(saes.items()):
        config = read_config(sae.cfg.to_dict(), f"the transcoder given for layer {layer}", model)
        if config.layer != layer:
            raise BadTranscoder(f"the transcoder given for layer {layer} says that it is of layer {config.layer}")
        configs[layer] = config
        layers[layer] = config.transcoder({name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()})
    first = next(iter(configs.values()))
    known = neuronpedia_set(first.neuronpedia_id)
    return InMemory(layers, name=known, neuronpedia_id=known, model_name=first.model_name)


def read_config(cfg: Any, where: str, model: ModelWeights | None) -> Config:
    """The config of one layer, of this version of SAELens (metadata apart) or an older one (all in one table).

    Raises :class:`atlas.errors.BadTranscoder` for an architecture or a normalisation that edges cannot take as it is.
    """
    if not isinstance(cfg, dict):
        raise BadTranscoder(f"{where} is no table of settings")
    metadata = cfg.get("metadata") or {}
    stated = {**cfg, **(metadata if isinstance(metadata, dict) else {})}
    topk = stated.get("activation_fn_str", stated.get("activation_fn")) == "topk"
    architecture = text(stated.get("architecture"))
    if architecture is None:  # before version 6, plain autoencoders named none
        architecture = "none" if "hook_name_out" in stated else "standard"
    if topk and architecture == "standard":
        architecture = "topk"
    if architecture not in ARCHITECTURES | AUTOENCODERS:
        raise BadTranscoder(
            f"{where} is of the architecture {architecture!r}, whose features are none of this record; read are "
            f"{', '.join(sorted(ARCHITECTURES | AUTOENCODERS))}"
        )
    scaling = stated.get("normalize_activations", "none")
    if scaling not in ("none", None, False):
        raise BadTranscoder(
            f"{where} scales its input at run time (normalize_activations {scaling!r}); fold the scale into its "
            "weights first (SAELens: fold_activation_norm_scaling_factor)"
        )
    if architecture in AUTOENCODERS:
        return _autoencoder(stated, architecture, where, model)
    read_hook, write_hook = stated.get("hook_name"), stated.get("hook_name_out")
    if not isinstance(read_hook, str) or not isinstance(write_hook, str):
        raise BadTranscoder(
            f"{where} must name hook_name and hook_name_out: nothing else says where it reads and writes"
        )
    layer = layer_of(read_hook)
    if layer is None or layer_of(write_hook) != layer:
        raise BadTranscoder(
            f"{where} reads at {read_hook[:80]!r} and writes at {write_hook[:80]!r}; expected blocks.N.… of one layer"
        )
    loaded_with = _loaded_with(stated)
    read, write = sites(
        Stated(
            read_hook,
            write_hook,
            where,
            model_name=text(stated.get("model_name")),
            hf_read_hook=text(stated.get("hf_hook_name")),
            hf_write_hook=text(stated.get("hf_hook_name_out")),
            folded=bool(loaded_with.get("fold_ln", False)),
            centred=bool(loaded_with.get("center_writing_weights", False)),
        ),
        model,
    )
    return Config(
        layer,
        read,
        write,
        ARCHITECTURES[architecture],
        text(stated.get("model_name")),
        text(stated.get("neuronpedia_id")),
        has_skip="skip" in architecture,
    )


def _autoencoder(stated: dict[str, Any], architecture: str, where: str, model: ModelWeights | None) -> Config:
    """The config of a plain autoencoder: one site, and what it does to its input."""
    hook = text(stated.get("hook_name", stated.get("hook_point")))
    layer = layer_of(hook or "")
    if hook is None or layer is None:
        raise BadTranscoder(f"{where} reads at {(hook or '')[:80]!r}; expected blocks.N.… of one layer")
    site = Stated(hook, "", where, text(stated.get("model_name")), hf_read_hook=text(stated.get("hf_hook_name")))
    read, write = sae_site(site, model)
    k = None
    if architecture == "topk":
        kwargs = stated.get("activation_fn_kwargs")
        k = count(stated.get("k", kwargs.get("k") if isinstance(kwargs, dict) else None), "k", where)
    return Config(
        layer,
        read,
        write,
        AUTOENCODERS[architecture],
        text(stated.get("model_name")),
        text(stated.get("neuronpedia_id")),
        k=k,
        subtracts_b_dec=bool(stated.get("apply_b_dec_to_input", True)),
        by_length=bool(stated.get("rescale_acts_by_decoder_norm", False)),
        centred=bool(_loaded_with(stated).get("center_writing_weights", False)) and read is not ReadSite.ATTN_Z,
    )


def _loaded_with(stated: dict[str, Any]) -> dict[str, Any]:
    """How the model was loaded that it was trained on."""
    loaded_with = stated.get("model_from_pretrained_kwargs")
    return loaded_with if isinstance(loaded_with, dict) else {}


def neuronpedia_set(identifier: str | None) -> str | None:
    """``gemmascope-transcoder-16k`` of ``gemma-2-2b/0-gemmascope-transcoder-16k``."""
    if identifier is None or "-" not in identifier.rpartition("/")[2]:
        return None
    return identifier.rpartition("/")[2].partition("-")[2]
