"""The hub, by a stub of its interface: one commit, headers suffice to open, a layer arrives when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atlas.errors import Unreachable
from atlas.staging import sha256
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.hub import COMMIT, Hub, hub, without_a_network


@pytest.fixture
def served(tmp_path: Path, monkeypatch):
    with hub(tmp_path / "hub", tmp_path / "cache", monkeypatch) as running:
        yield running


def published(served: Hub) -> Path:
    return models.write_circuit_tracer(
        served.root / "org" / "set", [models.transcoder(layer) for layer in range(models.N_LAYERS)]
    )


def test_a_set_is_opened_from_headers_and_a_layer_is_fetched_when_it_is_read(served: Hub):
    folder = published(served)

    source = open_transcoders("org/set")

    assert (source.info.repo, source.info.revision) == ("org/set", COMMIT)
    assert source.info.n_features == dict(enumerate(models.N_FEATURES))
    assert source.info.files == {path.name: sha256(path) for path in folder.iterdir()}
    assert [name for name, part in served.asked if part == "all"] == ["config.yaml"]

    assert torch.equal(source.load(1).w_enc, models.transcoder(1).w_enc)
    assert [name for name, part in served.asked if part == "all"] == ["config.yaml", "layer_1.safetensors"]


def test_of_a_model_only_what_edges_need_is_fetched_and_once(served: Hub):
    place = served.root / "org" / "model"
    models.model("qwen3").save_pretrained(place)
    models.tokenizer().save_pretrained(place)
    (place / "pytorch_model.bin").write_bytes(b"gigabytes of a second copy")
    (place / "README.md").write_text("a card")

    found = open_model("org/model@main")
    open_model("org/model@main")

    assert (found.revision, found.name) == (COMMIT, "model")
    assert sorted(name for name, _ in served.asked) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]


def test_what_was_read_once_is_read_again_without_a_network(served: Hub, tmp_path: Path, monkeypatch):
    published(served)
    first = open_transcoders("org/set").load(2)
    without_a_network(monkeypatch, tmp_path / "cache")

    again = open_transcoders("org/set", [2])

    assert again.info.revision == COMMIT
    assert torch.equal(again.load(2).w_enc, first.w_enc)
    with pytest.raises(Unreachable, match=r"'layer_0\.safetensors' of org/set@0123456789ab is not in the cache"):
        open_transcoders("org/set")  # the cache knows that the set has more layers than it holds


def test_a_repository_that_is_not_there_is_told_apart_from_no_network(served: Hub):
    with pytest.raises(Unreachable, match="there is no 'org/nothing' on the hub"):
        open_transcoders("org/nothing")


def test_a_download_that_breaks_off_is_named_and_leaves_nothing_half(served: Hub, monkeypatch):
    published(served)
    source = open_transcoders("org/set")
    served.cut_short = True

    with pytest.raises(Unreachable, match=r"'layer_1\.safetensors' of org/set"):
        source.load(1)
    served.cut_short = False

    assert torch.equal(source.load(1).w_enc, models.transcoder(1).w_enc)
