"""circuit-tracer's layouts: ``config.yaml`` with ``layer_{i}.safetensors``, or a cross-layer set.

A layer holds ``W_enc`` and ``W_dec`` [n_features, d_model], ``b_enc``, ``b_dec``, for jumprelu
``activation_function.threshold``, for a skip ``W_skip`` [d_out, d_in], applied as ``x @ W_skip.T``. The config states
the hooks, the model, perhaps ``activation`` (relu or topk) with its ``k``, and perhaps ``transcoders``: one file a
layer, of this repository or another (``hf://org/repo/path?revision=r``), safetensors or Gemma Scope's npz. Where a
published repository's config is missing or says too little, :mod:`ingest.sources.known` completes it. Cross-layer sets
(``model_kind: cross_layer_transcoder``) are read by :mod:`ingest.sources.cross_layer`.

Written and read by https://github.com/safety-research/circuit-tracer (MIT); described from its files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from atlas.errors import BadSource, BadTranscoder
from atlas.model import Activation
from ingest.folders import Folder, inside, open_hub, parse
from ingest.sources import known
from ingest.sources.cross_layer import CrossLayerSet, Files
from ingest.sources.hooks import Stated, sites, text
from ingest.sources.layered import MOST_BYTES, Place
from ingest.sources.tensors import (
    PICKLES,
    WEIGHTS,
    canonical,
    first_line,
    keep,
    pickled,
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

LAYOUT = "circuit-tracer's config.yaml with layer_N.safetensors"
_CONFIG = "config.yaml"
_CROSS = "cross_layer_transcoder"
_LAYER = re.compile(r"^layer_(\d+)\.safetensors$")
_CROSS_LAYER = re.compile(r"^W_(enc|dec)_(\d+)\.safetensors$")
_ALL_TARGETS = re.compile(r"params_layer_\d+\.safetensors$")
_ACTIVATIONS = {
    "relu": Activation.RELU,
    "topk": Activation.TOPK,
    "jumprelu": Activation.JUMPRELU,
    "jump_relu": Activation.JUMPRELU,
}


def recognises(folder: Folder) -> bool:
    """Whether the folder is of this layout."""
    names = folder.names()
    return _CONFIG in names or any(_LAYER.match(name) or _CROSS_LAYER.match(name) for name in names)


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None) -> Set | CrossLayerSet:
    """The set in a folder; ``layers`` keeps some of it."""
    config = _config(folder)
    if config["model_kind"] == _CROSS:
        return _cross_layer(folder, config, layers, model)
    return Set(folder, config, keep(_places(folder, config), layers, folder.where), model)


class Set:
    """A set in this layout, read a layer at a time."""

    def __init__(self, folder: Folder, config: dict[str, Any], places: dict[int, Place], model: Any) -> None:
        self._folder, self._config, self._places = folder, config, places
        self._read, self._write = sites(_stated(folder, config), model)
        self._shapes = {
            layer: canonical(read_shapes(place.folder, place.name, layer), layer) for layer, place in places.items()
        }
        self._k = self._top_k()
        self._activation = self._one_activation()
        self.info = self._info()

    def _info(self) -> SetInfo:
        of = {layer: sizes(shapes, layer) for layer, shapes in self._shapes.items()}
        widths = {width for _, d_in, d_out in of.values() for width in (d_in, d_out)}
        if len(widths) > 1:
            raise BadTranscoder(f"{self._folder.where}: its layers read and write different widths {sorted(widths)}")
        files = {_CONFIG: self._folder.sha256(_CONFIG)} if _CONFIG in self._folder.names() else {}
        files |= {place.origin: place.folder.sha256(place.name) for place in self._places.values()}
        n_features = {layer: n for layer, (n, _, _) in of.items()}
        has_skip = skips(self._shapes, self._folder.where)
        known_as = text(self._config.get("neuronpedia_set"))
        return SetInfo(
            name=known_as or set_name(n_features),
            neuronpedia_id=known_as,
            kind="skip" if has_skip else "transcoder",
            repo=self._folder.repo,
            revision=self._folder.revision or digest(files),
            files=files,
            layers=list(self._places),
            n_features=n_features,
            d_model=widths.pop(),
            read=self._read,
            write=self._write,
            activation=self._activation,
            has_skip=has_skip,
            l0=dict.fromkeys(self._places, float(self._k)) if self._k else {},
            model_name=text(self._config.get("model_name")),
        )

    def load(self, layer: int) -> Transcoder:
        place = keep(self._places, [layer], self._folder.where)[layer]
        tensors = read_tensors(place.folder.path(place.name), layer)
        return record(tensors, layer, read=self._read, write=self._write, activation=self._activation, k=self._k)

    def _top_k(self) -> int | None:
        stated = self._config.get("k")
        inside_file = {layer for layer, shapes in self._shapes.items() if "k" in shapes}
        if stated is None and inside_file:
            layer = min(inside_file)
            place = self._places[layer]
            stored = read_tensors(place.folder.path(place.name), layer)["k"]
            stated = stored.item() if stored.numel() == 1 else tuple(stored.shape)
        if stated is None or self._config.get("activation", "topk") != "topk":
            return None
        if isinstance(stated, bool) or not isinstance(stated, int) or stated < 1:
            raise BadTranscoder(f"{self._folder.where}: k is {stated!r}, expected how many features may fire at once")
        return stated

    def _one_activation(self) -> Activation:
        has = {"threshold" in shapes for shapes in self._shapes.values()}
        if len(has) > 1:
            raise BadTranscoder(
                f"{self._folder.where}: some layers have thresholds and some have none; a set is of one kind"
            )
        threshold = has.pop()
        stated = self._config.get("activation")
        if stated is not None and text(stated) not in _ACTIVATIONS:
            raise BadTranscoder(
                f"{self._folder.where}: activation is {stated!r}, known are {', '.join(sorted(_ACTIVATIONS))}"
            )
        if stated is None:
            stated = "jumprelu" if threshold else "topk" if self._k else "relu"
        activation = _ACTIVATIONS[stated]
        if activation is Activation.TOPK and self._k is None:
            raise BadTranscoder(
                f"{self._folder.where} is a TopK set, but neither its config.yaml nor its files state k, which the "
                "weights do not tell; add a line `k: N` to config.yaml"
            )
        if threshold != (activation is Activation.JUMPRELU):
            raise BadTranscoder(
                f"{self._folder.where}: activation is {stated}, but its files have "
                f"{'thresholds' if threshold else 'no thresholds'}"
            )
        return activation


def _config(folder: Folder) -> dict[str, Any]:
    """What is said of a set, by its own config or by what is known of the repository."""
    names = folder.names()
    stated = _yaml(folder, _CONFIG) if _CONFIG in names else {}
    config = known.config(folder.repo, names) | {name: value for name, value in stated.items() if value is not None}
    if not config:
        raise BadTranscoder(
            f"{folder.where} has {'W_enc_N' if any(map(_CROSS_LAYER.match, names)) else 'layer_N'}.safetensors "
            "but no config.yaml, so nothing says where they read and write; add one with feature_input_hook and "
            "feature_output_hook"
        )
    kind = config.setdefault("model_kind", _CROSS if any(map(_CROSS_LAYER.match, names)) else "transcoder_set")
    if kind not in ("transcoder_set", _CROSS):
        raise BadTranscoder(f"{folder.where}: model_kind is {kind!r}, expected transcoder_set or {_CROSS}")
    return config


def _yaml(folder: Folder, name: str) -> dict[str, Any]:
    path = folder.path(name)
    if path.stat().st_size > MOST_BYTES:
        raise BadTranscoder(f"{folder.where}/{name} has {path.stat().st_size:,} bytes; a config has a few hundred")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise BadTranscoder(f"{folder.where}/{name} is not readable YAML ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise BadTranscoder(f"{folder.where}/{name} is no table of settings; it should name feature_input_hook")
    return config


def _cross_layer(
    folder: Folder, config: dict[str, Any], layers: list[int] | None, model: ModelWeights | None
) -> CrossLayerSet:
    """All layers' files, since features of one write at all later ones; ``layers`` are those whose features count."""
    read, write = sites(_stated(folder, config), model)
    files = {}
    if config.get("transcoders") is not None:
        files = {layer: Files(place, place) for layer, place in _places(folder, config).items()}
    else:
        found = {(match[1], int(match[2])): match[0] for name in folder.names() if (match := _CROSS_LAYER.match(name))}
        for layer in sorted({layer for _, layer in found}):
            missing = [f"W_{half}_{layer}.safetensors" for half in ("enc", "dec") if (half, layer) not in found]
            if missing:
                raise BadTranscoder(f"{folder.where} is a cross-layer set without {missing[0]}; fetch it again")
            files[layer] = Files(*(Place.of(folder, found[half, layer]) for half in ("enc", "dec")))
    if not files:
        raise BadTranscoder(f"{folder.where} is a cross-layer set without a W_enc_N.safetensors")
    return CrossLayerSet(
        folder,
        files,
        sorted(keep(files, layers, folder.where)),
        read=read,
        write=write,
        all_targets=all(_ALL_TARGETS.search(parts.decoder.name) for parts in files.values()),
        configs=[_CONFIG] if _CONFIG in folder.names() else [],
        called={},
        model_name=text(config.get("model_name")),
    )


