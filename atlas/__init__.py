"""What a feature is and where graphs live.

::

    with atlas.open() as graph:
        graph.run("MATCH (f:Feature {model: $model}) RETURN count(f) AS n", model="bunny")

What needs pandas or an engine is imported when it is first used: ``atlas --help`` waits for neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError

if TYPE_CHECKING:
    from atlas.staging import Build, open_build
    from atlas.stores import Progress, Store

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
    from atlas.stores import open_store

    return open_store(store, user=user, password=password, database=database, timeout=timeout)


def load(build: Build | str | Path, store: Store | str | Path | None = None, progress: Progress | None = None) -> None:
    """Load a finished build into a store: a folder, an address, or a store opened for writing. Needs no torch.

    Descriptions that are staged beside it are loaded with it.
    """
    from atlas.staging import Build, open_build
    from atlas.stores import open_store

    finished = build if isinstance(build, Build) else open_build(build)
    if store is None or isinstance(store, str | Path):
        with open_store(store, read_only=False) as opened:
            opened.create()
            _add(finished, opened, progress)
    else:
        _add(finished, store, progress)


def _add(build: Build, store: Store, progress: Progress | None) -> None:
    from atlas import descriptions

    store.add(build, progress)
    if descriptions.staged(build):
        store.describe(build, progress)


def __getattr__(name: str) -> Any:
    if name in ("Build", "open_build"):
        from atlas import staging

        return getattr(staging, name)
    if name == "Store":
        from atlas.stores import Store

        return Store
    raise AttributeError(f"module 'atlas' has no attribute {name!r}")
