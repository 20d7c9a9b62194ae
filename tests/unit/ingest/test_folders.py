"""Places on disk and on the hub: pinned to a commit, read from the cache without a network, missing ones told early."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from atlas.errors import BadSource, Unreachable
from ingest.folders import open_folder, parse
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.hub import COMMIT, cached_repository, without_a_network


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("gpt2", ("gpt2", "", None)),
        ("openai-community/gpt2", ("openai-community/gpt2", "", None)),
        ("org/repo@v1.0", ("org/repo", "", "v1.0")),
        ("org/repo/sub/folder@refs/pr/3", ("org/repo", "sub/folder", "refs/pr/3")),
        ("hf://org/repo/a/b.npz?revision=main", ("org/repo", "a/b.npz", "main")),
        ("hf://org/repo", ("org/repo", "", None)),
    ],
)
def test_every_way_to_write_a_place_on_the_hub_is_understood(spec, place):
    assert parse(spec) == place


@pytest.mark.parametrize("spec", ["org/../repo", "org//repo", "org/repo@..", "org/re po", "", "/etc", "~/x", "a\\b"])
def test_what_is_no_place_on_the_hub_is_refused(spec):
    with pytest.raises(BadSource, match="neither a folder on this machine nor a name on the hub"):
        parse(spec)


def test_a_hub_name_with_no_network_and_no_cache_is_told_at_once(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)
    start = time.perf_counter()

    for ask in (open_model, open_transcoders):
        with pytest.raises(Unreachable, match=r"'org/repo' is not in the cache \(.*\), and the hub cannot be reached"):
            ask("org/repo@main")

    assert time.perf_counter() - start < 15  # the library's own retries take half a minute a file


def test_what_is_cached_is_read_without_a_network_at_its_commit(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)
    models.write_circuit_tracer(
        cached_repository(tmp_path, "org/set") / "sub", [models.transcoder(layer) for layer in range(3)]
    )
    repository = cached_repository(tmp_path, "org/model")
    models.model("llama").save_pretrained(repository)
    models.tokenizer().save_pretrained(repository)

    source, model = open_transcoders("org/set/sub", [0, 2]), open_model(f"org/model@{COMMIT}")

    assert (source.info.repo, source.info.revision) == ("org/set", COMMIT)
    assert source.load(2).n_features == models.N_FEATURES[2]
    assert (model.repo, model.revision, model.name) == ("org/model", COMMIT, "model")


def test_a_cache_that_may_hold_part_of_a_set_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)
    models.write_circuit_tracer(cached_repository(tmp_path, "org/set"), [models.transcoder(1)])

    with pytest.raises(Unreachable, match=r"does not know whether it has all layers of org/set@.*--layers"):
        open_transcoders("org/set")


def test_a_large_file_of_the_cache_is_known_by_its_name(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)
    content = b"as if it were gigabytes"
    name = hashlib.sha256(content).hexdigest()
    repository = cached_repository(tmp_path, "org/large")
    blob = repository.parents[1] / "blobs" / name
    blob.parent.mkdir()
    blob.write_bytes(content)
    (repository / "weights.safetensors").symlink_to(blob)
    (repository / "config.yaml").write_text("a: b")

    folder = open_folder("org/large")

    assert folder.names() == ["config.yaml", "weights.safetensors"]
    assert folder.sha256("weights.safetensors") == name
    assert folder.sha256("config.yaml") == hashlib.sha256(b"a: b").hexdigest()


def test_a_file_that_is_not_cached_is_out_of_reach_and_named(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)
    (cached_repository(tmp_path, "org/part") / "config.yaml").write_text("a: b")

    with pytest.raises(Unreachable, match=r"'layer_0\.safetensors' of org/part@0123456789ab is not in the cache"):
        open_folder("org/part").path("layer_0.safetensors")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "C:\\x", ""])
def test_no_name_leads_out_of_a_folder(tmp_path: Path, name):
    (tmp_path / "secret").write_text("x")
    inner = tmp_path / "set"
    inner.mkdir()

    with pytest.raises(BadSource):
        open_folder(inner).path(name)


def test_names_go_a_few_folders_deep_and_pass_over_hidden_ones(tmp_path: Path):
    for name in ("a.txt", "x/b.txt", "x/y/z/c.txt", ".git/config", "1/2/3/4/5/6/deep.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    assert open_folder(tmp_path).names() == ["a.txt", "x/b.txt", "x/y/z/c.txt"]
