"""SAELens: folders, objects and releases become the record, and encode as the library itself does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.errors import BadTranscoder, Unreachable
from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from tests.unit.ingest import models
from tests.unit.ingest.hub import cached_repository, without_a_network

sae_lens = pytest.importorskip("sae_lens", reason="comes with the extra: pip install 'feature-atlas[ingest]'")
from sae_lens.saes.transcoder import (  # noqa: E402
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

KINDS = {
    "transcoder": (Transcoder, TranscoderConfig),
    "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
    "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
    "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
}
X = models.random(9, models.D_MODEL, seed=5)


def library(layer: int, kind: str = "transcoder", **metadata: Any):
    """One of the library's own transcoders, all of it random; thresholds of either sign."""
    of, config = KINDS[kind]
    sae = of(
        config(d_in=models.D_MODEL, d_out=models.D_MODEL, d_sae=models.N_FEATURES[layer], apply_b_dec_to_input=False)
    )
    stated = {
        "model_name": "tiny",
        "hook_name": f"blocks.{layer}.ln2.hook_normalized",
        "hook_name_out": f"blocks.{layer}.hook_mlp_out",
    }
    for name, value in (stated | metadata).items():
        setattr(sae.cfg.metadata, name, value)
    with torch.no_grad():
        for seed, parameter in enumerate(sae.parameters()):
            parameter.copy_(models.random(*parameter.shape, seed=1000 * layer + seed))
    return sae


def folder_of(path: Path, saes: dict[int, Any]) -> Path:
    for layer, sae in saes.items():
        sae.save_model(path / f"layer_{layer}" / "width_tiny")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_encodes_and_decodes_as_the_library_does(tmp_path: Path, kind):
    saes = {layer: library(layer, kind) for layer in range(models.N_LAYERS)}

    source = open_transcoders(folder_of(tmp_path, saes))

    assert source.info.kind == ("skip" if "skip" in kind else "transcoder")
    assert source.info.n_features == dict(enumerate(models.N_FEATURES))
    for layer, sae in saes.items():
        found = source.load(layer)
        assert (found.read, found.write) == (ReadSite.NORM_PRE_GAIN, WriteSite.MLP_RAW)
        assert found.activation is (Activation.JUMPRELU if "jump" in kind else Activation.RELU)
        with torch.no_grad():
            active = sae.encode(X)
            torch.testing.assert_close(found.encode(X), active)
            torch.testing.assert_close(found.decode(active, X), sae(X))
        assert active.any()


def test_objects_by_layer_are_the_same_set_as_their_folder(tmp_path: Path):
    saes = {layer: library(layer, "jumprelu_transcoder") for layer in range(models.N_LAYERS)}

    given, stored = open_transcoders(saes), open_transcoders(folder_of(tmp_path, saes))

    for layer in saes:
        torch.testing.assert_close(given.load(layer).w_enc, stored.load(layer).w_enc)
        torch.testing.assert_close(given.load(layer).threshold, stored.load(layer).threshold)
    assert given.info.read is stored.info.read
    assert given.info.revision == open_transcoders(saes).info.revision
    assert open_transcoders(saes, [1]).info.layers == [1]


def test_a_neuronpedia_name_becomes_the_name_of_the_set(tmp_path: Path):
    sae = library(0, neuronpedia_id="gemma-2-2b/0-gemmascope-transcoder-16k")

    info = open_transcoders(folder_of(tmp_path, {0: sae})).info

    assert info.name == info.neuronpedia_id == "gemmascope-transcoder-16k"


