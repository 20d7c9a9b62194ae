"""One atlas for all questions: two models that share a vocabulary, each with a set of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import atlas
from atlas.stores import Store
from tests import toy
from tests.unit.queries.asked import Asked


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("queries")
    first = toy.write(folder / "a-build")
    other = toy.write(folder / "b-build", model="other", set="tc-x", layers=(1, 3, 4, 5, 9), seed=3)
    for built in (first, other):
        atlas.load(built.build, folder / "atlas")
    with atlas.open(folder / "atlas") as graph:
        yield Asked(graph, first, other)


@pytest.fixture(scope="session")
def graph(asked: Asked) -> Store:
    return asked.graph
