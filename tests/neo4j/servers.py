"""Real Neo4j servers for tests: one's own, else from Maven Central, else in Docker, else a skip.

``NEO4J_TEST_URI`` (with ``NEO4J_TEST_USER`` and ``NEO4J_TEST_PASSWORD``) names a server that the tests may empty.
In CI (``CI=true``) the absence of every server is a failure.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import neo4j
import pytest

from atlas.errors import AtlasError
from atlas.server import VERSIONS, Server

OWN = os.environ.get("NEO4J_TEST_URI")
NAMES: tuple[str, ...] = ("own",) if OWN else VERSIONS
"""what tests are parametrised by; the current version is the last"""
EVERY = bool(os.environ.get("NEO4J_TEST_EVERY_VERSION"))
"""every test on every version, as ``make faults`` asks for"""

# A server for a minute spends half of it on making itself fast later: compile quickly instead. Through the environment,
# so that the importer and servers that a command starts do the same.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

_WIPE = "MATCH (n) WHERE NOT n:AtlasTestServer CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 500 ROWS"


@dataclass(frozen=True)
class Place:
    """A server that answers, and its credentials."""

    address: str
    user: str
    password: str
    server: Server | None = None
    """the process, where it is ours to stop and kill"""

    def query(self, text: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run anything, behind the store's back."""
        with _driver(self.address, self.user, self.password).session() as session:
            return session.run(text, parameters).data()

    def wipe(self) -> None:
        """Take everything out; constraints and indexes stay."""
        self.query(_WIPE)


_started: dict[str, Place] = {}
_until_the_end = ExitStack()
atexit.register(_until_the_end.close)


@cache
def _driver(address: str, user: str, password: str) -> neo4j.Driver:
    driver = neo4j.GraphDatabase.driver(
        address, auth=(user, password) if password else None, notifications_min_severity="OFF"
    )
    return _until_the_end.enter_context(driver)


def shared(name: str) -> Place:
    """A server of one of :data:`NAMES`: started when it is first asked for, stopped when Python ends."""
    if name not in _started:
        _started[name] = _until_the_end.enter_context(_running(name))
    return _started[name]


@contextmanager
def _running(name: str) -> Iterator[Place]:
    if OWN:
        place = Place(OWN, os.environ.get("NEO4J_TEST_USER", "neo4j"), os.environ.get("NEO4J_TEST_PASSWORD", ""))
        _claim(place)
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="neo4j-") as folder:
        server = Server(Path(folder) / name, version=name, auth=False)
        try:
            server.start()
        except AtlasError as error:
            if not _docker():
                absent(f"{error}; Docker does not run here either")
            server = None
        if server is None:
            with _container(name) as place:
                yield place
            return
        with _watched(server.home.path):
            try:
                yield Place(server.address, "neo4j", "", server)
            finally:
                server.stop()


_WATCH = """
read -r _
kill -9 "$(sed -n 's/.*"pid": \\([0-9]*\\).*/\\1/p' "$1/server.json")" && rm -rf "$1"
"""


@contextmanager
def _watched(home: Path) -> Iterator[None]:
    """Kill a server whose tests were killed: the pipe to the watcher closes with them, however they end."""
    watcher = subprocess.Popen(
        ["sh", "-c", _WATCH, "watch", home],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.communicate()


def absent(why: str) -> None:
    """Skip, or fail in CI, saying how to get a server."""
    message = (
        f"no Neo4j server: {why}. To lift this: pip install 'feature-atlas[server]' with a network for the first run, "
        "start Docker, or set NEO4J_TEST_URI to a server whose database may be emptied"
    )
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


def _claim(place: Place) -> None:
    """Make sure that nobody's atlas is emptied by a test."""
    held = place.query("MATCH (n) RETURN count(n) AS n, count(CASE WHEN n:AtlasTestServer THEN 1 END) AS ours")[0]
    if held["n"] and not held["ours"]:
        pytest.fail(
            f"NEO4J_TEST_URI={place.address} holds {held['n']} nodes that no test put there; tests empty the database, "
            "so give them a server of their own, or CREATE (:AtlasTestServer) there to allow it"
        )
    place.query("MERGE (:AtlasTestServer)")


def _docker() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


@contextmanager
def _container(version: str) -> Iterator[Place]:
    from testcontainers.community.neo4j import Neo4jContainer

    with Neo4jContainer(f"neo4j:{version}-community", password="for-tests-only") as container:
        yield Place(container.get_connection_url(), "neo4j", "for-tests-only")