@pytest.mark.parametrize(
    ("metadata", "read", "write"),
    [
        ({"hook_name": "blocks.0.mlp.hook_in"}, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
        (
            {"hook_name": "blocks.0.mlp.hook_in", "model_from_pretrained_kwargs": {"fold_ln": True}},
            ReadSite.NORM_PRE_GAIN,
            WriteSite.MLP_RAW,
        ),
        (
            {"hook_name": "blocks.0.hook_resid_mid", "model_from_pretrained_kwargs": {"center_writing_weights": True}},
            ReadSite.RESID_MID_CENTRED,
            WriteSite.MLP_RAW_CENTRED,
        ),
        (
            {
                "model_name": "google/gemma-3-1b-pt",
                "hook_name": "blocks.0.hook_mlp_in",
                "hf_hook_name": "model.layers.0.pre_feedforward_layernorm.output",
            },
            ReadSite.NORM_POST_GAIN,
            WriteSite.MLP_POST_NORM,
        ),
    ],
    ids=["post-gain", "folded", "centred", "gemma-3"],
)
def test_how_the_model_was_processed_decides_what_a_hook_denotes(tmp_path: Path, metadata, read, write):
    info = open_transcoders(folder_of(tmp_path, {0: library(0, **metadata)})).info

    assert (info.read, info.write) == (read, write)


def test_a_config_from_before_version_6_is_read(tmp_path: Path):
    folder = folder_of(tmp_path, {1: library(1)})
    path = folder / "layer_1" / "width_tiny" / "cfg.json"
    cfg = json.loads(path.read_text())
    path.write_text(json.dumps({**cfg.pop("metadata"), **cfg, "normalize_activations": False}))

    assert open_transcoders(folder).info.layers == [1]


def configured(folder: Path, **changes: Any) -> None:
    path = folder / "layer_0" / "width_tiny" / "cfg.json"
    cfg = json.loads(path.read_text())
    metadata = {key: changes.pop(key) for key in list(changes) if key.startswith("hook")}
    path.write_text(json.dumps({**cfg, **changes, "metadata": {**cfg["metadata"], **metadata}}))


BAD = {
    "an architecture that is no name": (
        lambda f: configured(f, architecture=["x"]),
        "architecture 'none', whose features are none of this record",
    ),
    "an autoencoder with gates": (lambda f: configured(f, architecture="gated"), "'gated', whose features are none of"),
    "an autoencoder of no known site": (
        lambda f: configured(f, architecture="standard"),
        "'ln2.hook_normalized', which is no known site of an autoencoder; known are hook_resid_pre",
    ),
    "a run-time scale": (
        lambda f: configured(f, normalize_activations="layer_norm"),
        "scales its input at run time.*fold_activation_norm_scaling_factor",
    ),
    "no output hook": (lambda f: configured(f, hook_name_out=None), "must name hook_name and hook_name_out"),
    "a hook without a layer": (lambda f: configured(f, hook_name="mlp.hook_in"), "expected blocks.N.… of one layer"),
    "two layers at once": (lambda f: configured(f, hook_name_out="blocks.2.hook_mlp_out"), "of one layer"),
    "an SAE's hook": (
        lambda f: configured(f, hook_name="blocks.0.hook_resid_pre"),
        "reads at 'hook_resid_pre', which is no known site",
    ),
    "no weights": (
        lambda f: (f / "layer_0" / "width_tiny" / "sae_weights.safetensors").unlink(),
        "stands without sae_weights.safetensors",
    ),
    "two of one layer": (lambda f: library(0).save_model(f / "another"), "two transcoders for layer 0"),
    "two sites": (
        lambda f: library(1, hook_name="blocks.1.mlp.hook_in").save_model(f / "another"),
        "layer 1 has read norm_post_gain, layer 0 has norm_pre_gain",
    ),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, wrong):
    spoil, says = BAD[wrong]
    folder = folder_of(tmp_path, {0: library(0)})
    spoil(folder)

    with pytest.raises(BadTranscoder, match=says):
        _ = open_transcoders(folder).info


def test_an_object_given_for_another_layer_is_refused():
    with pytest.raises(BadTranscoder, match="given for layer 2 says that it is of layer 1"):
        open_transcoders({2: library(1)})


RELEASE = "mwhanna-qwen3-4b-transcoders"


def release_in_cache(cache: Path, monkeypatch: pytest.MonkeyPatch, n_layers: int) -> dict[int, dict[str, torch.Tensor]]:
    """Some layers of a published release, in its own layout but tiny, as the hub's library caches them."""
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
    layers = {}
    for layer in range(n_layers):
        made = models.transcoder(0)
        layers[layer] = {name: getattr(made, field) + layer for name, field in names.items()}
    repository = cached_repository(cache, "mwhanna/qwen3-4b-transcoders")
    (repository / "config.yaml").write_text(yaml.safe_dump({"model_name": "Qwen/Qwen3-4B"}))
    sizes = {"d_model": models.D_MODEL, "d_feature": models.N_FEATURES[0], "batch_size": 8}
    (repository / "wandb-config.yaml").write_text(yaml.safe_dump({key: {"value": v} for key, v in sizes.items()}))
    for layer, tensors in layers.items():
        save_file(tensors, repository / f"layer_{layer}.safetensors")
    without_a_network(monkeypatch, cache)
    return layers


def test_a_release_is_read_through_the_library_from_its_cache(tmp_path: Path, monkeypatch):
    layers = release_in_cache(tmp_path, monkeypatch, n_layers=2)

    source = open_transcoders(f"saelens:{RELEASE}", [0, 1])

    assert (source.info.saelens_release, source.info.neuronpedia_id) == (RELEASE, "transcoder-hp")
    assert (source.info.repo, source.info.layers) == ("mwhanna/qwen3-4b-transcoders", [0, 1])
    assert (source.info.read, source.info.write) == (ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW)
    for layer, tensors in layers.items():
        torch.testing.assert_close(source.load(layer).w_enc, tensors["W_enc"])
        torch.testing.assert_close(source.load(layer).w_dec, tensors["W_dec"])


def test_a_layer_of_a_release_that_is_not_cached_is_out_of_reach(tmp_path: Path, monkeypatch):
    release_in_cache(tmp_path, monkeypatch, n_layers=1)

    with pytest.raises(Unreachable, match="qwen3-4b"):
        open_transcoders(f"saelens:{RELEASE}", [0, 5]).load(5)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("saelens:no-such", "SAELens knows no release 'no-such'; among its transcoders are"),
        ("saelens:gpt2-small-res-jb", "transcoders of layer|stands for no MLP|has nothing like"),
        ("saelens:gemma-scope-2-1b-pt-transcoders-all", r"choose one a layer with a pattern, such as .*layer_\*_width"),
        ("saelens:mntss-gemma-2-2b-2.5m-clt-as-per-layer", "cross-layer set with its decoders summed"),
        ("saelens:gemma-scope-2b-pt-transcoders:nothing*", "has nothing like 'nothing"),
    ],
)
def test_a_release_that_edges_cannot_take_is_refused(tmp_path: Path, monkeypatch, spec, says):
    without_a_network(monkeypatch, tmp_path)

    with pytest.raises(BadTranscoder, match=says):
        open_transcoders(spec)


def test_a_pattern_chooses_one_of_several_a_layer(tmp_path: Path, monkeypatch):
    without_a_network(monkeypatch, tmp_path)

    with pytest.raises(Unreachable, match="google/gemma-scope-2-1b-pt"):  # chosen; only then is the hub asked
        open_transcoders("saelens:gemma-scope-2-1b-pt-transcoders-all:layer_*_width_16k_l0_small")


def test_loading_keeps_what_the_file_holds(tmp_path: Path):
    folder = folder_of(tmp_path, {0: library(0)})

    stored = load_file(folder / "layer_0" / "width_tiny" / "sae_weights.safetensors")

    assert torch.equal(open_transcoders(folder).load(0).w_enc, stored["W_enc"].T)
