"""One build of a small model, made once for the tests of a module."""

from __future__ import annotations

import pytest

from atlas.model import Activation
from ingest import build
from ingest.evidence.subject import Subject, open_subject
from tests.unit.ingest.describe.small import N_LAYERS, Small, small


@pytest.fixture(scope="package")
def made() -> Small:
    return small("gpt2", Activation.JUMPRELU)


@pytest.fixture(scope="package")
def _built(made: Small, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    layers = {layer: made.source.load(layer) for layer in range(N_LAYERS)}
    pair = made.model, made.tokenizer
    found = build(
        model=pair, transcoders=layers, name="tiny/tc-small", home=tmp_path_factory.mktemp("home"), device="cpu"
    )
    return open_subject(found, pair, layers, tokenizer=made.tokenizer)


@pytest.fixture
def subject(_built: Subject) -> Subject:
    """A model, its transcoders and their build, with nothing described yet."""
    import shutil

    shutil.rmtree(_built.build.path / "descriptions", ignore_errors=True)
    return _built
