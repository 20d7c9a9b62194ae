"""The staged builds of this machine: what is there, what is unfinished, what may go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from atlas import settings
from atlas.errors import BadBuild
from atlas.staging import Build, open_build


def folder(home: str | Path | None = None) -> Path:
    """Where builds are staged: ``ATLAS_HOME/builds``."""
    return settings.load(home=home).builds


def finished(home: str | Path | None = None) -> Iterator[Build]:
    """Every finished build that can be read, by name."""
    for path in _folders(home):
        try:
            yield open_build(path)
        except BadBuild:
            continue


def table(home: str | Path | None = None) -> pd.DataFrame:
    """One row a staged build: ``build, set, state, edges, bytes, run``; state is finished, unfinished or damaged."""
    rows = []
    for path in _folders(home):
        try:
            build = open_build(path)
            rows.append((path.name, build.set_key, "finished", build.n_edges, build.bytes, build.run))
        except BadBuild:
            state = "unfinished" if not (path / "manifest.json").exists() else "damaged"
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            rows.append((path.name, "", state, 0, size, path.name.rpartition("-")[2]))
    return pd.DataFrame(rows, columns=["build", "set", "state", "edges", "bytes", "run"]).astype(
        {"build": "str", "set": "str", "state": "str", "edges": "int64", "bytes": "int64", "run": "str"}
    )


def find(name: str | Path, home: str | Path | None = None) -> Build:
    """A finished build by folder, by its id, or by a model's or set's name when only one build has it.

    Raises :class:`atlas.errors.BadBuild` with what is there.
    """
    path = Path(name)
    if path.is_dir() and ("/" not in str(name) or path.exists()) and (path / "manifest.json").exists():
        return open_build(path)
    staged = folder(home) / str(name)
    if staged.is_dir():
        return open_build(staged)
    matching = [build for build in finished(home) if str(name) in (build.model, build.set_key, build.run)]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(build.id for build in finished(home)) or "none"
    found = "several builds match" if matching else "no build has this name"
    raise BadBuild(f"{str(name)!r}: {found}; finished builds in {folder(home)}: {known}")


def prune(names: list[str], home: str | Path | None = None) -> int:
    """Delete builds by the name of their folder; returns the bytes freed. Raises BadBuild before deleting any."""
    paths = [folder(home) / name for name in names]
    for path in paths:
        if path.parent != folder(home) or not path.is_dir():
            raise BadBuild(f"{path.name!r} is not staged in {folder(home)}; `atlas builds` lists what is")
    freed = sum(file.stat().st_size for path in paths for file in path.rglob("*") if file.is_file())
    for path in paths:
        shutil.rmtree(path)
    return freed


def _folders(home: str | Path | None) -> list[Path]:
    path = folder(home)
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
