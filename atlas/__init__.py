"""What a feature is and where graphs live.

::

    with atlas.open() as graph:
        graph.run("MATCH (f:Feature {model: $model}) RETURN count(f) AS n", model="bunny")
"""

from __future__ import annotations

from pathlib import Path

from atlas.errors import AtlasError
from atlas.staging import Build, open_build
from atlas.stores import Progress, Store, open_store

__all__ = ["AtlasError", "Build", "Store", "load", "open", "open_build"]


def open(
    store: str | Path | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    database: str | None = None,
    timeout: float = 30,
) -> Store:
    """Open an atlas for reading: a folder, or an address such as ``bolt://localhost:7687``.

    Without arguments, the store that the environment or ``atlas.toml`` names, else the folder in the user's data
    directory. ``timeout`` is in seconds, for each query. Raises :class:`atlas.errors.NoAtlas` where there is none.
    """
    return open_store(store, user=user, password=password, database=database, timeout=timeout)


def load(build: Build | str | Path, store: Store | str | Path | None = None, progress: Progress | None = None) -> None:
    """Load a finished build into a store: a folder, an address, or a store opened for writing. Needs no torch."""
    finished = build if isinstance(build, Build) else open_build(build)
    if store is None or isinstance(store, str | Path):
        with open_store(store, read_only=False) as opened:
            opened.create()
            opened.add(finished, progress)
    else:
        store.add(finished, progress)
