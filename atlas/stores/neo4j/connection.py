"""One driver for each process and server, and what its errors mean to a reader.

Errors are told apart by ``code``, which 5.26 and the calendar releases agree on; the newer GQL status they do not.
A user and a password go to the driver and nowhere else: not into an address, a message or a log.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import neo4j
from neo4j.exceptions import (
    AuthError,
    ConfigurationError,
    DriverError,
    Neo4jError,
    ResultError,
    ServiceUnavailable,
    SessionExpired,
    UnsupportedServerProduct,
)

from atlas.errors import (
    AtlasError,
    BadQuery,
    BadSetting,
    NoSpace,
    QueryTimeout,
    StoreError,
    StoreUnreachable,
    WriteRefused,
)

OLDEST = (5, 26)
_AGENT = re.compile(r"^Neo4j/(\d+)\.(\d+)")
_WHERE = re.compile(r"\(line \d+, column \d+ \(offset: \d+\)\)")
_LINE = 300
_RETRY_SECONDS = 5.0
_CONNECT_SECONDS = 5.0
_ACQUIRE_SECONDS = 20.0
"""also how long a server may take to greet"""

UNIQUENESS = "Neo.ClientError.Schema.ConstraintValidationFailed"
OUT_OF_MEMORY = frozenset(
    {
        "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
        "Neo.TransientError.General.TransactionMemoryLimit",
        "Neo.TransientError.General.TransactionOutOfMemoryError",
        "Neo.DatabaseError.General.OutOfMemoryError",
    }
)
_READ_ONLY = frozenset(
    {
        "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase",
        "Neo.ClientError.General.WriteOnReadOnlyAccessDatabase",
        "Neo.ClientError.Security.Forbidden",
    }
)
_LOG_FAILED = "Neo.DatabaseError.Transaction.TransactionLogError"
"""all that a server says whose disk has filled up while it was committing"""
_FULL = re.compile(r"no space left|disk is full|not enough (disk )?space|out of disk", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A database on a server, and who asks. The password never shows in ``repr``."""

    address: str
    user: str
    password: str
    database: str | None

    def __repr__(self) -> str:
        return f"Place({self.address!r}, user={self.user!r}, database={self.database!r})"


_drivers: dict[tuple[int, str, str, str], tuple[neo4j.Driver, int]] = {}
_guard = threading.Lock()


def acquire(place: Place) -> neo4j.Driver:
    """The process's driver for a server; every call wants one :func:`release`."""
    with _guard:
        key = _key(place)
        known, users = _drivers.get(key, (None, 0))
        if known is None:
            known = _driver(place)
        _drivers[key] = known, users + 1
        return known


def release(place: Place) -> None:
    """Give a driver back; the last one closes its connections."""
    with _guard:
        key = _key(place)
        if key not in _drivers:
            return
        known, users = _drivers.pop(key)
        if users > 1:
            _drivers[key] = known, users - 1
        else:
            known.close()


def check(driver: neo4j.Driver, place: Place) -> str:
    """Make sure that a server fit for an atlas answers, and name the database that will be used.

    Raises StoreUnreachable: no answer, wrong credentials, no such database, a server older than 5.26.
    """
    with translated(place), driver.session(database=place.database, default_access_mode=neo4j.READ_ACCESS) as session:
        summary = session.run("RETURN 1").consume()
    agent = str(summary.server.agent)
    found = _AGENT.match(agent)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        raise StoreUnreachable(
            f"{place.address} is {agent or 'no Neo4j'}; the atlas needs Neo4j 5.26 or newer (make neo4j starts one)"
        )
    return str(summary.database or place.database or "neo4j")


@contextmanager
def translated(place: Place) -> Iterator[None]:
    """Turn what the driver raises into errors of the atlas; defects of ours pass as they are."""
    try:
        yield
    except (DriverError, Neo4jError, OSError) as error:
        meant = meaning(error, place)
        if meant is None:
            raise
        raise meant from error


