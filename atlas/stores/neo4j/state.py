"""What the store keeps on the server for itself: who is writing, and whether readers may trust what they read.

One node ``(:AtlasState {key: "state"})`` holds both.

**The writer.** ``owner`` is whoever may write until ``expires``; a thread of the writer moves that moment forward.
A writer that was killed on this machine is noticed at once, one elsewhere when its lease has run out.

**The generation.** Publishing or withdrawing a set changes labels on many nodes. A commit on the server is not atomic
for a query that runs meanwhile, and one transaction for all of a big set would not fit in the server's memory. So the
writer makes ``generation`` odd, changes the labels, and makes it even; a reader reads it after its query, in the same
transaction, and asks again where it is not the one that it knew before. (Lamport 1977, https://doi.org/10.1145/359863.359878.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from atlas import schema
from atlas.errors import NoAtlas, StoreLocked, StoreVersion
from atlas.stores.neo4j import fulltext
from atlas.stores.neo4j.connection import is_away

T = TypeVar("T")
FORMAT = 1
LEASE_SECONDS = 60
RENEW_SECONDS = 10
PATIENCE_SECONDS = 120.0
"""how long a writer waits for a server that is away, before it gives up, to be followed by the next"""
_POLL_SECONDS = 0.5

DDL = (
    *schema.neo4j_ddl(),
    "CREATE CONSTRAINT atlas_state IF NOT EXISTS FOR (n:AtlasState) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT atlas_set IF NOT EXISTS FOR (n:AtlasSet) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT atlas_load IF NOT EXISTS FOR (n:AtlasLoad) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT atlas_batch IF NOT EXISTS FOR (n:AtlasBatch) REQUIRE n.key IS UNIQUE",
    "CREATE CONSTRAINT loading_row IF NOT EXISTS FOR (n:Loading) REQUIRE n.row IS UNIQUE",
    fulltext.DDL,
)
READ = """
OPTIONAL MATCH (s:AtlasState {key: 'state'})
RETURN s.format AS format, s.generation AS generation, coalesce(s.id, '') AS id, s.what AS what,
  coalesce(s.expires > timestamp(), false) AS alive
"""
_MAKE = """
MERGE (s:AtlasState {key: 'state'})
ON CREATE SET s.format = $format, s.generation = 0, s.loads = 0, s.id = randomUUID()
RETURN s.format AS format
"""
_TAKE = """
MATCH (s:AtlasState {key: 'state'})
SET s.asked = timestamp()
WITH s, s.owner IS NULL OR s.owner = $owner OR s.expires < timestamp() OR s.owner IN $gone AS free
FOREACH (_ IN CASE WHEN free THEN [1] ELSE [] END |
  SET s.owner = $owner, s.host = $host, s.pid = $pid, s.what = $what, s.since = timestamp(),
      s.expires = timestamp() + 1000 * $lease)
RETURN free, s.what AS what, s.host AS host, s.pid AS pid, (timestamp() - s.since) / 1000 AS seconds
"""
_HELD = "MATCH (s:AtlasState {key: 'state'}) RETURN s.host AS host, s.pid AS pid, s.owner AS owner"
_RENEW = """
MATCH (s:AtlasState {key: 'state', owner: $owner})
SET s.expires = timestamp() + 1000 * $lease
RETURN s.key AS key
"""
_LEAVE = """
MATCH (s:AtlasState {key: 'state', owner: $owner})
REMOVE s.owner, s.host, s.pid, s.what, s.since, s.expires, s.asked
"""
_TURN = """
MATCH (s:AtlasState {key: 'state', owner: $owner})
SET s.generation = s.generation + CASE WHEN s.generation % 2 = $odd THEN 0 ELSE 1 END
RETURN s.generation AS generation
"""


_owners: set[str] = set()
"""those of this process that write now"""


@dataclass(frozen=True)
class Reading:
    """What a reader finds in the state, before and after its query."""

    generation: int
    id: str
    """of this database, another one where it was imported anew"""
    settled: bool
    """no set is being published or withdrawn at this moment"""
    alive: bool
    """whoever is at it has a lease that still runs"""
    what: str | None

    @property
    def version(self) -> tuple[str, int]:
        """Differs wherever readers could see a difference."""
        return self.id, self.generation


def read(tx: neo4j.Transaction | neo4j.ManagedTransaction, address: str) -> Reading:
    """Read the state. Raises NoAtlas on a server without one, StoreVersion for another version's."""
    record = tx.run(READ).single(strict=True)  # type: ignore[arg-type]
    if record["format"] is None:
        raise NoAtlas(f"{address} holds no atlas yet; atlas ingest or atlas load --store {address} makes one")
    if record["format"] != FORMAT:
        raise StoreVersion(
            f"{address} was written by a version of the atlas that keeps format {record['format']}, this one keeps "
            f"{FORMAT}; use that version, or load the builds into a fresh database"
        )
    generation = int(record["generation"])
    return Reading(generation, record["id"], generation % 2 == 0, record["alive"], record["what"])


