"""Where graphs live, behind one contract.

A store holds many models side by side. It answers Cypher, takes in finished builds and lets them go; loading and
asking need no torch. Staged builds are the truth, a store is a cache of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from atlas import settings

if TYPE_CHECKING:
    import pandas as pd

    from atlas.matches import Matches
    from atlas.staging import Build
    from atlas.stores.adjacency import Adjacency
    from atlas.vectors import Vectors

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is); the unit is rows."""
Meanings = Callable[[Sequence[str]], Sequence[list[float] | None]]
"""Unit vectors of labels and descriptions as they stand in the graph; None for one that says nothing."""


class Store(Protocol):
    """What every store can do. ``tests/conformance`` holds each to this contract, row for row."""

    dialect: str
    """``embedded`` or ``neo4j``: which folder of ``queries/cypher`` may override a query"""
    address: str
    """the folder or the server's address, as a person would write it"""
    read_only: bool

    def run(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        """Answer a query of ours: one typed column for each name it returns, no row left out.

        Raises BadQuery, QueryTimeout, StoreUnreachable.
        """
        ...

    def rows(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """The same as plain data, None for what is missing: most of a small question's time goes into its frame."""
        ...

    def version(self) -> Hashable:
        """Another value as soon as a reader could see a difference in what the store holds."""
        ...

    def ask(
        self, query: str, parameters: Mapping[str, Any], *, timeout: float, max_rows: int
    ) -> tuple[pd.DataFrame, bool]:
        """Answer somebody else's Cypher, which may only read, and say whether the answer is whole.

        At most ``max_rows`` rows come back; the flag is False where there were more.
        Raises BadQuery, WriteRefused, QueryTimeout (seconds).
        """
        ...

    def create(self) -> None:
        """Make tables, constraints and indexes where they are missing; harmless to repeat."""
        ...

    def add(self, build: Build, progress: Progress | None = None) -> None:
        """Load a finished build; readers see nothing of it until it is complete.

        The same run again changes nothing; another run of the same set replaces the old one.
        """
        ...

    def describe(self, build: Build, progress: Progress | None = None) -> bool:
        """Say of a loaded build's features what is staged beside it (:mod:`atlas.descriptions`), labels included.

        Descriptions that are no longer staged go. The same again changes nothing. False where the atlas does not hold
        this build.
        """
        ...

    def match(self, matches: Matches, progress: Progress | None = None) -> None:
        """Keep matches of two sets, in place of those that the same method found before; they go with either set.

        The same again changes nothing. Raises BadKey where a set is not here as it was when they were compared.
        """
        ...

    def remove(self, model: str, set: str | None = None, progress: Progress | None = None) -> int:
        """Take out a set, or a model with all its sets, and what nothing else uses. Returns nodes removed.

        Raises BadKey where the atlas does not hold it.
        """
        ...

    def fulltext(self, text: str, *, limit: int) -> pd.DataFrame:
        """Features and tokens whose label, description or text matches what a person typed.

        Columns ``key``, ``type`` (the node's label), ``text`` (what matched), ``matched_by`` (label, description or
        token), ``score`` (higher is better); best first, ties by key. Every word must match, as a prefix at least.
        """
        ...

    def index_meaning(
        self, set_key: str, encoder: str, width: int, vectors: Meanings, progress: Progress | None = None
    ) -> int | None:
        """Put vectors of all that is said of a set into an index of the store's own; returns how many there are.

        The same again changes nothing. None from a store that has no such index: a folder, beside which vectors are
        kept. Raises BadKey for no set, BadSetting where the encoder's index has vectors of another width.
        """
        ...

    def by_meaning(
        self, sets: Sequence[str], encoder: str, vector: Sequence[float], *, layers: tuple[int, int], k: int
    ) -> pd.DataFrame | None:
        """The ``k`` features of some sets and layers that are nearest to a unit vector, by that index.

        Columns ``key, layer, text, matched_by`` (label or description), ``score`` (cosine); best first, ties by key.
        None where vectors of what is now said are not all there, or the index cannot tell the ``k`` nearest.
        """
        ...

    def adjacency(self, set_key: str, *, heads: bool = False) -> Adjacency:
        """The kept edges of one set as a compact, memory-mapped adjacency that names the run it belongs to.

        With ``heads`` those through attention heads too; raises BadSetting where none are kept.
        """
        ...

    def vectors(self, set_key: str) -> Vectors:
        """The vectors with which a set's features read and write, memory-mapped; they name the run they belong to.

        Raises BadKey for no set, and BadBuild where it was built without, or a server's build is not on this machine.
        """
        ...

    def doctor(self, *, mend: bool = False) -> pd.DataFrame:
        """Compare what is loaded with the manifests it came from; with ``mend``, put right what can be.

        Columns ``check, subject, expected, found, state, advice``, all text; state is right, wrong or mended.
        Checks: the store's version, each set's counts of nodes and edges by kind, half-loaded or left-over sets,
        tokens without a user, the full-text index, the adjacency, the vectors, builds that are gone.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_store(
    store: str | Path | None = None,
    *,
    read_only: bool = True,
    user: str | None = None,
    password: str | None = None,
    database: str | None = None,
    timeout: float = 30,
) -> Store:
    """Open a folder or a server. ``read_only=False`` makes an absent folder; ``timeout`` (seconds) holds per query.

    Raises NoAtlas, StoreVersion, StoreLocked, StoreUnreachable.
    """
    resolved = settings.load(store)
    if settings.is_address(resolved.store):
        from atlas.stores.neo4j import Neo4jStore

        return Neo4jStore(
            resolved.store,
            user=user or resolved.neo4j_user,
            password=password or resolved.neo4j_password,
            database=database or resolved.neo4j_database,
            read_only=read_only,
            timeout=timeout,
        )
    from atlas.stores.embedded.store import EmbeddedStore

    return EmbeddedStore(Path(resolved.store), read_only=read_only, timeout=timeout)