def _stated(folder: Folder, config: dict[str, Any]) -> Stated:
    read, write = config.get("feature_input_hook"), config.get("feature_output_hook")
    if not isinstance(read, str) or not isinstance(write, str):
        raise BadTranscoder(f"{folder.where}/{_CONFIG} must name feature_input_hook and feature_output_hook")
    return Stated(read, write, folder.where, model_name=text(config.get("model_name")))


def _places(folder: Folder, config: dict[str, Any]) -> dict[int, Place]:
    """Where each layer's file is, ascending."""
    stated = config.get("transcoders")
    if stated is None:
        found = {int(match[1]): match[0] for name in folder.names() if (match := _LAYER.match(name))}
        if not found:
            other = [name for name in folder.names() if name != _CONFIG]
            if pickles := [name for name in other if name.endswith(PICKLES)]:
                raise pickled(pickles[0])
            raise BadTranscoder(
                f"{folder.where} has a config.yaml but no layer_N.safetensors and no list of transcoders in it "
                f"(found {', '.join(other[:5]) or 'nothing else'})"
            )
        return {layer: Place.of(folder, found[layer]) for layer in sorted(found)}
    entries = list(enumerate(stated)) if isinstance(stated, list) else None
    if isinstance(stated, dict) and all(isinstance(layer, int) for layer in stated):
        entries = sorted(stated.items())
    if not entries or not all(isinstance(entry, str) for _, entry in entries):
        raise BadTranscoder(f"{folder.where}/{_CONFIG}: transcoders must list one file a layer")
    opened: dict[tuple, Folder] = {}
    return {layer: _place(folder, entry, opened) for layer, entry in entries}


def _place(folder: Folder, entry: str, opened: dict[tuple, Folder]) -> Place:
    where = f"{folder.where}/{_CONFIG}"
    if not entry.startswith("hf://"):
        name = inside(entry, where)
        found = Place(folder, name, name)
    else:
        repo, name, revision = parse(entry)
        if not name:
            raise BadSource(f"{where} names the repository {entry!r}, expected a file of it")
        if (repo, revision) not in opened:
            opened[repo, revision] = open_hub(repo, "", revision)
        other = opened[repo, revision]
        found = Place(other, name, f"hf://{repo}/{name}@{other.revision}")
    if not name.endswith(WEIGHTS):
        raise pickled(name)
    if name not in found.folder.names():
        raise BadTranscoder(f"{where} names {entry!r}, which is not there")
    return found
