"""Published transcoders: one layout a file, all read into :class:`ingest.transcoder.Transcoder`.

A reader is a module with three names: ``LAYOUT`` (what it looks for, in words), ``recognises(folder)`` and
``open_set(folder, layers, model)``, which returns a :class:`ingest.transcoder.TranscoderSource`. To read another
layout, write one and add it to :data:`READERS`; the first that recognises a folder reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import BadTranscoder, Unreachable
from ingest.folders import Folder, HubFolder, open_folder
from ingest.sources import (
    circuit_tracer,
    gemma_scope,
    gemma_scope_2,
    known,
    llama_scope_2,
    pchlenski,
    saelens,
    saelens_release,
    sparsify,
)
from ingest.sources.memory import InMemory
from ingest.sources.tensors import PICKLES, keep, pickled
from ingest.transcoder import Transcoder, TranscoderSource

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

READERS = (circuit_tracer, sparsify, saelens, gemma_scope, gemma_scope_2, llama_scope_2, pchlenski)

__all__ = ["READERS", "InMemory", "open_transcoders", "resolved"]


def open_transcoders(
    spec: Any,
    layers: list[int] | None = None,
    *,
    model: ModelWeights | None = None,
    allow_pickle: bool = False,
) -> TranscoderSource:
    """A set of transcoders, of which nothing but headers is read yet.

    ``spec``: a local folder, a hub ``repo[/folder][@revision]``, ``saelens:RELEASE[:PATTERN]``, or a dict by layer of
    SAELens objects or :class:`ingest.transcoder.Transcoder`; or one of circuit-tracer's aliases
    (:data:`ingest.sources.known.ALIASES`). ``layers`` keeps some; ``model`` settles what a hook name means where that
    depends on the model. ``allow_pickle`` reads the one layout that is kept as pickles, with the code left out.

    Raises :class:`atlas.errors.BadTranscoder` for a folder without transcoders, files that contradict themselves or are
    cut short, an unknown site, a TopK set without its k, pickles, and layers that are not there;
    :class:`atlas.errors.Unreachable` for a hub name with no network and no cache.
    """
    if isinstance(spec, Mapping):
        kept = keep(spec, layers, "the set")
        if all(isinstance(given, Transcoder) for given in kept.values()):
            return InMemory(kept)
        return saelens.from_objects(kept, model)
    if isinstance(spec, str) and spec.startswith(saelens_release.PREFIX):
        return saelens_release.open_release(spec, layers, model)
    if isinstance(spec, str | Path):
        folder = open_folder(resolved(spec))
        if layers is None and isinstance(folder, HubFolder) and not folder.whole:
            raise Unreachable(
                f"the hub cannot be reached ({folder.unreachable}), and the cache does not know whether it has all "
                f"layers of {folder.where}; say which you want (--layers), or connect once"
            )
        for reader in READERS:
            if reader is pchlenski and reader.recognises(folder):
                return pchlenski.open_set(folder, layers, model, allow_pickle)
            if reader.recognises(folder):
                return reader.open_set(folder, layers, model)
        raise _nothing(folder)
    raise BadTranscoder(
        f"transcoders are a path, a hub repo, saelens:RELEASE, or a dict of them by layer, not {type(spec).__name__}"
    )


def resolved(spec: str | Path) -> str | Path:
    """An alias as the repository it means today; anything else as it is. A folder of that name wins."""
    return known.ALIASES.get(spec, spec) if isinstance(spec, str) and not Path(spec).is_dir() else spec


def _nothing(folder: Folder) -> BadTranscoder:
    names = folder.names()
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return pickled(pickles[0])
    return BadTranscoder(
        f"{folder.where} holds no transcoders: looked for {'; or '.join(reader.LAYOUT for reader in READERS)}; found "
        f"{', '.join(names[:5]) or 'nothing'}"
    )