def create(session: neo4j.Session) -> None:
    """Make constraints, indexes and the state, and wait for the indexes; harmless to repeat."""
    for statement in DDL:
        session.run(statement).consume()  # type: ignore[arg-type]
    session.run("CALL db.awaitIndexes(300)").consume()
    session.execute_write(lambda tx: tx.run(_MAKE, format=FORMAT).consume())


class Lost(Exception):
    """The lease ran out and somebody else writes: this writer must stop without another word to the server."""


class Writer:
    """The right to write, held with a lease. Made by :func:`writing`."""

    def __init__(self, driver: neo4j.Driver, database: str, owner: str, address: str) -> None:
        self.driver = driver
        self.database = database
        self.owner = owner
        self.address = address

    def run(self, query: str, **parameters: Any) -> list[neo4j.Record]:
        """One statement in a transaction of its own; see :meth:`write`."""
        return self.write(_statement(query, parameters))

    def write(self, unit: Callable[[neo4j.ManagedTransaction], T]) -> T:
        """A transaction, retried where the server asks for it or is away for a while: must be idempotent."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._try(unit)
            except (DriverError, Neo4jError, OSError) as error:
                if not is_away(error) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)

    def run_at_once(self, query: str, **parameters: Any) -> list[neo4j.Record]:
        """One statement, without waiting for a server that is away."""
        return self._try(_statement(query, parameters))

    def _try(self, unit: Callable[[neo4j.ManagedTransaction], T]) -> T:
        with self.session() as session:
            return session.execute_write(unit)

    def settled(self) -> bool:
        """Whether the last change of labels came to its end."""
        return self.run(READ)[0]["generation"] % 2 == 0

    def session(self) -> neo4j.Session:
        return self.driver.session(database=self.database)

    def unsettle(self) -> None:
        """Tell readers to wait: labels are about to change."""
        self._turn(odd=1)

    def settle(self) -> None:
        """Tell readers that what they see is whole again."""
        self._turn(odd=0)

    def _turn(self, odd: int) -> None:
        if not self.run(_TURN, owner=self.owner, odd=odd):
            raise Lost


def _statement(query: str, parameters: dict[str, Any]) -> Callable[[neo4j.ManagedTransaction], list[neo4j.Record]]:
    return lambda tx: list(tx.run(query, parameters))  # type: ignore[arg-type]


@contextlib.contextmanager
def writing(driver: neo4j.Driver, database: str, address: str, what: str) -> Iterator[Writer]:
    """Hold the right to write for as long as the block runs; ``what`` tells others what is going on.

    Raises StoreLocked, with who writes since when, where somebody else does.
    """
    writer = Writer(driver, database, uuid.uuid4().hex, address)
    held = writer.run(_HELD)
    gone = [one["owner"] for one in held if one["host"] == _host() and not _writes(one["pid"], one["owner"])]
    asked = {"owner": writer.owner, "host": _host(), "pid": os.getpid(), "what": what, "lease": LEASE_SECONDS}
    (taken,) = writer.run(_TAKE, gone=gone, **asked)
    if not taken["free"]:
        raise StoreLocked(
            f"{address}: {taken['what']} has been going on for {taken['seconds']} s (process {taken['pid']} on "
            f"{str(taken['host']).partition(' ')[0]}); wait until it is done, then run the same command again"
        )
    _owners.add(writer.owner)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(writer, ended), name="atlas-lease", daemon=True)
    renewal.start()
    try:
        yield writer
    except Lost:
        raise StoreLocked(
            f"{address}: this process was not heard of for {LEASE_SECONDS} s and somebody else writes now; "
            "nothing is lost, run the same command again when they are done"
        ) from None
    finally:
        ended.set()
        renewal.join()
        _owners.discard(writer.owner)
        with contextlib.suppress(Exception):  # a server that is gone forgets us when the lease runs out
            writer.run_at_once(_LEAVE, owner=writer.owner)


def _renew(writer: Writer, ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        # a server that is away for a moment is the loader's business; the next renewal comes soon enough
        with contextlib.suppress(Exception):
            writer.run_at_once(_RENEW, owner=writer.owner, lease=LEASE_SECONDS)


@cache
def _host() -> str:
    """This machine since it was last started: process numbers mean something within it only."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()


def _writes(pid: int, owner: str) -> bool:
    """Whether a writer on this machine is still at it; one of this process may have been unable to say that it left."""
    return owner in _owners if pid == os.getpid() else _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
