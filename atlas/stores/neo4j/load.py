"""Online loading: a build goes into a server that others are using, and nobody sees it until it is whole.

Nodes come first, under the label ``:Loading`` with a number ``row`` of this load's own, so that old and new may stand
side by side under the same keys. Then the relationships, in batches of some ten thousand that never cut a feature's
group in two: a feature is written by one session at a time, which is what keeps parallel sessions from deadlocking.
Publishing (:mod:`atlas.stores.neo4j.publish`) changes the labels.

Every batch leaves a marker node in its own transaction. A batch whose marker exists is done, so a batch that is sent
twice, by a retry or after a crash, changes nothing; a load that died goes on where it stopped.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from atlas.errors import AtlasError, StoreError, StoreUnreachable
from atlas.observed import Observed
from atlas.staging import WEIGHTED, Build
from atlas.stores import Progress
from atlas.stores.neo4j import batches
from atlas.stores.neo4j.batches import Batch, Load
from atlas.stores.neo4j.connection import OUT_OF_MEMORY, UNIQUENESS, Place, meaning
from atlas.stores.neo4j.state import PATIENCE_SECONDS, Lost, Writer

SESSIONS = 2
EDGES_A_BATCH = 10_000
EDGES_A_NODE = 5
"""a node with its properties costs about as much as this many relationships"""

_BEGIN = """
MATCH (s:AtlasState {key: 'state', owner: $owner})
MERGE (l:AtlasLoad {key: $key})
ON CREATE SET s.loads = s.loads + 1, l.number = s.loads + 1, l.state = 'loading', l.batch = $batch,
  l.set = $set, l.build = $build, l.vocabulary = $vocabulary, l.structure = $structure, l.began = timestamp()
