"""A set with one file a layer, whatever its layout: places, names of tensors and a fold make it the record.

Most published layouts differ in no more than that, so their readers are a table and a few lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.tensors import (
    CALLED,
    canonical,
    first_line,
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

MOST_BYTES = 1 << 20
"""of a config"""
Fold = Callable[[dict[str, Tensor], int], dict[str, Tensor]]
"""turns a layer's tensors, by the record's names, into what the record means by them"""


@dataclass(frozen=True)
class Place:
    """A file of weights."""

    folder: Folder
    name: str
    origin: str
    """how the set's record names it"""

    @classmethod
    def of(cls, folder: Folder, name: str) -> Place:
        return cls(folder, name, name)


@dataclass(frozen=True)
class Traits:
    """What all layers of a set share."""

    read: ReadSite
    write: WriteSite
    activation: Activation
    k: int | None = None
    called: Mapping[str, str] = None  # type: ignore[assignment]
    """what the layout calls the record's tensors"""
    fold: Fold | None = None

    def __post_init__(self) -> None:
        if self.called is None:
            object.__setattr__(self, "called", CALLED)


class LayeredSet:
    """A set read a file at a time.

    Raises :class:`atlas.errors.BadTranscoder` where the files' headers contradict each other or the activation.
    """

    def __init__(
        self, folder: Folder, places: Mapping[int, Place], traits: Traits, configs: Iterable[str] = (), **identity: Any
    ) -> None:
        self._folder, self._places, self._traits = folder, dict(places), traits
        shapes = {
            layer: canonical(read_shapes(place.folder, place.name, layer), layer, traits.called)
            for layer, place in self._places.items()
        }
        jump = traits.activation is Activation.JUMPRELU
        for layer, found in shapes.items():
            if ("threshold" in found) != jump:
                raise BadTranscoder(
                    f"{folder.where}: layer {layer} has {'no ' if jump else ''}thresholds, but the set's activation is "
                    f"{traits.activation}"
                )
        self.info = self._info(shapes, configs, identity)

    def _info(self, shapes: dict[int, dict], configs: Iterable[str], identity: dict[str, Any]) -> SetInfo:
        where = self._folder.where
        of = {layer: sizes(found, layer) for layer, found in shapes.items()}
        widths = {width for _, d_in, d_out in of.values() for width in (d_in, d_out)}
        if len(widths) > 1:
            raise BadTranscoder(f"{where}: its layers read and write different widths {sorted(widths)}")
        files = {name: self._folder.sha256(name) for name in configs}
        files |= {place.origin: place.folder.sha256(place.name) for place in self._places.values()}
        n_features = {layer: n for layer, (n, _, _) in of.items()}
        has_skip = skips(shapes, where)
        traits = self._traits
        kind = "sae" if str(traits.read) == str(traits.write) else "skip" if has_skip else "transcoder"
        stated: dict[str, Any] = {
            "name": set_name(n_features),
            "kind": kind,
            "repo": self._folder.repo,
            "revision": self._folder.revision or digest(files),
        }
        return SetInfo(
            files=files,
            layers=sorted(self._places),
            n_features=dict(sorted(n_features.items())),
            d_model=widths.pop(),
            read=traits.read,
            write=traits.write,
            activation=traits.activation,
            has_skip=has_skip,
            **stated | {name: value for name, value in identity.items() if value is not None},
        )

    def load(self, layer: int) -> Transcoder:
        """One layer, in float32 on the CPU."""
        place, traits = keep(self._places, [layer], self._folder.where)[layer], self._traits
        named = canonical(read_tensors(place.folder.path(place.name), layer), layer, traits.called)
        if traits.fold is not None:
            named = traits.fold(floats(named, layer), layer)
        return record(named, layer, read=traits.read, write=traits.write, activation=traits.activation, k=traits.k)


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """A config; raises :class:`atlas.errors.BadTranscoder` for one that is no table, or far too large."""
    path, where = folder.path(name), f"{folder.where}/{name}"
    if path.stat().st_size > MOST_BYTES:
        raise BadTranscoder(f"{where} has {path.stat().st_size:,} bytes; a config has a few hundred")
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise BadTranscoder(f"{where} is not readable JSON ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise BadTranscoder(f"{where} is no table of settings")
    return config


def count(value: Any, what: str, where: str) -> int:
    """A whole number above zero out of a config; raises :class:`atlas.errors.BadTranscoder` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise BadTranscoder(f"{where}: {what} is {value!r}, expected a whole number above zero")
    return value


def one_a_layer(found: Mapping[int, list[str]], where: str, how: str) -> dict[int, str]:
    """The only candidate of each layer; raises :class:`atlas.errors.BadTranscoder` where there are several."""
    for layer, names in sorted(found.items()):
        if len(names) > 1:
            raise BadTranscoder(
                f"{where} has {len(names)} sets of features for layer {layer} ({', '.join(sorted(names)[:4])}, …); "
                f"{how}"
            )
    return {layer: names[0] for layer, names in sorted(found.items())}


def alike(values: Mapping[int, Any], what: str, where: str) -> Any:
    """The one value that all layers have; raises :class:`atlas.errors.BadTranscoder` where they differ."""
    (first, value), *others = sorted(values.items())
    for layer, other in others:
        if other != value:
            raise BadTranscoder(
                f"{where}: layer {layer} has {what} {other}, layer {first} has {value}; a set is of one kind"
            )
    return value
