"""Plain autoencoders of SAELens at every site: read as the record, they encode as the library itself does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from atlas.errors import BadTranscoder
from atlas.model import ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest import models

sae_lens = pytest.importorskip("sae_lens", reason="comes with the extra: pip install 'feature-atlas[ingest]'")
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig  # noqa: E402
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig  # noqa: E402
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig  # noqa: E402

X = models.random(9, models.D_MODEL, seed=5)
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "standard, input as it is": (StandardSAE, StandardSAEConfig, {"apply_b_dec_to_input": False}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": 5}),
    "topk by length": (TopKSAE, TopKSAEConfig, {"k": 5, "rescale_acts_by_decoder_norm": True}),
}
SITES = {
    "hook_resid_pre": (ReadSite.RESID_PRE, None),
    "hook_resid_mid": (ReadSite.RESID_MID, None),
    "hook_resid_post": (ReadSite.RESID_POST, None),
    "hook_attn_out": (ReadSite.ATTN_RAW, ReadSite.ATTN_POST_NORM),
    "attn.hook_z": (ReadSite.ATTN_Z, None),
    "mlp.hook_out": (ReadSite.MLP_RAW, None),
    "hook_mlp_out": (ReadSite.MLP_RAW, ReadSite.MLP_POST_NORM),
}


def library(layer: int, kind: str = "standard", hook: str = "hook_resid_post", **metadata: Any) -> Any:
    """One of the library's own autoencoders, all of it random."""
    of, config, options = KINDS[kind]
    sae = of(config(d_in=models.D_MODEL, d_sae=models.N_FEATURES[layer], **options))
    for name, value in ({"model_name": "gpt2", "hook_name": f"blocks.{layer}.{hook}"} | metadata).items():
        setattr(sae.cfg.metadata, name, value)
    with torch.no_grad():
        for seed, parameter in enumerate(sae.parameters()):
            parameter.copy_(models.random(*parameter.shape, seed=1000 * layer + seed))
    return sae


def saved(folder: Path, saes: dict[int, Any]) -> Path:
    for layer, sae in saes.items():
        sae.save_model(folder / f"layer_{layer}")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_activations_and_outputs_are_those_of_the_librarys_own_methods(tmp_path: Path, kind):
    saes = {layer: library(layer, kind) for layer in range(3)}

    from_disk = open_transcoders(saved(tmp_path, saes))
    from_memory = open_transcoders(saes)

    assert from_disk.info.kind == from_memory.info.kind == "sae"
    for source in (from_disk, from_memory):
        for layer, sae in saes.items():
            found = source.load(layer)
            with torch.no_grad():
                expected = sae.encode(X)
                output = sae.decode(expected)
            assert 0 < (expected > 0).float().mean() < 1
            torch.testing.assert_close(found.encode(X), expected)
            torch.testing.assert_close(found.decode(found.encode(X)), output)


@pytest.mark.parametrize("hook", SITES)
@pytest.mark.parametrize(("model_name", "behind"), [("gpt2", 0), ("google/gemma-2-2b", 1)])
def test_every_site_of_an_autoencoder_is_known_and_is_where_it_writes(hook, model_name, behind):
    info = open_transcoders({1: library(1, hook=hook, model_name=model_name)}).info

    raw, after = SITES[hook]
    site = after if behind and after else raw
    assert (info.read, info.write, info.kind) == (site, WriteSite(str(site)), "sae")


def test_of_a_model_with_centred_writes_it_reads_what_is_left_without_the_mean():
    sae = library(1, model_from_pretrained_kwargs={"center_writing_weights": True})
    centred = X - X.mean(dim=-1, keepdim=True)

    found = open_transcoders({1: sae}).load(1)

    with torch.no_grad():
        torch.testing.assert_close(found.encode(X), sae.encode(centred))


def test_a_config_from_before_version_6_is_read(tmp_path: Path):
    sae = library(0, "topk")
    folder = saved(tmp_path, {0: sae}) / "layer_0"
    old = {
        "hook_point": "blocks.0.hook_resid_pre",
        "model_name": "gpt2",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 5},
        "d_in": models.D_MODEL,
    }
    (folder / "cfg.json").write_text(json.dumps(old))

    source = open_transcoders(tmp_path)

    assert (source.info.read, source.info.l0) == (ReadSite.RESID_PRE, {0: 5.0})
    with torch.no_grad():
        torch.testing.assert_close(source.load(0).encode(X), sae.encode(X))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hook_name": "blocks.0.attn.hook_q"}, "'attn.hook_q', which is no known site of an autoencoder"),
        ({"hook_name": "hook_embed"}, "expected blocks.N.… of one layer"),
        ({"hook_name": "blocks.0.hook_mlp_out", "model_name": None}, "lies behind a norm in Gemma and not elsewhere"),
    ],
)
def test_a_site_that_nobody_knows_is_refused(change, says):
    sae = library(0)
    for name, value in change.items():
        setattr(sae.cfg.metadata, name, value)

    with pytest.raises(BadTranscoder, match=says):
        open_transcoders({0: sae})


def test_only_autoencoders_of_the_stream_have_edges():
    model = open_model(models.model("gpt2"), models.tokenizer())
    stream = open_transcoders({1: library(1)}, model=model)
    elsewhere = open_transcoders({1: library(1, hook="mlp.hook_out")}, model=model)

    vectors = Vectors(model, stream)

    assert torch.equal(vectors.reads(1), stream.load(1).w_enc)
    assert torch.equal(vectors.writes(1), stream.load(1).w_dec)
    with pytest.raises(BadTranscoder, match="autoencoders of mlp_raw, which is not the stream: no dot product"):
        Vectors(model, elsewhere)