def meaning(error: Exception, place: Place) -> AtlasError | None:
    """What an error of the driver or the server means to a reader; None where it is a defect of ours."""
    code = getattr(error, "code", None) or ""
    said = first_line(error)
    where = place.address
    if _FULL.search(str(error)) or code == _LOG_FAILED:
        return NoSpace(
            f"the disk of {where} is full, or cannot be written any more ({said}); make room there, restart the server "
            "if it does not recover, then run the same command again"
        )
    if isinstance(error, AuthError) or code.startswith("Neo.ClientError.Security.Auth"):
        if not place.password:
            return StoreUnreachable(
                f"{where} asks for a password; set ATLAS_NEO4J_PASSWORD or ATLAS_NEO4J_PASSWORD_FILE"
            )
        return StoreUnreachable(
            f"{where} refuses the password of user {place.user!r}; "
            "ATLAS_NEO4J_USER and ATLAS_NEO4J_PASSWORD (or atlas.toml) set them"
        )
    if code in OUT_OF_MEMORY:
        return StoreError(
            f"{where} has too little memory for this transaction; ask for less, "
            "or raise dbms.memory.transaction.total.max and the heap on the server"
        )
    if code.startswith("Neo.ClientError.Database.DatabaseNotFound"):
        return StoreUnreachable(
            f"{where} has no database {place.database!r}; ATLAS_NEO4J_DATABASE sets it, a Community server has 'neo4j'"
        )
    if code.endswith("Statement.AccessMode"):
        return WriteRefused("the query would change the atlas; only reading is allowed here")
    if code in _READ_ONLY:
        return StoreError(
            f"{where} lets user {place.user!r} only read ({said}); loading and removing need a user who may write"
        )
    if "TransactionTimedOut" in code or code.endswith("Transaction.LockAcquisitionTimeout"):
        return QueryTimeout(f"{where} ran past the time-out; narrow the query or raise --timeout")
    if isinstance(error, UnsupportedServerProduct) or "Notification filtering is not supported" in str(error):
        return StoreUnreachable(
            f"{where} is no Neo4j that the driver can talk to: too old, or another service; "
            "the atlas needs Neo4j 5.26 or newer (make neo4j starts one)"
        )
    if isinstance(error, ConfigurationError):
        return BadSetting(f"{where} is no address the driver can use: {said}")
    if any("certificate verify failed" in str(one).lower() for one in _causes(error)):
        return StoreUnreachable(
            f"{where} shows a certificate that this machine does not trust; have it signed by somebody whom it does, "
            "or write bolt+ssc:// or neo4j+ssc:// to take the server's word for it"
        )
    if is_away(error):
        return StoreUnreachable(f"{where} does not answer ({said}); is the server up? make neo4j starts one here")
    if code.startswith(("Neo.ClientError.Statement", "Neo.ClientError.Procedure", "Neo.ClientError.Schema")):
        return BadQuery(_about_query(said, code))
    if code.startswith(("Neo.TransientError", "Neo.DatabaseError")) or isinstance(error, ResultError):
        return StoreError(f"{where} failed: {said} ({code or type(error).__name__})")
    return None


def is_away(error: Exception) -> bool:
    """Whether the server, or its database, does not answer and may do so again."""
    code = getattr(error, "code", None) or ""
    return isinstance(error, ServiceUnavailable | SessionExpired | OSError) or "DatabaseUnavailable" in code


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: Exception) -> str:
    """The first line of what was said, without the driver's frame of codes."""
    said = getattr(error, "message", None) or str(error) or type(error).__name__
    line = str(said).strip().splitlines()[0]
    if len(line) <= _LINE:
        return line
    where = _WHERE.search(line)  # behind a long list of all that might have stood there
    return f"{line[: _LINE // 2]}… {where[0] if where else ''}".strip()


def _about_query(said: str, code: str) -> str:
    if code.endswith("ParameterMissing"):
        names = re.findall(r"parameter\(s\): ([\w, ]+)", said)
        missing = names[0] if names else said
        return f"the query asks for ${missing}, which was not given; on the command line: -p {missing}=VALUE"
    return said


def _key(place: Place) -> tuple[int, str, str, str]:
    return os.getpid(), place.address, place.user, place.password


def _driver(place: Place) -> neo4j.Driver:
    auth = (place.user, place.password) if place.password else None
    with translated(place):
        return neo4j.GraphDatabase.driver(
            place.address,
            auth=auth,
            connection_timeout=_CONNECT_SECONDS,
            connection_acquisition_timeout=_ACQUIRE_SECONDS,
            max_transaction_retry_time=_RETRY_SECONDS,
            notifications_min_severity="OFF",
            telemetry_disabled=True,
            user_agent="feature-atlas",
        )
