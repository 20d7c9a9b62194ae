"""The hub, by a stub of its interface: one commit, headers suffice to open, a layer arrives when it is read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants

from atlas.errors import Unreachable
from atlas.model import ReadSite, WriteSite
from atlas.staging import sha256
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest import cross, layouts, models
from tests.unit.ingest.hub import COMMIT, Hub, cached_repository, hub, without_a_network


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


def test_a_download_that_broke_off_goes_on_where_it_stopped(served: Hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    published(served)
    source = open_transcoders("org/set")
    size = (served.root / "org" / "set" / "layer_1.safetensors").stat().st_size
    served.cut_once, served.asked = True, []

    assert torch.equal(source.load(1).w_enc, models.transcoder(1).w_enc)

    assert served.asked == [("layer_1.safetensors", "all"), ("layer_1.safetensors", f"bytes={size // 200 * 100}-")]


FETCH = f"""
from huggingface_hub import constants, hf_hub_download
constants.DOWNLOAD_CHUNK_SIZE = 100
for layer in (0, 1):
    hf_hub_download("org/set", f"layer_{{layer}}.safetensors", revision="{COMMIT}")
"""
"""what :meth:`ingest.folders.HubFolder.path` asks of the library"""


def test_of_a_killed_process_what_it_finished_is_kept_and_the_file_it_was_at_starts_again(served: Hub, tmp_path: Path):
    """huggingface-hub gives each process a partial file of its own, under a name that no other looks for."""
    published(served)
    cache = tmp_path / "cache"
    served.held = "layer_1.safetensors"
    settings = {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    other = subprocess.Popen([sys.executable, "-c", FETCH], env=os.environ | settings)
    try:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in cache.rglob("*.incomplete")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        other.kill()
        other.wait()
    served.held, served.asked = None, []

    source = open_transcoders("org/set")
    for layer in (0, 1):
        assert torch.equal(source.load(layer).w_enc, models.transcoder(layer).w_enc)

    assert [name for name, part in served.asked if part == "all"] == ["config.yaml", "layer_1.safetensors"]
    assert len(list(cache.rglob("*.incomplete"))) == 1  # which nobody takes away


def test_of_a_cross_layer_set_headers_are_fetched_and_decoders_when_they_are_read(served: Hub):
    cross.write_cross_layer(served.root / "org" / "clt")

    source = open_transcoders("org/clt")

    assert (source.info.kind, source.info.revision) == ("cross-layer", COMMIT)
    assert [name for name, part in served.asked if part == "all"] == ["config.yaml"]
    assert torch.equal(source.decoder(1, 2), cross.decoder(models.transcoder(1), 2))
    assert [name for name, part in served.asked if part == "all"] == ["config.yaml", "W_dec_1.safetensors"]


def test_a_list_of_files_of_another_repository_is_pinned_to_that_ones_commit(served: Hub):
    layouts.gemma_scope(served.root / "google" / "scope")
    files = [f"hf://google/scope/layer_{i}/width_16k/average_l0_{70 + i}/params.npz?revision=main" for i in range(3)]
    config = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
    (served.root / "mwhanna" / "scope").mkdir(parents=True)
    listed = config | {"model_name": "google/gemma-2-2b", "transcoders": files}
    (served.root / "mwhanna" / "scope" / "config.yaml").write_text(yaml.safe_dump(listed))

    info = open_transcoders("mwhanna/scope").info

    assert (info.read, info.write) == (ReadSite.NORM_PRE_GAIN, WriteSite.MLP_POST_NORM)
    assert all(f"@{COMMIT}" in name for name in info.files if name.startswith("hf://"))


def test_a_gemma_scope_2_release_of_saelens_is_read_from_the_cache_alone(tmp_path: Path, monkeypatch):
    """The library's own loader asks the hub for headers even with every file cached."""
    pytest.importorskip("sae_lens", reason="comes with the extra: pip install 'feature-atlas[ingest]'")
    without_a_network(monkeypatch, tmp_path)
    place = cached_repository(tmp_path, "google/gemma-scope-2-270m-pt") / "transcoder_all"
    written = layouts.gemma_scope_2(place, affine=True)

    source = open_transcoders(
        "saelens:gemma-scope-2-270m-pt-transcoders-all:layer_*_width_16k_l0_small_affine", [0, 1, 2]
    )

    assert (source.info.saelens_release, source.info.kind) == ("gemma-scope-2-270m-pt-transcoders-all", "skip")
    assert (source.info.read, source.info.write) == (ReadSite.NORM_POST_GAIN, WriteSite.MLP_POST_NORM)
    assert (source.info.revision, source.info.l0[0]) == (COMMIT, 10.0)
    x = models.random(7, models.D_MODEL, seed=3)
    torch.testing.assert_close(source.load(1).encode(x), written[1].encode(x))
