"""Writers that die: what a process of its own does to an atlas, and where it is stopped."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError
from atlas.staging import open_build
from atlas.stores import adjacency, open_store
from atlas.stores.embedded import index, rows
from atlas.stores.embedded.folder import Folder

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["atlas.stores.embedded.store"])


def _killed(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        _killed()

    return wrapper


POINTS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "before the first row": (rows, "load", _killed),
    "after the first table": (rows, "_copy", _after(rows._copy)),
    "with all rows in": (rows, "load", _after(rows.load)),
    "in the adjacency": (adjacency, "write", _killed),
    "before the words": (index, "write", _killed),
    "with all but the last step done": (Folder, "commit", _killed),
    "right after the last step": (Folder, "commit", _after(Folder.commit)),
}


def add(folder: Path, build: Path, point: str = "", largest_file: int = 0) -> tuple[int | None, str]:
    """Load a build in a process that dies at a point, or may write no file larger than so many bytes.

    Returns its exit code and the error it raised, if any: ``NoSpace: …``.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_add, args=(folder, build, point, largest_file, sender))
    process.start()
    sender.close()
    process.join(120)
    try:
        said = receiver.recv()
    except EOFError:
        said = ""
    return process.exitcode, said


def _add(folder: Path, build: Path, point: str, largest_file: int, sender: Any) -> None:
    if point:
        owner, name, replacement = POINTS[point]
        setattr(owner, name, replacement)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    try:
        with open_store(folder, read_only=False) as store:
            store.add(open_build(build))
        sender.send("")
    except AtlasError as error:
        sender.send(f"{type(error).__name__}: {error}")
