"""Registering directions on a set that was built: the same recipe again, with the directions in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atlas import builds, settings
from atlas.errors import BadBuild
from atlas.staging import Build
from ingest.build import build, share
from ingest.computing import Progress
from ingest.directions import SUFFIX, Registered, read
from ingest.edges import Keep
from ingest.ranks import Rank


def register(
    set: str | Build,
    vectors: Any,
    *,
    layer: int,
    site: str = "resid_mid",
    name: str | None = None,
    model: Any = None,
    transcoders: Any = None,
    device: str = "auto",
    home: str | Path | None = None,
    rank: Rank | None = None,
    progress: Progress | None = None,
) -> Build | None:
    """Register linear directions on a model at a layer and site, and build the set that holds them.

    ``set``: a finished build, or its set's key. ``vectors``: a ``.npy`` or ``.safetensors`` file, an array, or a
    mapping of names to arrays, each [d_model] or [n, d_model]. Directions that were registered before stay; one of the
    same name is replaced. ``model`` and ``transcoders`` are needed only where the build was made from loaded objects.

    Returns a build of ``MODEL/SET-directions``: all features of the set with the keys' numbers they have there, and the
    directions behind them, labelled with their names. One ``rank`` of several does its share (:func:`ingest.share`),
    and returns None where others have still to do theirs. Raises :class:`atlas.errors.BadSetting` for what is no
    direction, and :class:`atlas.errors.BadBuild` where the set is not staged here.
    """
    found = set if isinstance(set, Build) else builds.find(set, home)
    given = json.loads((found.path / "run.json").read_text())
    model, transcoders = model or given.get("model"), transcoders or given.get("transcoders")
    if not model or not transcoders:
        raise BadBuild(f"{found.set_key} was built from loaded objects; give model and transcoders again")
    new = read(vectors, layer, site, name)
    if found.set.endswith(SUFFIX):
        raise BadBuild(f"{found.set_key} holds directions itself; register on {found.set_key.removesuffix(SUFFIX)}")
    registered = Registered(settings.load(home=home).home, found.set_key)
    kept = found.manifest["settings"]["keep"]
    # built before it is noted, so that what does not fit is not kept
    known = {one.name: one for one in registered.all()} | {one.name: one for one in new}
    asked: dict[str, Any] = {
        "model": model,
        "transcoders": transcoders,
        "name": found.set_key + SUFFIX,
        "layers": found.layers,
        "keep": Keep(**kept),
        "min_z": found.manifest["settings"]["min_z"],
        "allow_pickle": bool(given.get("allow_pickle")),
        "directions": list(known.values()),
        "check": False,
        "device": device,
        "home": home,
        "progress": progress,
    }
    made = share(rank=rank, **asked) if rank else build(**asked)
    if made is not None:
        registered.add(new)
    return made
