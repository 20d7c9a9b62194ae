"""One tiny model that was observed, for the questions that are about it; and the same before anything was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import atlas
from atlas.model import Activation, ReadSite, WriteSite
from atlas.stores import Store
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import Subject
from tests.unit.ingest.evidence.observed import STRONGEST, Dense, dense, ids_file, subject


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ATLAS_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def tiny(home: Path) -> Subject:
    return subject(home, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)


@pytest.fixture(scope="module")
def unseen(tiny: Subject, home: Path) -> Iterator[Store]:
    atlas.load(tiny.build, home / "unseen")
    with atlas.open(home / "unseen") as graph:
        yield graph


@pytest.fixture(scope="module")
def graph(tiny: Subject, unseen: Store, home: Path) -> Iterator[Store]:
    observe(tiny, ids_file(home), Options(examples=4, strongest=STRONGEST), name="seen")
    atlas.load(tiny.build, home / "seen")
    with atlas.open(home / "seen") as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(tiny: Subject, graph: Store, home: Path) -> Dense:
    return dense(tiny, ids_file(home))