WITH l
OPTIONAL MATCH (other:AtlasLoad {vocabulary: $vocabulary}) WHERE other.words IS NOT NULL
WITH l, min(other.words) AS shared
SET l.words = coalesce(l.words, shared, l.number)
RETURN properties(l) AS load
"""
LOADS = "MATCH (l:AtlasLoad) RETURN properties(l) AS load ORDER BY l.number"
_DONE = "MATCH (b:AtlasBatch {load: $number}) RETURN b.key AS key, b.rows AS rows"


def begin(writer: Writer, build: Observed) -> Load:
    """Register a load on the server, or find the one that stopped half-way."""
    structure = _structure(build)
    found = writer.run(
        _BEGIN,
        owner=writer.owner,
        key=_key(build),
        build=build.id,
        batch=EDGES_A_BATCH,
        set=build.set_key,
        vocabulary=build.vocabulary,
        structure=json.dumps(structure),
    )
    if not found:
        raise Lost
    return _known(found[0]["load"])


def under_way(writer: Writer) -> list[Load]:
    """Every load the server remembers: half-way, or published and not yet tidied up."""
    return [_known(record["load"]) for record in writer.run(LOADS)]


def _known(properties: dict[str, Any]) -> Load:
    names = ("key", "build", "set", "number", "words", "state", "batch")
    return Load(**{name: properties[name] for name in names}, structure=json.loads(properties["structure"]))


def _key(build: Observed) -> str:
    """What is being loaded: a build, with what was seen on a text."""
    return f"{build.id}+{build.observation.manifest['run']}" if build.observation else build.id


def _structure(build: Build) -> dict[str, Any]:
    (model,), (chosen,), (run,) = (build.nodes(label).to_pylist() for label in ("Model", "TranscoderSet", "Run"))
    heads = build.nodes("Head").to_pylist() if "Head" in build.labels else []
    return {"model": model, "set": chosen, "run": run, "heads": heads, "ledger": ledger(build)}


def ledger(build: Build) -> dict[str, Any]:
    """What the manifest says a set must have, kept on the server beside it for the doctor."""
    return {
        "key": build.set_key,
        "build": build.id,
        "run": build.run,
        "vocabulary": build.vocabulary,
        "features": build.rows("nodes/Feature"),
        "tokens": build.rows("nodes/Token"),
        **{kind: build.rows(f"edges/{kind}/") for kind in WEIGHTED},
    }


def fill(writer: Writer, place: Place, build: Observed, load: Load, progress: Progress) -> None:
    """Write all nodes and weighted relationships that are not there yet; nothing of it shows to readers."""
    _Filling(writer, place, load, progress).run(build)


class _TooLarge(Exception):
    """The server has too little memory for a batch, and it can be halved."""


class _Filling:
    def __init__(self, writer: Writer, place: Place, load: Load, progress: Progress) -> None:
        self._writer = writer
        self._place = place
        self._load = load
        self._progress = progress
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._done: dict[str, int] = {}
        self._halved: set[str] = set()

    def run(self, build: Observed) -> None:
        prefix = f"{self._load.number}/"
        for record in self._writer.run(_DONE, number=self._load.number):
            name = record["key"].removeprefix(prefix)
            self._done[name] = record["rows"]
            while "." in name:
                name = name.rpartition(".")[0]
                self._halved.add(name)
        tokens, features = build.rows("nodes/Token"), build.rows("nodes/Feature")
        self._stage("nodes", tokens + features, batches.nodes(build, self._load), sessions=1)
        self._stage("edges", build.n_edges, batches.edges(build, self._load), sessions=SESSIONS)

    def _stage(self, what: str, total: int, batches: Iterator[Batch], sessions: int) -> None:
        """Run batches on some sessions; progress counts rows, those of an earlier attempt too."""
        self._count, self._total, self._what = 0, total, what
        self._progress(what, 0, total)
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(sessions, thread_name_prefix="atlas-load") as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(self._put, batch))
                    if len(waiting) > 2 * sessions:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _put(self, batch: Batch) -> None:
        self._put_items(batch, batch.name, None)

    def _put_items(self, batch: Batch, name: str, items: list[Any] | None) -> None:
        if name in self._done:
            return self._advance(self._done[name])
        items = batch.items() if items is None else items
        if name not in self._halved and self._attempt(batch, name, items):
            return self._advance(batch.count(items))
        middle = len(items) // 2
        self._put_items(batch, f"{name}.0", items[:middle])
        self._put_items(batch, f"{name}.1", items[middle:])

    def _attempt(self, batch: Batch, name: str, items: list[Any]) -> bool:
        """Send one batch until the server has it. False where the server has too little memory for it."""
        rows = batch.count(items)
        parameters = {
            "owner": self._writer.owner,
            "marker": f"{self._load.number}/{name}",
            "number": self._load.number,
            "rows": rows,
            "items": items,
        }

        def unit(tx: neo4j.ManagedTransaction) -> None:
            try:
                counters = tx.run(batch.query, parameters).consume().counters  # type: ignore[arg-type]
            except Neo4jError as error:
                if error.code in OUT_OF_MEMORY and len(items) > 1:  # the driver would send it again for a while
                    raise _TooLarge from error
                raise
            if counters.nodes_created == 0:
                raise Lost
            if batch.edges and counters.relationships_created != rows:
                raise RuntimeError(f"{name}: {counters.relationships_created} of {rows} relationships found both ends")

        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._stop.is_set():
            try:
                with self._writer.session() as session:
                    session.execute_write(unit)
                return True
            except _TooLarge:
                return False
            except (DriverError, Neo4jError, OSError) as error:
                code = getattr(error, "code", None)
                if code == UNIQUENESS and "AtlasBatch" in str(error):  # an attempt that seemed to fail was committed
                    return True
                if code in OUT_OF_MEMORY and len(items) > 1:
                    return False
                self._wait_or_give_up(error, deadline)
        raise StoreError("the load was stopped by another of its sessions")

    def _wait_or_give_up(self, error: Exception, deadline: float) -> None:
        meant = meaning(error, self._place)
        if meant is None:
            raise error
        if not isinstance(meant, StoreUnreachable) or time.monotonic() > deadline:
            raise _resumable(meant, self._count, self._total) from error
        self._stop.wait(1.0)

    def _advance(self, rows: int) -> None:
        with self._counting:
            self._count += rows
            self._progress(self._what, self._count, self._total)


def _resumable(error: AtlasError, done: int, total: int) -> AtlasError:
    return type(error)(f"{error}. {done:,} of {total:,} rows are loaded; the same command goes on from there")
