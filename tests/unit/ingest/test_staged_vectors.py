"""The vectors in a build: those behind its edges, of length 1, and no part of what the run is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlas import vectors
from atlas.staging import Build
from ingest import plan, staged_vectors
from ingest.folding import Vectors
from ingest.sources.memory import InMemory
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.tiny import make


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make(tmp_path_factory.mktemp("home"))


def test_a_build_has_the_folded_vectors_at_length_1(built: Build):
    source = InMemory({layer: models.transcoder(layer) for layer in range(models.N_LAYERS)})
    folded = Vectors(open_model((models.model("gpt2"), models.tokenizer())), source)

    found = vectors.of_build(built)

    for array, part in ((found.encoder, folded.reads), (found.decoder, folded.writes)):
        exact = np.concatenate([part(layer).double().numpy() for layer in range(models.N_LAYERS)])
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        np.testing.assert_array_equal(array, exact.astype(np.float16))
    built.verify()


def test_with_and_without_vectors_it_is_one_run_with_the_same_edges_and_they_can_be_added(built: Build, tmp_path: Path):
    bare = make(tmp_path, vectors=False)
    assert not vectors.staged(bare)
    assert make(tmp_path).manifest == bare.manifest  # finished, and nothing was asked

    full = make(tmp_path, vectors=True)

    assert full.path == bare.path
    assert full.manifest == built.manifest
    assert {name: entry for name, entry in full.manifest["files"].items() if "vectors" not in name} == (
        bare.manifest["files"]
    )
    full.verify()
    assert make(tmp_path, vectors=False).manifest == full.manifest


def test_they_are_left_out_above_a_gigabyte_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(staged_vectors, "MOST", 1000)

    assert not vectors.staged(make(tmp_path / "a"))
    assert vectors.staged(make(tmp_path / "b", vectors=True))


def test_a_plan_counts_their_bytes(built: Build, tmp_path: Path):
    transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
    asked = {"model": (models.model("gpt2"), models.tokenizer()), "transcoders": transcoders, "home": tmp_path}

    added = plan(**asked).disk - plan(**asked, vectors=False).disk

    headers = 2 * 128
    files = built.manifest["files"]
    assert added == files["vectors/encoder.npy"]["bytes"] + files["vectors/decoder.npy"]["bytes"] - headers
