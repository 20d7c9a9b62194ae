"""The store: what every reader and writer calls, put together from the modules beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import pandas as pd

from atlas import schema, staging, vectors
from atlas.descriptions.loading import changes
from atlas.errors import BadBuild, BadKey, NoAtlas, StoreError, StoreVersion
from atlas.matches import Matches
from atlas.observed import Observed, observed
from atlas.staging import Build, open_build
from atlas.stores import Meanings, Progress, adjacency
from atlas.stores.adjacency import Adjacency
from atlas.stores.embedded import describe, doctor, index, matching, readonly, rows
from atlas.stores.embedded.asking import Asker
from atlas.stores.embedded.engine import Engine
from atlas.stores.embedded.folder import ADJACENCY, GRAPH, INDEX, VECTORS, Folder
from atlas.stores.embedded.frames import to_frame, to_rows
from atlas.vectors import Vectors

_BYTES_AN_EDGE = 120
_BYTES_A_NODE = 1500


class EmbeddedStore:
    """An atlas in a folder; see :class:`atlas.stores.Store` for what each method promises.

    A reader keeps the files it opened, whatever is written meanwhile. A writer holds the folder's lock until it is
    closed, and reads what it wrote. Raises NoAtlas, StoreVersion, StoreLocked, StoreError.
    """

    dialect = "embedded"

    def __init__(self, path: Path, *, read_only: bool = True, timeout: float = 30) -> None:
        self.address, self.read_only, self._timeout = str(path), read_only, timeout
        self._folder = Folder(path)
        self._state: dict[str, Any] = {"generation": 0, "builds": []}
        self._hold: IO[bytes] | None = None
        self._engine: Engine | None = None
        self._index: index.Index | None = None
        self._asker: Asker | None = None
        try:
            if not read_only:
                self._folder.lock()
                self._folder.sweep()
            if read_only or not self._folder.empty:
                self._open()
        except StoreVersion:
            if read_only:
                raise
            self._rebuild()
        except BaseException:
            self.close()
            raise

    def run(self, query: str, /, **parameters: Any) -> pd.DataFrame:
        return to_frame(*self._reading.table(query, parameters))

    def rows(self, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
        return to_rows(*self._reading.table(query, parameters))

    def version(self) -> int:
        return self._state["generation"]

    def ask(
        self, query: str, parameters: Mapping[str, Any], *, timeout: float, max_rows: int
    ) -> tuple[pd.DataFrame, bool]:
        readonly.check(query, parameters)
        given = {name: parameters[name] for name in readonly.used(query)}
        if self._asker is None:
            assert self._reading
            self._asker = Asker(self._current / GRAPH)
        limited = readonly.limited(query, max_rows + 1)
        found, types, whole = self._asker.ask(limited, given, timeout=timeout, max_rows=max_rows)
        return to_frame(found, types), whole

    def fulltext(self, text: str, *, limit: int) -> pd.DataFrame:
        assert self._reading
        if self._index is None:
            self._index = index.Index(self._current / INDEX)
        return self._index.search(text, limit)

    def index_meaning(
        self, set_key: str, encoder: str, width: int, vectors: Meanings, progress: Progress | None = None
    ) -> int | None:
        return None

    def by_meaning(
        self, sets: Sequence[str], encoder: str, vector: Sequence[float], *, layers: tuple[int, int], k: int
    ) -> pd.DataFrame | None:
        return None

    def adjacency(self, set_key: str, *, heads: bool = False) -> Adjacency:
        return adjacency.read(_place(self._current, ADJACENCY, set_key), self._known(set_key)["run"], heads=heads)

    def vectors(self, set_key: str) -> Vectors:
        entry = self._known(set_key)
        if not entry.get("vectors"):
            raise vectors.absent(set_key)
        return vectors.read(_place(self._current, VECTORS, set_key), entry["run"])

    def create(self) -> None:
        self._writing()
        if self._folder.empty:
            with self._change():
                pass

    def add(self, build: Build, progress: Progress | None = None) -> None:
        self._writing()
        build = observed(build)
        held = self._entry(build.set_key)
        if held is None or not _tag(build).items() <= held.items():
            self._add(build, progress or _silent)
        elif vectors.staged(build) and not held.get("vectors"):
            with self._change() as (folder, _):
                vectors.keep(build, _place(folder, VECTORS, build.set_key), _link)

    def describe(self, build: Build, progress: Progress | None = None) -> bool:
        self._writing()
        found = None if self._folder.empty else changes(self, build)
        if found:
            with self._change(anew=frozenset({build.set_key})) as (_, engine):
                describe.apply(engine, found, progress or _silent)
        return found is not None

    def match(self, matches: Matches, progress: Progress | None = None) -> None:
        self._writing()
        matches.check(self)
        if not matches.kept_in(self):
            with self._change() as (_, engine):
                matching.apply(engine, matches)

    def remove(self, model: str, set: str | None = None, progress: Progress | None = None) -> int:
        self._writing()
        asked = model if set is None else f"{model}/{set}"
        held = [entry["set"] for entry in self._state["builds"]]
        gone = {key for key in held if key == asked or (set is None and key.startswith(f"{model}/"))}
        if not gone:
            raise BadKey(f"{asked!r} is not in {self.address}; it holds {', '.join(held) or 'nothing'}")
        before = self._n_nodes()
        with self._change(without=gone, show=progress or _silent):
            pass
        return before - self._n_nodes()

    def doctor(self, *, mend: bool = False) -> pd.DataFrame:
        if mend:
            self._writing()
        findings = doctor.look(self._reading, self._folder, self._state, self._current)
        if not mend or all(finding.state == "right" for finding in findings):
            return doctor.table(findings)
        self._mend(findings)
        return doctor.table(
            doctor.mended(findings, doctor.look(self._reading, self._folder, self._state, self._current))
        )

    def close(self) -> None:
        self._shut()
        self._folder.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def _current(self) -> Path:
        return self._folder.generation(self._state["generation"])

    @property
    def _reading(self) -> Engine:
        if self._engine is None:
            raise NoAtlas(f"{self.address} holds nothing yet; `atlas ingest NAME` makes something to ask")
        return self._engine

    def _entry(self, set_key: str) -> dict[str, Any] | None:
        return next((entry for entry in self._state["builds"] if entry["set"] == set_key), None)

    def _known(self, set_key: str) -> dict[str, Any]:
        entry = self._entry(set_key)
        if entry is None:
            held = ", ".join(entry["set"] for entry in self._state["builds"]) or "nothing"
            raise BadKey(f"{set_key!r} is no set of {self.address}; it holds {held}")
        return entry

    def _writing(self) -> None:
        if self.read_only:
            raise StoreError(f"{self.address} was opened for reading; open it with read_only=False to change it")

    def _open(self) -> None:
        self._shut()
        self._state, self._hold = self._folder.share()
        self._engine = Engine(self._current / GRAPH, read_only=True, timeout=self._timeout)

    def _shut(self) -> None:
        for part in (self._asker, self._index, self._engine, self._hold):
            if part is not None:
                part.close()
        self._asker = self._index = self._engine = self._hold = None

    @contextmanager
    def _change(
        self,
        *,
        build: Build | None = None,
        without: set[str] | None = None,
        anew: frozenset[str] = frozenset(),
        show: Progress = lambda what, done, total: None,
    ) -> Iterator[tuple[Path, Engine]]:
        """Write a new generation in the block; it counts once the block has ended.

        It begins as a copy of this one, or with all of it but the sets ``without``. ``build``: the one that comes in.
        ``anew``: sets whose words changed.
        """
        gone = without or set()
        kept = [entry for entry in self._state["builds"] if entry["set"] not in gone]
        with self._folder.change() as folder:
            self._folder.room(self._needed(build))
            if self._engine and not gone:
                shutil.copyfile(self._current / GRAPH, folder / GRAPH)
            with _opened(folder / GRAPH) as engine:
                if self._engine is None:
                    rows.create(engine)
                elif gone:
                    rows.keep(self._engine, engine, gone, folder, show)
                yield folder, engine
                engine.table("CHECKPOINT")
                for entry in kept:
                    for kind in (ADJACENCY, VECTORS):
                        old = _place(self._current, kind, entry["set"])
                        if old.is_dir():
                            shutil.copytree(old, _place(folder, kind, entry["set"]), copy_function=_link)
                if self._engine and (self._current / INDEX).exists():
                    shutil.copyfile(self._current / INDEX, folder / INDEX)
                index.write(folder / INDEX, engine, anew=anew)
            entries = [*kept, *([_described(build)] if build else [])]
            came = [entry["set"] for entry in entries if _place(folder, VECTORS, entry["set"]).is_dir()]
            self._folder.commit(folder, [one | {"vectors": True} if one["set"] in came else one for one in entries])
        self._open()
        self._folder.sweep()

    def _add(self, build: Observed, show: Progress) -> None:
        gone = {build.set_key} if self._entry(build.set_key) else set()
        with self._change(build=build, without=gone, anew=frozenset(gone), show=show) as (folder, engine):
            rows.load(engine, build, show)
            _write_beside(build, folder)

    def _needed(self, build: Build | None) -> int:
        """Bytes that a new generation takes, about."""
        old = sum(path.stat().st_size for path in (self._current / GRAPH, self._current / INDEX) if path.exists())
        if build is None:
            return old
        nodes = build.n_features + build.n_tokens
        of_vectors = sum(entry["bytes"] for name, entry in build.manifest["files"].items() if name.startswith(VECTORS))
        return old + _BYTES_AN_EDGE * build.n_edges + _BYTES_A_NODE * nodes + of_vectors

    def _n_nodes(self) -> int:
        counts = (self._reading.values(f"MATCH (n:{node.label}) RETURN count(*)") for node in schema.NODES)
        return sum(count[0][0] for count in counts)

    def _rebuild(self) -> None:
        """Load anew what another version wrote and this one cannot read."""
        version = self._folder.version()
        try:
            builds = [open_build(entry["path"]) for entry in version["builds"]]
        except (BadBuild, KeyError, TypeError) as error:
            self.close()
            raise StoreVersion(
                f"{self.address} was written by engine {version['engine']} and cannot be rebuilt ({error}); ingest "
                "again into another folder, or install that engine"
            ) from error
        try:
            self._again(builds)
        except BaseException:
            self.close()
            raise

    def _again(self, builds: list[Build]) -> None:
        """A new generation from staged builds alone."""
        self._shut()
        with self._folder.change() as folder:
            entries = []
            with _opened(folder / GRAPH) as engine:
                rows.create(engine)
                for build in map(observed, builds):
                    rows.load(engine, build, _silent)
                    _write_beside(build, folder)
                    entries.append(_described(build))
                engine.table("CHECKPOINT")
                index.write(folder / INDEX, engine)
            self._folder.commit(folder, entries)
        self._open()
        self._folder.sweep()
        for build in builds:
            self.describe(build)

    def _mend(self, findings: list[doctor.Finding]) -> None:
        """Load anew the sets that something is wrong with, and sweep what is left over."""
        self._folder.sweep()
        subjects = {finding.subject for finding in findings if finding.state == "wrong"}
        for entry in list(self._state["builds"]):
            if entry["set"] in subjects:
                with suppress(BadBuild):  # its build is gone: what is there stays
                    build = observed(open_build(entry["path"]))
                    if build.run == entry["run"]:
                        self._add(build, _silent)
                        self.describe(build)
        listed = {entry["set"] for entry in self._state["builds"]}
        held = {key for (key,) in self._reading.values("MATCH (s:TranscoderSet) RETURN s.key")}
        if held - listed or subjects & {doctor.TOKENS, doctor.WORDS}:
            with self._change(without=(held - listed) or {""}):
                pass


def _place(folder: Path, kind: str, set_key: str) -> Path:
    """Where a generation keeps the adjacency or the vectors of a set."""
    return folder / kind / set_key.replace("/", "@")


def _write_beside(build: Build, folder: Path) -> None:
    """What of a build is kept beside the graph."""
    adjacency.write(build, _place(folder, ADJACENCY, build.set_key))
    if vectors.staged(build):
        vectors.keep(build, _place(folder, VECTORS, build.set_key), _link)


def _tag(build: Observed) -> dict[str, str]:
    """What two loads of one build have in common."""
    return {"run": build.run, "observation": build.says}


def _described(build: Build) -> dict[str, Any]:
    """A build's entry in VERSION."""
    counts = {kind: build.rows(f"edges/{kind}/") for kind in staging.WEIGHTED}
    return {
        "set": build.set_key,
        **_tag(observed(build)),
        "vectors": vectors.staged(build),
        "path": str(build.path.absolute()),
        "counts": {"Feature": build.n_features, "Token": build.n_tokens, **counts},
    }


@contextmanager
def _opened(path: Path) -> Iterator[Engine]:
    engine = Engine(path, read_only=False, timeout=0)
    try:
        yield engine
    finally:
        with suppress(RuntimeError):
            engine.close()


def _link(source: str, target: str) -> str:
    """A second name for a file that is never written again; a copy where the disk knows no such thing."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    return target


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
