"""Releases that SAELens knows: ``saelens:RELEASE``, or ``saelens:RELEASE:PATTERN`` where it has several a layer.

Which files those are and how they are converted is the library's knowledge; it needs six seconds to import, so that
happens here and nowhere else. The commit is pinned by us, since the library takes the branch's head.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from atlas.errors import BadTranscoder, Unreachable
from ingest.folders import HubFolder, open_hub
from ingest.sources import gemma_scope_2
from ingest.sources.layered import LayeredSet
from ingest.sources.saelens import Config, neuronpedia_set, read_config, set_info
from ingest.sources.tensors import first_line, keep
from ingest.transcoder import SetInfo, Transcoder

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

PREFIX = "saelens:"
_LAYER = re.compile(r"(?:layer_|layer|blocks\.)(\d+)")
_SUMMED = "mntss_clt_layer_transcoder"
_BY_ITSELF = "gemma_3"
"""whose loader in SAELens asks the hub for headers even with everything cached: we read their files ourselves"""


def open_release(spec: str, layers: list[int] | None, model: ModelWeights | None) -> Release | LayeredSet:
    """A release of transcoders, one for each layer.

    Raises :class:`atlas.errors.BadTranscoder` for a name that SAELens does not know, for a release of something else,
    and for several transcoders of one layer, with how to choose.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    name, _, pattern = spec.removeprefix(PREFIX).partition(":")
    known = get_pretrained_saes_directory()
    if name not in known:
        near = [release for release in known if "transcoder" in release]
        raise BadTranscoder(f"SAELens knows no release {name!r}; among its transcoders are {', '.join(near[:8])}")
    release = known[name]
    if release.conversion_func == _SUMMED:
        raise BadTranscoder(f"{name} is a cross-layer set with its decoders summed; edges need them apart")
    by_layer: dict[int, list[str]] = {}
    for identifier in release.saes_map:
        match = _LAYER.search(identifier)
        if match and fnmatchcase(identifier, pattern or "*"):
            by_layer.setdefault(int(match[1]), []).append(identifier)
    if not by_layer:
        raise BadTranscoder(f"{name} has nothing like {pattern!r}; it has {', '.join(list(release.saes_map)[:5])}, …")
    for layer, found in sorted(by_layer.items()):
        if len(found) > 1:
            raise BadTranscoder(
                f"{name} has {len(found)} transcoders of layer {layer} ({', '.join(found[:4])}, …); choose one a layer "
                f"with a pattern, such as {PREFIX}{name}:{_pattern(found[0])}"
            )
    chosen = keep({layer: found[0] for layer, found in by_layer.items()}, layers, name)
    folder = open_hub(release.repo_id, "", None)
    if release.conversion_func == _BY_ITSELF:
        names = {layer: f"{release.saes_map[found]}/params.safetensors" for layer, found in chosen.items()}
        known = next((found for found in map(release.neuronpedia_id.get, chosen.values()) if found), None)
        named = {} if known is None else {"name": neuronpedia_set(known), "neuronpedia_id": neuronpedia_set(known)}
        return gemma_scope_2.of_files(folder, names, model, saelens_release=name, **named, **_stated(release, chosen))
    return Release(release, chosen, folder, model)


def _stated(release: Any, chosen: dict[int, str]) -> dict[str, dict[int, float]]:
    """What the directory says that the features do; 0 and 1 stand for nothing there."""
    l0 = {layer: float(release.expected_l0.get(found) or 0) for layer, found in chosen.items()}
    explained = {layer: float(release.expected_var_explained.get(found) or 1) for layer, found in chosen.items()}
    return {
        "l0": {layer: value for layer, value in l0.items() if value > 0},
        "explained": {layer: value for layer, value in explained.items() if value < 1},
    }


class Release:
    """A release, loaded a layer at a time through SAELens."""

    def __init__(self, release: Any, chosen: dict[int, str], folder: HubFolder, model: ModelWeights | None) -> None:
        self._release, self._chosen, self._folder, self._model = release, chosen, folder, model
        self.info = self._info()

    def _info(self) -> SetInfo:
        from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

        cfgs = {
            layer: self._asked(load_sae_config_from_huggingface, identifier)
            for layer, identifier in self._chosen.items()
        }
        configs = {layer: self._config(layer, cfg) for layer, cfg in cfgs.items()}
        of = {
            layer: (int(cfg["d_sae"]), int(cfg["d_in"]), int(cfg.get("d_out", cfg["d_in"])))
            for layer, cfg in cfgs.items()
        }
        return set_info(
            configs,
            of,
            has_skip=any("skip" in str(cfg.get("architecture")) for cfg in cfgs.values()),
            repo=self._release.repo_id,
            revision=str(self._folder.revision),
            files=self._files(),
            saelens_release=self._release.release,
            **_stated(self._release, self._chosen),
        )

    def load(self, layer: int) -> Transcoder:
        from sae_lens import SAE

        chosen = keep(self._chosen, [layer], self._release.release)[layer]
        sae = self._asked(SAE.from_pretrained, chosen)
        config = self._config(layer, sae.cfg.to_dict())
        return config.transcoder({name: tensor.detach() for name, tensor in sae.state_dict().items()})

    def _config(self, layer: int, cfg: dict[str, Any]) -> Config:
        named = {"neuronpedia_id": self._release.neuronpedia_id.get(self._chosen[layer]), **cfg}
        config = read_config(named, f"{self._release.release}/{self._chosen[layer]}", self._model)
        if config.layer != layer:
            raise BadTranscoder(
                f"{self._release.release}: {self._chosen[layer]} says that it is of layer {config.layer}"
            )
        return config

    def _asked(self, function: Any, identifier: str) -> Any:
        """A call of the library; its errors are of many kinds, most of them a network's."""
        import httpx2
        import requests

        what = f"{self._release.release} {identifier}"
        try:
            with _offline(bool(self._folder.unreachable)), warnings.catch_warnings():
                # how to load the model: the same settings that decide what its hooks denote
                warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
                return function(self._release.release, identifier)
        except (httpx2.HTTPError, requests.RequestException, OSError) as error:
            raise Unreachable(f"SAELens could not fetch {what} ({first_line(error)}); connect once") from error
        except (ValueError, KeyError) as error:
            raise BadTranscoder(f"SAELens could not read {what} ({first_line(error)})") from error

    def _names(self, layer: int) -> list[str]:
        place = self._release.saes_map[self._chosen[layer]]
        return [name for name in self._folder.names() if name == place or name.startswith(f"{place}/")]

    def _files(self) -> dict[str, str]:
        return {name: self._folder.sha256(name) for layer in self._chosen for name in self._names(layer)}


def _pattern(identifier: str) -> str:
    return _LAYER.sub(lambda match: match[0].replace(match[1], "*"), identifier, count=1)


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """The hub's library without a network: the cache at once, where it would retry for half a minute a file."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
