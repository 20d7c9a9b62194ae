"""All that reaches a feature, added up, is its pre-activation: nothing of the stream is forgotten or counted twice."""

from __future__ import annotations

import pytest
import torch

from atlas.model import Activation, ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.frozen import Frozen

R, W = ReadSite, WriteSite
KINDS = [
    pytest.param({"activation": Activation.RELU}, id="relu"),
    pytest.param({"activation": Activation.JUMPRELU}, id="jumprelu"),
    pytest.param({"activation": Activation.TOPK}, id="topk"),
    pytest.param({"skip": True}, id="skip"),
]
# Behind gemma2's post-norm a constant keeps that norm's denominator, so only what writes after it adds up by itself.
SITES = [
    ("gpt2", R.RESID_MID, W.MLP_RAW),
    ("gpt2", R.RESID_MID_CENTRED, W.MLP_RAW),
    ("gpt2", R.NORM_PRE_GAIN, W.MLP_RAW),
    ("gpt2", R.NORM_POST_GAIN, W.MLP_RAW),
    *[
        (family, read, W.MLP_POST_NORM if family == "gemma2" else W.MLP_RAW)
        for family in ("llama", "qwen3", "gemma2")
        for read in (R.RESID_MID, R.NORM_PRE_GAIN, R.NORM_POST_GAIN)
    ],
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "read", "write"), SITES, ids=lambda value: str(value))
def test_tokens_positions_features_errors_attention_and_constants_add_up_to_the_pre_activation(
    family, read, write, kind
):
    ids = torch.tensor([[0, 31, 7, 44, 12, 50, 3]])
    library = models.model(family)
    real = Frozen(library, ids)
    model = open_model(library, models.tokenizer())
    source = models.transcoders(read, write, **kind)
    vectors = Vectors(model, source)

    for layer in range(models.N_LAYERS):
        reads = vectors.reads(layer)
        total = vectors.token_writes()[ids[0]] @ reads.T + vectors.constant(layer)
        if model.positions is not None:
            total += model.positions[: ids.shape[1]] @ reads.T
        for before in range(layer + 1):
            name = real.post_attention_norm(before)
            attention = real.clean.norm_out[name] if name else real.clean.attention[before]
            total += (attention[0] - model.layers[before].attention_constant) @ reads.T
        for before in range(layer):
            transcoder = source.load(before)
            x = real.site(real.clean, before, read)[0]
            active = transcoder.encode(x)
            written = (
                real.clean.mlp_out[before] if write is W.MLP_RAW else real.clean.norm_out[real.post_mlp_norm(before)]
            )
            error = written[0] - transcoder.decode(active, x)
            total += active @ (vectors.writes(before) @ reads.T) + error @ reads.T
            if transcoder.w_skip is not None:
                total += (x @ transcoder.w_skip.T) @ reads.T
        sigma = torch.stack([real.read_sigma(layer, read, position) for position in range(ids.shape[1])])
        total = total / sigma + vectors.bias(layer)

        expected = real.pre_activations(real.clean, source.load(layer))[0]
        assert ((total - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize("family", models.FAMILIES)
def test_attention_that_reads_nothing_but_its_norms_bias_adds_the_constant(family):
    library = models.model(family)
    real = Frozen(library, torch.tensor([[0, 31, 7, 44, 12]]))
    model = open_model(library, models.tokenizer())
    added = {}

    def only_the_bias(module, inputs, given):
        bias = real.blocks[layer].ln_1.bias if family == "gpt2" else torch.zeros(1)
        read = bias.expand(1, 5, models.D_MODEL)
        return ((read, *inputs[1:]), given) if inputs else ((), given | {"hidden_states": read})

    for layer, block in enumerate(real.blocks):
        attention = block.attn if family == "gpt2" else block.self_attn
        handles = [
            attention.register_forward_pre_hook(only_the_bias, with_kwargs=True),
            attention.register_forward_hook(lambda module, inputs, output: added.update({layer: output[0]})),  # noqa: B023
        ]
        with torch.no_grad():
            library(real.ids, use_cache=False)
        for handle in handles:
            handle.remove()

        expected = model.layers[layer].attention_constant.expand(1, 5, -1)
        assert expected.any() == (family != "gemma2")
        torch.testing.assert_close(added[layer], expected, atol=1e-5, rtol=1e-5)
