"""One small atlas that nobody changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import stores
from atlas.stores import Store
from tests import toy


@pytest.fixture(scope="package")
def small(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    return toy.write(tmp_path_factory.mktemp("small") / "build")


@pytest.fixture(scope="package")
def graph(small: toy.Toy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An atlas that holds it, open for reading."""
    folder = tmp_path_factory.mktemp("small") / "atlas"
    with stores.open_store(folder, read_only=False) as store:
        store.add(small.build)
    with stores.open_store(folder) as store:
        yield store
