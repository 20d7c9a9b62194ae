"""What lies beside the sets of a server, on the machine of whoever asks.

The adjacency is fetched once, then kept in the home under the set's run and observation, so a set that is replaced is
fetched anew. Where the build itself is on this machine, the adjacency is written from there; the vectors of features
are read from there, and nowhere else.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from atlas import settings
from atlas import vectors as staged_vectors
from atlas.errors import AtlasError, BadBuild, BadKey, StoreLocked
from atlas.observed import observed
from atlas.staging import open_build
from atlas.stores import adjacency
from atlas.stores.adjacency import EVIDENCE, Adjacency
from atlas.vectors import Vectors

Ask = Callable[..., pd.DataFrame]
"""a store's ``run``"""

_TARGETS = 1_000
_TYPES = {"n_both": np.int64}
_SET = """
MATCH (s:TranscoderSet {key: $set}), (a:AtlasSet {key: $set})
RETURN s.model AS model, s.run AS run, s.observation AS observation, a.build AS build, a.FEEDS AS edges
"""
_LAYERS = """
MATCH (f:Feature {model: $model}) WHERE f.layer >= 0 AND f.idx >= 0 AND f.set = $set
RETURN f.layer AS layer, count(f) AS features ORDER BY layer
"""
_INTO = """
MATCH (f:Feature {{model: $model, layer: $layer}}) WHERE f.idx >= $first AND f.idx < $end AND f.set = $set
MATCH (source:Feature)-[e:FEEDS]->(f)
WITH f, source, e ORDER BY f.idx, source.layer, source.idx
RETURN f.idx AS idx, collect(source.layer) AS layers, collect(source.idx) AS sources, collect(e.weight) AS weight,
       collect(e.z) AS z, collect(e.share) AS share{evidence} ORDER BY idx
"""
_NOTHING = {"n_both": "-1"}
"""What stands for null, which collect leaves out; not a number for all others."""
_EVIDENCE = "".join(
    f",\n       collect(coalesce(e.{name}, {_NOTHING.get(name, '0.0 / 0.0')})) AS {name}" for name in EVIDENCE.values()
)


def get(ask: Ask, address: str, set_key: str, *, heads: bool = False) -> Adjacency:
    """The adjacency of a set, from this machine if it was asked for before. Raises BadKey for no set.

    Edges through heads are not fetched: they are there where the set's build is on this machine, else BadSetting.
    """
    about = _about(ask, address, set_key)
    folder = place(set_key, about["run"], about["observation"])
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            adjacency.write(_build(about) or _fetched(ask, set_key, about), scratch / "whole")  # type: ignore[arg-type]
            if not folder.exists():
                (scratch / "whole").rename(folder)
        finally:
            shutil.rmtree(scratch)
    return adjacency.read(folder, about["run"], heads=heads)


def vectors(ask: Ask, address: str, set_key: str) -> Vectors:
    """The vectors of a set, from the build it was loaded from. Raises BadKey for no set, and BadBuild."""
    about = _about(ask, address, set_key)
    try:
        build = open_build(settings.load().builds / about["build"])
    except BadBuild:
        build = None
    if build is None or build.run != about["run"]:
        raise BadBuild(
            f"the vectors of {set_key} are read from its build {about['build']}, which is not on this machine; ingest "
            "it here with --vectors, or ask where it is"
        )
    return staged_vectors.of_build(build)


def _about(ask: Ask, address: str, set_key: str) -> dict[str, Any]:
    found = ask(_SET, set=set_key)
    if found.empty:
        raise BadKey(f"{set_key!r} is no set of {address}; `atlas sets` lists them")
    return found.to_dict("records")[0]


def place(set_key: str, run: str, observation: str) -> Path:
    """Where the adjacency of one set, run and observation is kept."""
    seen = f"-{hashlib.sha256(observation.encode()).hexdigest()[:12]}" if observation else ""
    return settings.load().home / "adjacency" / f"{set_key.replace('/', '@')}-{run}{seen}"


def _build(about: dict[str, Any]) -> Any:
    """The build that the set was loaded from, where it is on this machine and was observed in the same way."""
    try:
        build = observed(open_build(settings.load().builds / about["build"]))
    except AtlasError:
        return None
    return build if (build.run, build.says) == (about["run"], about["observation"]) else None


@dataclass(frozen=True)
class _Fetched:
    """As much of a build as an adjacency is written from."""

    ask: Ask
    set_key: str
    model: str
    run: str
    layers: list[int]
    features_per_layer: list[int]
    n_edges: int
    says: str
    """what the evidence rests on, as :attr:`atlas.observed.Observed.says`"""

    def rows(self, prefix: str) -> int:
        return self.n_edges

    def edges(self, kind: str) -> Iterator[pa.Table]:
        query = _INTO.format(evidence=_EVIDENCE if self.says else "")
        first = dict(zip(self.layers, np.cumsum([0, *self.features_per_layer]).tolist(), strict=False))
        for layer, size in zip(self.layers, self.features_per_layer, strict=True):
            for start in range(0, size, _TARGETS):
                span = {"layer": layer, "first": start, "end": start + _TARGETS}
                rows = self.ask(query, model=self.model, set=self.set_key, **span)
                if len(rows):
                    yield _table(rows, first, layer)
        now = self.ask(_SET, set=self.set_key)
        if now["run"].tolist() != [self.run]:
            raise StoreLocked(f"{self.set_key} was replaced while its edges were fetched; ask again")


def _fetched(ask: Ask, set_key: str, about: dict[str, Any]) -> _Fetched:
    layers = ask(_LAYERS, model=about["model"], set=set_key)
    sizes = layers["features"].tolist()
    here = about["run"], layers["layer"].tolist(), sizes
    return _Fetched(ask, set_key, about["model"], *here, int(about["edges"]), about["observation"])


def _table(rows: pd.DataFrame, first: dict[int, int], layer: int) -> pa.Table:
    counts = np.array([len(one) for one in rows["sources"]])
    flat = {name: np.concatenate([np.asarray(one) for one in rows[name]]) for name in rows.columns[1:]}
    base = np.array([first[one] for one in flat["layers"].tolist()], np.int64)
    return pa.table(
        {
            "source": (base + flat["sources"]).astype(np.int32),
            "target": np.repeat(rows["idx"].to_numpy() + first[layer], counts).astype(np.int32),
            **{name: flat[name].astype(np.float32) for name in ("weight", "z", "share")},
            **{name: flat[name].astype(_TYPES.get(name, np.float32)) for name in EVIDENCE.values() if name in flat},
        }
    )
