"""The store: what every reader and writer calls, put together from the modules beside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import neo4j
import pandas as pd
from neo4j.exceptions import ClientError, Neo4jError

from atlas.descriptions.loading import changes
from atlas.errors import BadKey, BadQuery, StoreError, StoreLocked
from atlas.matches import Matches
from atlas.observed import Observed, observed
from atlas.staging import Build
from atlas.stores import Meanings, Progress
from atlas.stores.neo4j import (
    clashes,
    connection,
    describe,
    doctor,
    fetched,
    fulltext,
    load,
    matching,
    meaning,
    publish,
    readonly,
    state,
    sweep,
)
from atlas.stores.neo4j.connection import OUT_OF_MEMORY, Place
from atlas.stores.neo4j.frames import frame, plain
from atlas.stores.neo4j.importfiles import restoring

if TYPE_CHECKING:
    from atlas.stores.adjacency import Adjacency
    from atlas.vectors import Vectors

_POLL_SECONDS = 0.05
_ROWS = 10_000
_SETS = "MATCH (s:TranscoderSet) WHERE s.model = $model RETURN s.key AS key, s.name AS name ORDER BY key"
_ALL = "MATCH (s:TranscoderSet) RETURN s.key AS key ORDER BY key"
_LOADED = """
MATCH (s:TranscoderSet {key: $set}), (a:AtlasSet {key: $set})
WHERE s.run = $run AND s.observation = $observation
RETURN s.key AS key
"""
T = TypeVar("T")
Rows = tuple[list[str], list[list[Any]], bool]


class _Moved(Exception):
    """A set was published or withdrawn while a query ran. ``settled``: and is done, ask again at once."""

    def __init__(self, *, settled: bool) -> None:
        self.settled = settled


def _writes(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def wrapper(self: Neo4jStore, *args: Any, **kwargs: Any) -> T:
        if self.read_only:
            raise StoreError(f"{self.address} was opened for reading; open it with read_only=False to change it")
        with connection.translated(self._place):
            return method(self, *args, **kwargs)

    return wrapper


class Neo4jStore:
    """An atlas on a Neo4j server, 5.26 or newer; see :class:`atlas.stores.Store` for what each method promises.

    ``timeout`` (seconds) holds for each query. One driver serves all stores of a process that name the same server.
    Raises StoreUnreachable where no fit server answers or it refuses the credentials, NoAtlas where there is nothing to
    read.
    """

    dialect = "neo4j"

    def __init__(
        self,
        address: str,
        *,
        user: str = "neo4j",
        password: str = "",
        database: str | None = None,
        read_only: bool = True,
        timeout: float = 30,
    ) -> None:
        self.address = address
        self.read_only = read_only
        self._timeout = timeout
        self._seen: tuple[str, int] | None = None
        """the version that the latest answer is of"""
        asked = Place(address, user, password, database)
        self._driver = connection.acquire(asked)
        self._place = asked
        try:
            self._database = connection.check(self._driver, asked)
            if read_only:
                with connection.translated(asked), self._session() as session:
                    session.execute_read(lambda tx: state.read(tx, address))
        except BaseException:
            self.close()
            raise

    def run(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        columns, rows, _ = self._settled(functools.partial(self._managed, query, parameters), self._timeout)
        return frame(columns, rows)

    def rows(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        columns, rows, _ = self._settled(functools.partial(self._managed, query, parameters), self._timeout)
        return [dict(zip(columns, map(plain, row), strict=True)) for row in rows]

    def version(self) -> tuple[str, int]:
        def ask() -> tuple[str, int]:
            with self._session() as session:
                return session.execute_read(self._now).version

        return self._settled(ask, self._timeout)

    def ask(
        self, query: str, parameters: Mapping[str, Any], *, timeout: float, max_rows: int
    ) -> tuple[pd.DataFrame, bool]:
        try:
            columns, rows, whole = self._settled(
                functools.partial(self._foreign, query, parameters, timeout, max_rows), timeout
            )
        except BadQuery as error:
            if isinstance(error.__cause__, ClientError):
                raise type(error)(readonly.positioned(str(error))) from error.__cause__
            raise
        return frame(columns, rows), whole

    @_writes
    def create(self) -> None:
        with self._session(neo4j.WRITE_ACCESS) as session:
            state.create(session)

    @_writes
    def add(self, build: Build, progress: Progress | None = None) -> None:
        show = progress or _silent
        with state.writing(self._driver, self._database, self.address, f"loading {build.set_key}") as writer:
            sweep.sweep(writer, show)
            seen = observed(build)
            if not writer.run(_LOADED, set=seen.set_key, run=seen.run, observation=seen.says):
                self._load(writer, seen, show)

    @_writes
    def restore_empty_texts(self, found: Mapping[tuple[str, str], list[str]]) -> None:
        """Make text properties the empty text: keys by label and property; an importer drops them."""
        with state.writing(self._driver, self._database, self.address, "finishing an import") as writer:
            for (label, name), keys in found.items():
                for first in range(0, len(keys), _ROWS):
                    writer.run(restoring(label, name), keys=keys[first : first + _ROWS])

    @_writes
    def remove(self, model: str, set: str | None = None, progress: Progress | None = None) -> int:
        show = progress or _silent
        what = f"{model}/{set}" if set else model
        with state.writing(self._driver, self._database, self.address, f"removing {what}") as writer:
            held = {record["name"]: record["key"] for record in writer.run(_SETS, model=model)}
            chosen = [key for name, key in held.items() if set in (None, name)]
            half = [
                one
                for one in load.under_way(writer)
                if one.set == what or (not set and one.set.startswith(f"{model}/"))
            ]
            if not chosen and not half:
                every = ", ".join(record["key"] for record in writer.run(_ALL)) or "nothing"
                raise BadKey(f"{what!r} is not in {self.address}; it holds {every}")
            for one in half:
                sweep.forget(writer, one)
            removed = publish.withdraw(writer, model, chosen)
            sweep.sweep(writer, show)
            return removed

    @_writes
    def describe(self, build: Build, progress: Progress | None = None) -> bool:
        show = progress or _silent
        with state.writing(self._driver, self._database, self.address, f"describing {build.set_key}") as writer:
            sweep.sweep(writer, show)
            found = changes(self, build)
            if found is None:
                return False
            describe.apply(writer, build.set_key, found, show)
            sweep.sweep(writer, show)
            return True

    @_writes
    def match(self, matches: Matches, progress: Progress | None = None) -> None:
        with state.writing(self._driver, self._database, self.address, f"matching {matches.a}") as writer:
            sweep.sweep(writer, progress or _silent)
            matches.check(self)
            if not matches.kept_in(self):
                matching.apply(writer, matches, progress or _silent)

    def fulltext(self, text: str, *, limit: int) -> pd.DataFrame:
        words, typed = fulltext.asked(text)
        if not words:
            return fulltext.frame([], typed, limit)
        asked = functools.partial(self._managed, fulltext.QUERY, fulltext.parameters(words, typed, limit))
        return fulltext.frame(self._settled(asked, self._timeout)[1], typed, limit)

    @_writes
    def index_meaning(
        self, set_key: str, encoder: str, width: int, vectors: Meanings, progress: Progress | None = None
    ) -> int | None:
        show = progress or _silent
        with state.writing(self._driver, self._database, self.address, f"indexing {set_key}") as writer:
            sweep.sweep(writer, show)
            return meaning.write(writer, set_key, encoder, width, vectors, show)

    def by_meaning(
        self, sets: Sequence[str], encoder: str, vector: Sequence[float], *, layers: tuple[int, int], k: int
    ) -> pd.DataFrame | None:
        return meaning.nearest(self.run, sets, encoder, vector, layers=layers, k=k)

    def adjacency(self, set_key: str, *, heads: bool = False) -> Adjacency:
        return fetched.get(self.run, self.address, set_key, heads=heads)

    def vectors(self, set_key: str) -> Vectors:
        return fetched.vectors(self.run, self.address, set_key)

    def doctor(self, *, mend: bool = False) -> pd.DataFrame:
        with connection.translated(self._place), self._session() as session:
            before = doctor.look(session, self.address)
        if not mend:
            return doctor.table(before)
        self._mend(before)
        with connection.translated(self._place), self._session() as session:
            return doctor.table(doctor.mended(before, doctor.look(session, self.address)))

    def close(self) -> None:
        connection.release(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @_writes
    def _mend(self, findings: list[doctor.Finding]) -> None:
        self.create()
        with state.writing(self._driver, self._database, self.address, "mending") as writer:
            doctor.mend(writer, findings, lambda build: self._load(writer, observed(build), _silent))
            sweep.sweep(writer, _silent)

    def _load(self, writer: state.Writer, build: Observed, show: Progress) -> None:
        clashes.refuse(writer, build)
        begun = load.begin(writer, build)
        for other in load.under_way(writer):
            if other.set == build.set_key and other.key != begun.key:
                sweep.forget(writer, other)
        if begun.state == "loading":
            load.fill(writer, self._place, build, begun, show)
        publish.publish(writer, begun)
        sweep.sweep(writer, show)

    def _session(self, mode: str = neo4j.READ_ACCESS) -> neo4j.Session:
        return self._driver.session(database=self._database, default_access_mode=mode)

    def _settled(self, attempt: Callable[[], T], patience: float) -> T:
        """Ask until nothing was published or withdrawn meanwhile, for at most ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                with connection.translated(self._place):
                    return attempt()
            except _Moved as moved:
                if time.monotonic() > deadline:
                    raise StoreLocked(
                        f"{self.address} is being changed, and has been for {patience:g} s; ask again in a moment"
                    ) from None
                if not moved.settled:
                    time.sleep(_POLL_SECONDS)

    def _managed(self, query: str, parameters: dict[str, Any]) -> Rows:
        def unit(tx: neo4j.ManagedTransaction) -> Rows:
            try:
                return self._between(tx, lambda: _fetch(tx.run(query, parameters), None))  # type: ignore[arg-type]
            except Neo4jError as error:
                if error.code in OUT_OF_MEMORY:  # the driver would try for half a minute what cannot succeed
                    raise connection.meaning(error, self._place) or error from error
                raise

        with self._session() as session:
            return session.execute_read(neo4j.unit_of_work(timeout=self._timeout)(unit))

    def _foreign(self, query: str, parameters: Mapping[str, Any], timeout: float, max_rows: int) -> Rows:
        def ask() -> Rows:
            return _fetch(tx.run(query, dict(parameters)), max_rows)  # type: ignore[arg-type]

        with self._session() as session, session.begin_transaction(timeout=timeout) as tx:
            readonly.check(tx, query, parameters)
            return self._between(tx, ask)

    def _between(self, tx: neo4j.Transaction | neo4j.ManagedTransaction, ask: Callable[[], Rows]) -> Rows:
        before = self._seen or self._now(tx).version  # generations only grow, so an earlier look is as good as one now
        answer = ask()
        self._seen = self._now(tx).version
        if self._seen != before:
            raise _Moved(settled=True)
        return answer

    def _now(self, tx: neo4j.Transaction | neo4j.ManagedTransaction) -> state.Reading:
        """The state, settled. Raises _Moved where a writer is changing it, StoreError where one stopped half-way."""
        found = state.read(tx, self.address)
        if found.settled:
            return found
        if found.alive:
            raise _Moved(settled=False)
        raise StoreError(f"{self.address}: a change stopped half-way; `atlas doctor --mend` finishes it")


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _fetch(result: neo4j.Result, max_rows: int | None) -> Rows:
    columns = result.keys()
    if max_rows is None:
        return list(columns), [record.values() for record in result], True
    rows = [record.values() for record in result.fetch(max_rows + 1)]
    result.consume()
    return list(columns), rows[:max_rows], len(rows) <= max_rows
