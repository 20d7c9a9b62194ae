"""The embedded store: one engine file in a folder, a cache of staged builds, swapped in whole.

::

    FOLDER/
      VERSION              JSON: format, engine, which generation counts, the builds in it; replaced atomically, last
      LOCK                 held by the one writer
      generations/N/       atlas.lbug, search.sqlite, adjacency/SET/

A change is made in a new generation beside the one that counts: readers keep the old files until they open anew, and
whatever dies on the way leaves the old atlas. ``ladybug`` 0.20.4 is pinned: with its plan cache off it passed every
query of ``tests/conformance``; later versions return rows of earlier calls.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import ladybug
import pandas as pd
import pyarrow as pa

from atlas import schema, staging
from atlas.descriptions.loading import changes
from atlas.errors import (
    BadBuild,
    BadKey,
    BadQuery,
    NoAtlas,
    NoSpace,
    QueryTimeout,
    StoreError,
    StoreLocked,
    StoreVersion,
    WriteRefused,
)
from atlas.observed import observed
from atlas.staging import Build, open_build
from atlas.stores import Progress, adjacency, embedded_describe, fulltext, readonly
from atlas.stores.embedded_rows import copy_rows, load_build, saved_rows

FORMAT = 1
ENGINE = metadata.version("ladybug")
_POOL = 1 << 30
_HOW = "`atlas ingest bunny` makes one from the bundled model"


def connect(path: Path, *, read_only: bool, timeout: float = 0) -> tuple[ladybug.Database, ladybug.Connection]:
    """The only place that opens the engine: plan cache off, a bounded buffer pool, a time-out (seconds; 0 is none)."""
    database = ladybug.Database(str(path), read_only=read_only, buffer_pool_size=_POOL)
    connection = ladybug.Connection(database)
    connection.execute("CALL enable_cached_prepared_statement='NONE'")
    setting = connection.execute("CALL current_setting('enable_cached_prepared_statement') RETURN *").get_next()[0]
    if str(setting).upper() != "NONE":
        raise StoreError(f"the embedded engine kept its plan cache ({setting}); its answers cannot be trusted")
    if timeout:
        connection.set_query_timeout(int(timeout * 1000))
    return database, connection


class EmbeddedStore:
    """An atlas in a folder; see :class:`atlas.stores.Store` for what each method promises."""

    dialect = "embedded"

    def __init__(self, folder: Path, *, read_only: bool = True, timeout: float = 30) -> None:
        self._folder, self.read_only, self._timeout = folder.absolute(), read_only, timeout
        self.address = str(folder)
        self._open: tuple[ladybug.Database, ladybug.Connection] | None = None
        self._lock: Any = None
        if read_only:
            self._state = self._version()
            self._connect()
        else:
            self._take_lock()
            try:
                self._state = self._version() if self._marker.exists() else self._new_state()
            except StoreVersion:
                self._rebuild_from_builds()
            except BaseException:
                self.close()
                raise

    # -- asking ------------------------------------------------------------------------------------------------------

    def run(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        return self._frame(self._execute(query, parameters, self._timeout))

    def ask(
        self, query: str, parameters: Mapping[str, Any], *, timeout: float, max_rows: int
    ) -> tuple[pd.DataFrame, bool]:
        readonly.check(query, parameters)
        found = self._execute(query, {name: parameters[name] for name in _named(query, parameters)}, timeout)
        total = found.get_num_tuples()
        frame = self._frame(found)
        return frame.head(max_rows), total <= max_rows

    def fulltext(self, text: str, *, limit: int) -> pd.DataFrame:
        return fulltext.search(self._current / "search.sqlite", text, limit)

    def adjacency(self, set_key: str) -> adjacency.Adjacency:
        for entry in self._state["builds"]:
            if entry["set"] == set_key:
                return adjacency.read(self._current / "adjacency" / set_key.replace("/", "@"), entry["run"])
        raise BadKey(f"{set_key!r} is no set of {self.address}; `atlas sets` lists them")

    # -- changing ----------------------------------------------------------------------------------------------------

    def create(self) -> None:
        self._writing()
        if not self._marker.exists():
            with self._generation(copy=False) as (folder, connection):
                self._tables(connection)
                self._index(folder, connection)

    def add(self, build: Build, progress: Progress | None = None) -> None:
        self._writing()
        self.create()
        build = observed(build)
        known = {entry["set"]: entry for entry in self._state["builds"]}
        same = {"run": build.run, "observation": build.says}
        if build.set_key in known and same.items() <= known[build.set_key].items():
            return
        replaces = build.set_key in known
        with self._generation(copy=not replaces, drop=[build.set_key]) as (folder, connection):
            if replaces:
                self._carry_over(connection, {build.set_key})
            load_build(connection, build, progress)
            self._index(folder, connection)
            adjacency.write(build, folder / "adjacency" / build.set_key.replace("/", "@"))
            counts = {kind: build.rows(f"edges/{kind}/") for kind in staging.WEIGHTED}
            entry = {
                "set": build.set_key,
                **same,
                "path": str(build.path.absolute()),
                "counts": {"Feature": sum(build.features_per_layer), **counts},
            }
            self._state["builds"] = [*(e for e in self._state["builds"] if e["set"] != build.set_key), entry]

    def describe(self, build: Build, progress: Progress | None = None) -> bool:
        self._writing()
        if self._open is None and self._marker.exists():
            self._connect()
        found = changes(self, build) if self._open else None
        if found:
            with self._generation(copy=True) as (folder, connection):
                embedded_describe.apply(connection, found, progress)
                self._index(folder, connection)
        return found is not None

    def remove(self, model: str, set: str | None = None, progress: Progress | None = None) -> int:
        self._writing()
        held = [entry["set"] for entry in self._state["builds"]]
        gone = [key for key in held if key == f"{model}/{set}" or (set is None and key.startswith(f"{model}/"))]
        if not gone:
            asked = model if set is None else f"{model}/{set}"
            raise BadKey(f"{asked!r} is not in {self.address}; it holds {', '.join(held) or 'nothing'}")
        before = self._nodes(self._current / "atlas.lbug")
        with self._generation(copy=False, drop=gone) as (folder, connection):
            self._carry_over(connection, {*gone})
            self._index(folder, connection)
            self._state["builds"] = [entry for entry in self._state["builds"] if entry["set"] not in gone]
        return before - self._nodes(self._current / "atlas.lbug")

    def doctor(self, *, mend: bool = False) -> pd.DataFrame:
        rows = [("engine", self.address, ENGINE, self._state["engine"], "")]
        for entry in self._state["builds"]:
            key = entry["set"]
            for kind, expected in entry["counts"].items():
                rows.append((f"{kind} of set", key, str(expected), str(self._count(kind, key)), "load the build again"))
            path = Path(entry["path"])
            found = "finished" if (path / "manifest.json").exists() else "gone"
            advice = "" if found == "finished" else "the store answers; to load it elsewhere, ingest it again"
            rows.append(("staged build", key, "finished", found, advice))
            rows.append(("adjacency", key, entry["run"], self._adjacency_run(key), "atlas doctor --mend"))
        held = {row[0] for row in self._execute("MATCH (s:TranscoderSet) RETURN s.key", {}, 0).get_all()}
        listed = {entry["set"] for entry in self._state["builds"]}
        rows.append(("sets", self.address, str(sorted(listed)), str(sorted(held)), "load the builds again"))
        left = sorted(path.name for path in self._left_over())
        rows.append(("left-over generations", self.address, "[]", str(left), "atlas doctor --mend"))
        findings = []
        for check, subject, expected, found, advice in rows:
            state = "right" if expected == found or (check == "staged build" and found == "gone") else "wrong"
            if state == "wrong" and mend and self._mend(check, subject):
                state = "mended"
            findings.append((check, subject, expected, found, state, "" if state == "right" else advice))
        columns = ["check", "subject", "expected", "found", "state", "advice"]
        return pd.DataFrame(findings, columns=columns).astype("str")

    def close(self) -> None:
        if self._open:
            database, connection = self._open
            connection.close()
            database.close()
            self._open = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- generations -------------------------------------------------------------------------------------------------

    @property
    def _marker(self) -> Path:
        return self._folder / "VERSION"

    @property
    def _current(self) -> Path:
        return self._folder / "generations" / str(self._state["generation"])

    def _new_state(self) -> dict[str, Any]:
        return {"format": FORMAT, "engine": ENGINE, "generation": 0, "builds": []}

    def _version(self) -> dict[str, Any]:
        if not self._folder.exists():
            raise NoAtlas(f"there is no atlas at {self.address}; {_HOW}")
        try:
            state = json.loads(self._marker.read_text())
            engine, form = state["engine"], state["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise NoAtlas(f"{self.address} is not an atlas (it has no readable VERSION); {_HOW}") from None
        if (engine, form) != (ENGINE, FORMAT):
            raise StoreVersion(
                f"{self.address} was written by engine {engine}, format {form}; this is engine {ENGINE}, format "
                f"{FORMAT}: `atlas doctor --mend` rebuilds it from its builds"
            )
        return state

    @contextmanager
    def _generation(self, *, copy: bool, drop: Iterable[str] = ()) -> Iterator[tuple[Path, ladybug.Connection]]:
        """A new generation to write into; it counts once the block ends, and is gone if the block fails."""
        old, before = self._current, json.loads(json.dumps(self._state))
        number = 1 + max((int(path.name) for path in self._generations()), default=0)
        folder = self._folder / "generations" / str(number)
        database = connection = None
        try:
            (folder / "adjacency").mkdir(parents=True)
            if copy:
                shutil.copyfile(old / "atlas.lbug", folder / "atlas.lbug")
            for entry in self._state["builds"]:
                name = entry["set"].replace("/", "@")
                if entry["set"] not in drop and (old / "adjacency" / name).exists():
                    shutil.copytree(old / "adjacency" / name, folder / "adjacency" / name, copy_function=os.link)
            database, connection = connect(folder / "atlas.lbug", read_only=False)
            yield folder, connection
            connection.execute("CHECKPOINT")
            connection.close()
            database.close()
            self._state |= {"generation": number, "engine": ENGINE, "format": FORMAT}
            beside = self._folder / "VERSION.new"
            beside.write_text(json.dumps(self._state, indent=1))
            os.replace(beside, self._marker)
        except BaseException as error:
            for opened in (connection, database):
                with suppress(Exception):
                    opened.close()
            shutil.rmtree(folder, ignore_errors=True)
            self._state = before
            raise self._translated(error) from error
        self._connect()
        for path in self._left_over():
            shutil.rmtree(path, ignore_errors=True)

    def _generations(self) -> list[Path]:
        folder = self._folder / "generations"
        return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []

    def _left_over(self) -> list[Path]:
        return [path for path in self._generations() if path.name != str(self._state["generation"])]

    def _tables(self, connection: ladybug.Connection) -> None:
        for statement in schema.embedded_ddl():
            connection.execute(statement)

    def _carry_over(self, connection: ladybug.Connection, without: set[str]) -> None:
        self._tables(connection)
        database, old = connect(self._current / "atlas.lbug", read_only=True)
        try:
            for name, table in saved_rows(old, without):
                copy_rows(connection, name, table)
        finally:
            old.close()
            database.close()

    def _index(self, folder: Path, connection: ladybug.Connection) -> None:
        (folder / "search.sqlite").unlink(missing_ok=True)
        rows = (
            (row[0], row[1], matched_by)
            for query, matched_by in (
                ("MATCH (n:Feature) RETURN n.key, n.label", "label"),
                ("MATCH (n:Token) RETURN n.key, n.text", "token"),
                ("MATCH (f:Feature)-[:DESCRIBED_BY]->(d:Description) RETURN f.key, d.text", "description"),
            )
            for row in _rows(connection.execute(query))
        )
        fulltext.write(folder / "search.sqlite", rows)

    def _rebuild_from_builds(self) -> None:
        """What another engine wrote cannot be read: load its builds anew."""
        state = json.loads(self._marker.read_text())
        try:
            builds = [open_build(entry["path"]) for entry in state.get("builds", [])]
        except BadBuild as error:
            self.close()
            raise StoreVersion(
                f"{self.address} was written by engine {state.get('engine')} and cannot be rebuilt: {error}"
            ) from error
        self._state = self._new_state()
        self._marker.unlink()
        for build in builds:
            self.add(build)

    # -- the engine --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._open:
            database, connection = self._open
            connection.close()
            database.close()
        for attempt in (1, 2, 3):
            try:
                self._open = connect(self._current / "atlas.lbug", read_only=True, timeout=self._timeout)
                return
            except RuntimeError as error:
                # The generation was replaced between reading VERSION and opening it.
                if attempt == 3:
                    raise NoAtlas(f"{self.address} cannot be opened: {error}") from error
                self._state = self._version()

    def _execute(self, query: str, parameters: Mapping[str, Any], timeout: float) -> ladybug.QueryResult:
        if self._open is None:
            raise NoAtlas(f"{self.address} holds nothing yet; {_HOW}")
        connection = self._open[1]
        clock = threading.Timer(timeout, connection.interrupt) if timeout else None
        if clock:
            connection.set_query_timeout(int(timeout * 1000))
            clock.start()
        try:
            return connection.execute(query, dict(parameters))
        except RuntimeError as error:
            raise self._translated(error, timeout) from error
        finally:
            if clock:
                clock.cancel()

    def _translated(self, error: BaseException, timeout: float = 0) -> BaseException:
        text = str(error)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC or "No space left" in text:
            return NoSpace(f"no space left for {self.address}; nothing was changed. Free some and run the same again")
        if not isinstance(error, RuntimeError):
            return error
        if "Interrupted" in text:
            return QueryTimeout(f"the query ran past {timeout:g} s; narrow it, or give it longer with --timeout")
        if "read-only database" in text:
            return WriteRefused("only reading is allowed here: the atlas is open read-only")
        if any(kind in text for kind in ("Parser exception", "Binder exception", "Catalog exception", "Runtime ex")):
            return BadQuery(f"the query cannot be answered: {text.splitlines()[0][:300]}")
        return error

    def _frame(self, found: ladybug.QueryResult) -> pd.DataFrame:
        if isinstance(found, list):
            raise BadQuery("several statements in one query; ask them one at a time")
        table = found.get_as_arrow(500_000)
        found.close()
        return table.to_pandas(types_mapper=_pandas_type)

    def _count(self, kind: str, key: str) -> int:
        owner = {"Feature": "MATCH (b:Feature)", "ACTIVATES": "MATCH (:Token)-[:ACTIVATES]->(b:Feature)"}
        other = {
            "FEEDS": "MATCH (:Feature)-[:FEEDS]->(b:Feature)",
            "PROMOTES": "MATCH (b:Feature)-[:PROMOTES]->(:Token)",
        }
        match = (owner | other)[kind]
        return self._execute(f"{match} WHERE b.set = $set RETURN count(*)", {"set": key}, 0).get_next()[0]

    def _adjacency_run(self, key: str) -> str:
        try:
            return self.adjacency(key).run
        except BadBuild:
            return "unreadable"

    def _mend(self, check: str, subject: str) -> bool:
        """Put one finding right, where the staged builds or a sweep can."""
        self._writing()
        if check == "left-over generations":
            for path in self._left_over():
                shutil.rmtree(path)
            return True
        paths = [Path(entry["path"]) for entry in self._state["builds"] if entry["set"] == subject]
        if not paths or not (paths[0] / "manifest.json").exists():
            return False
        for entry in self._state["builds"]:
            if entry["set"] == subject:
                entry["run"] = "to be loaded again"
        self.add(open_build(paths[0]))
        return True

    def _nodes(self, path: Path) -> int:
        database, connection = connect(path, read_only=True)
        try:
            return sum(
                connection.execute(f"MATCH (n:{node.label}) RETURN count(*)").get_next()[0] for node in schema.NODES
            )
        finally:
            connection.close()
            database.close()

    def _writing(self) -> None:
        if self.read_only:
            raise StoreError(f"{self.address} was opened for reading; open it with read_only=False to change it")

    def _take_lock(self) -> None:
        if (
            self._folder.exists()
            and not self._marker.exists()
            and any(path.name not in ("LOCK", "generations", "VERSION.new") for path in self._folder.iterdir())
        ):
            raise NoAtlas(f"{self.address} holds other files and is not an atlas; give an empty or a new folder")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "LOCK").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise StoreLocked(
                f"another process is writing to {self.address}; wait for it to end, then try again"
            ) from None


def _rows(found: ladybug.QueryResult) -> Iterator[list[Any]]:
    while found.has_next():
        yield found.get_next()


def _named(query: str, parameters: Mapping[str, Any]) -> list[str]:
    return [name for name in parameters if f"${name}" in query]


def _pandas_type(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return pd.StringDtype(na_value=float("nan"))
    if pa.types.is_nested(kind):
        return pd.ArrowDtype(kind)
    return None
