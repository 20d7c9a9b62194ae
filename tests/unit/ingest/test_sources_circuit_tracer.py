"""circuit-tracer's per-layer layout: what is written is what is read, by the documented formulae."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from ingest.transcoder import Transcoder
from ingest.weights import open_model
from tests.unit.ingest import models

X = models.random(6, models.D_MODEL, seed=77)
TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "w_skip")


def some(**options) -> list[Transcoder]:
    return [models.transcoder(layer, **options) for layer in range(models.N_LAYERS)]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        pytest.param({"activation": Activation.RELU}, {}, id="relu"),
        pytest.param({"activation": Activation.RELU}, {"activation": "relu"}, id="relu-stated"),
        pytest.param({"activation": Activation.JUMPRELU}, {}, id="jumprelu"),
        pytest.param({"activation": Activation.TOPK}, {"activation": "topk", "k": 5}, id="topk"),
        pytest.param({"skip": True}, {}, id="skip"),
    ],
)
def test_what_is_written_is_read_back(tmp_path: Path, options, config):
    written = some(**options)
    folder = models.write_circuit_tracer(tmp_path / "set", written, **config)

    source = open_transcoders(folder)

    assert source.info.layers == [0, 1, 2]
    assert source.info.n_features == dict(enumerate(models.N_FEATURES))
    assert source.info.kind == ("skip" if options.get("skip") else "transcoder")
    assert source.info.activation is written[0].activation
    assert (source.info.d_model, source.info.repo, source.info.model_name) == (models.D_MODEL, "set", "tiny")
    for expected in written:
        found = source.load(expected.layer)
        assert (found.k, found.read, found.write) == (expected.k, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW)
        for name in TENSORS:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def test_activations_and_outputs_follow_the_documented_formulae():
    relu, jump, top, skip = (
        models.transcoder(1),
        models.transcoder(1, activation=Activation.JUMPRELU),
        models.transcoder(1, activation=Activation.TOPK),
        models.transcoder(1, skip=True),
    )
    p = X @ relu.w_enc.T + relu.b_enc
    kept = p >= p.sort(dim=1, descending=True).values[:, 4:5]

    torch.testing.assert_close(relu.encode(X), p.clamp(min=0))
    torch.testing.assert_close(jump.encode(X), p * (p > jump.threshold))
    torch.testing.assert_close(top.encode(X), (p * kept).clamp(min=0))
    active = relu.encode(X)
    torch.testing.assert_close(relu.decode(active), active @ relu.w_dec + relu.b_dec)
    torch.testing.assert_close(skip.decode(active, X), active @ skip.w_dec + skip.b_dec + X @ skip.w_skip.T)


def test_top_k_never_lets_a_negative_pre_activation_through():
    few_positive = models.transcoder(0, activation=Activation.TOPK)
    low = Transcoder(**vars(few_positive) | {"b_enc": few_positive.b_enc - 100})

    assert not low.encode(X).any()


@pytest.mark.parametrize("transposed", [("W_enc",), ("W_dec",), ("W_enc", "W_dec")], ids=str)
def test_either_orientation_becomes_features_in_rows(tmp_path: Path, transposed):
    written = some()
    folder = models.write_circuit_tracer(tmp_path, written)
    for layer in range(models.N_LAYERS):
        tensors = load_file(folder / f"layer_{layer}.safetensors")
        turned = {name: tensor.T.contiguous() if name in transposed else tensor for name, tensor in tensors.items()}
        save_file(turned, folder / f"layer_{layer}.safetensors")

    source = open_transcoders(folder)

    for expected in written:
        assert torch.equal(source.load(expected.layer).w_enc, expected.w_enc)
        assert torch.equal(source.load(expected.layer).w_dec, expected.w_dec)


READS = {
    "hook_resid_mid": ReadSite.RESID_MID,
    "blocks.2.hook_mlp_in": ReadSite.RESID_MID,
    "ln2.hook_normalized": ReadSite.NORM_PRE_GAIN,
    "mlp.hook_in": ReadSite.NORM_POST_GAIN,
}


@pytest.mark.parametrize(("hook", "site"), READS.items())
def test_each_known_hook_names_one_site(tmp_path: Path, hook, site):
    folder = models.write_circuit_tracer(tmp_path, some(), read=hook)

    assert open_transcoders(folder).info.read is site


@pytest.mark.parametrize(
    ("family", "stated", "site"),
    [
        ("llama", "google/gemma-2-2b", WriteSite.MLP_RAW),  # the model at hand decides over a name
        ("gemma2", "tiny", WriteSite.MLP_POST_NORM),
        (None, "google/gemma-2-2b", WriteSite.MLP_POST_NORM),
        (None, "gemma-3-1b", WriteSite.MLP_POST_NORM),
        (None, "gpt2", WriteSite.MLP_RAW),
    ],
)
def test_hook_mlp_out_lies_behind_a_norm_where_the_model_has_one(tmp_path: Path, family, stated, site):
    folder = models.write_circuit_tracer(tmp_path, some(), write="hook_mlp_out", model_name=stated)
    model = open_model(models.model(family), models.tokenizer()) if family else None

    assert open_transcoders(folder, model=model).info.write is site


def test_the_config_may_list_one_file_a_layer_in_safetensors_or_npz(tmp_path: Path):
    written = some(activation=Activation.JUMPRELU)
    folder = models.write_circuit_tracer(tmp_path, written)
    (folder / "deep").mkdir()
    (folder / "layer_0.safetensors").rename(folder / "deep" / "first.safetensors")
    one = written[1]
    np.savez(  # Gemma Scope's names and orientation
        folder / "params.npz",
        W_enc=one.w_enc.T,
        W_dec=one.w_dec,
        b_enc=one.b_enc,
        b_dec=one.b_dec,
        threshold=one.threshold,
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["transcoders"] = ["deep/first.safetensors", "params.npz"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    source = open_transcoders(folder)

    assert set(source.info.files) == {"config.yaml", "deep/first.safetensors", "params.npz"}
    for expected in written[:2]:
        assert torch.equal(source.load(expected.layer).w_enc, expected.w_enc)
        assert torch.equal(source.load(expected.layer).threshold, expected.threshold)


def test_half_precision_is_read_as_float32(tmp_path: Path):
    folder = models.write_circuit_tracer(tmp_path, some(activation=Activation.JUMPRELU))
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)

    found = open_transcoders(folder).load(0)
    assert (found.w_enc.dtype, found.threshold.dtype) == (torch.float32, torch.float32)


def test_some_layers_can_be_asked_for(tmp_path: Path):
    folder = models.write_circuit_tracer(tmp_path, some())

    source = open_transcoders(folder, [2, 0])

    assert source.info.layers == [0, 2]
    assert set(source.info.files) == {"config.yaml", "layer_0.safetensors", "layer_2.safetensors"}


def test_a_layer_is_read_when_it_is_asked_for_and_not_before(tmp_path: Path):
    folder = models.write_circuit_tracer(tmp_path, some())
    source = open_transcoders(folder)
    (folder / "layer_2.safetensors").unlink()

    assert source.load(0).n_features == models.N_FEATURES[0]


def test_the_revision_is_of_the_content_not_of_the_place(tmp_path: Path):
    folder = models.write_circuit_tracer(tmp_path / "here" / "set", some())
    copy = shutil.copytree(folder, tmp_path / "there" / "set")
    other = models.write_circuit_tracer(tmp_path / "other" / "set", some(skip=True))

    assert open_transcoders(folder).info == open_transcoders(copy).info
    assert open_transcoders(folder).info.revision != open_transcoders(other).info.revision
