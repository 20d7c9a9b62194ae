"""Every store, one after the other, behind two functions: open for writing, open for reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import atlas
from atlas.stores import Store, open_store
from tests import toy, toy_heads
from tests.neo4j import servers

Both = tuple[Store, Store, toy.Toy]
"""the store under test, an embedded one beside it, and the truth about the first of their sets"""
STORES = ("embedded", *(f"neo4j {version}" for version in servers.NAMES))


@dataclass(frozen=True)
class Place:
    """Where a store of the kind under test is: empty at the beginning of a test."""

    kind: str
    writing: Callable[[], Store]
    reading: Callable[[], Store]


@contextmanager
def _server_place(kind: str, server: servers.Place) -> Iterator[Place]:
    def opened(read_only: bool) -> Store:
        return open_store(server.address, read_only=read_only, user=server.user, password=server.password)

    server.wipe()
    yield Place(kind, lambda: opened(False), lambda: opened(True))
    server.wipe()


@pytest.fixture(scope="session", params=STORES)
def kind(request: pytest.FixtureRequest) -> Iterator[object]:
    """The store under test: its name, or the server behind it."""
    if request.param == "embedded":
        yield "embedded"
        return
    yield servers.shared(request.param.removeprefix("neo4j "))


@pytest.fixture
def place(kind: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    if isinstance(kind, servers.Place):
        with _server_place("neo4j", kind) as found:
            yield found
        return
    folder = tmp_path / "atlas"
    yield Place("embedded", lambda: open_store(folder, read_only=False), lambda: open_store(folder))


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., toy.Toy]:
    """Write a toy build where ingest would leave it."""

    def write(**given: object) -> toy.Toy:
        name = "-".join(str(value).replace("/", "-")[:20] for value in given.values()) or "plain"
        return toy.write(tmp_path / "home" / "builds" / name, **given)  # type: ignore[arg-type]

    return write


@pytest.fixture
def both(place: Place, stage: Callable[..., toy.Toy], tmp_path: Path) -> Iterator[Both]:
    """The store under test and an embedded one beside it, with the same two sets; one of them has heads."""
    made = [toy_heads.add(stage()).build, stage(model="other", set="tc-x", layers=(1, 3, 4, 5, 9), seed=3).build]
    with place.writing() as store:
        store.create()
        for build in made:
            store.add(build)
    for build in made:
        atlas.load(build, tmp_path / "beside")
    with place.reading() as store, open_store(tmp_path / "beside") as beside:
        yield store, beside, stage(model="truth")
