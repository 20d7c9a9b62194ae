"""All that reaches a feature, added up, is its pre-activation: nothing of the stream is forgotten or counted twice."""

from __future__ import annotations

import pytest
import torch

from atlas.model import Activation
from ingest.folding import Vectors
from tests.unit.ingest import models
from tests.unit.ingest.sites import SITES
from tests.unit.ingest.test_intervention import frozen, weights

WITH_BIAS = ("gpt2", "gpt_neox", "gpt_neox_serial", "phi", "llama", "qwen2", "qwen3")
KINDS = [
    {"activation": Activation.RELU},
    {"activation": Activation.JUMPRELU},
    {"activation": Activation.TOPK},
    {"skip": True},
]
CASES = [(*site, kind) for site in SITES for kind in (KINDS if site[0] in models.FAMILIES else KINDS[:1])]


@pytest.mark.parametrize(("family", "read", "write", "kind"), CASES, ids=lambda value: str(value))
def test_tokens_positions_features_errors_attention_and_constants_add_up_to_the_pre_activation(
    family, read, write, kind
):
    real, model = frozen(family, torch.float32), weights(family, torch.float32)
    ids, source = real.ids, models.transcoders(read, write, **kind)
    vectors = Vectors(model, source)

    for layer in range(models.N_LAYERS):
        reads = vectors.reads(layer)
        total = vectors.token_writes()[ids[0]] @ reads.T + vectors.constant(layer)
        if model.positions is not None:
            total += model.positions[: ids.shape[1]] @ reads.T
        for before in range(layer + (not real.anatomy.parallel)):
            name = real.post_attention_norm(before)
            attention = real.clean.norm_out[name] if name else real.clean.attention[before]
            total += (attention[0] - model.layers[before].attention_constant) @ reads.T
        for before in range(layer):
            transcoder = source.load(before)
            x = real.site(real.clean, before, read)[0]
            active = transcoder.encode(x)
            behind = torch.stack(
                [real.write_sigma(before, write, position) for position in range(ids.shape[1])]
            ).float()
            error = real.added(before) - real.arriving(before, write, transcoder.decode(active, x))
            total += active @ (vectors.writes(before) @ reads.T) / behind + error @ reads.T
            # a constant is told without the denominator of a norm behind it, which depends on the text
            total += real.arriving(before, write, transcoder.b_dec.expand_as(x)) * (1 - behind) @ reads.T
            if transcoder.w_skip is not None:
                total += real.arriving(before, write, x @ transcoder.w_skip.T) @ reads.T
        sigma = torch.stack([real.read_sigma(layer, read, position) for position in range(ids.shape[1])])
        total = total / sigma + vectors.bias(layer)

        expected = real.pre_activations(real.clean, source.load(layer))[0]
        assert ((total - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize("family", models.EVERY)
def test_attention_that_reads_nothing_but_its_norms_bias_adds_the_constant(family):
    real, model = frozen(family, torch.float32), weights(family, torch.float32)
    added = {}

    def only_the_bias(module, inputs, given):
        norm = real.anatomy.attention_norm
        bias = getattr(real.blocks[layer].get_submodule(norm), "bias", None) if norm else None
        bias = torch.zeros(1) if bias is None else bias
        read = bias.expand(*real.ids.shape, models.D_MODEL)
        return ((read, *inputs[1:]), given) if inputs else ((), given | {"hidden_states": read})

    for layer, block in enumerate(real.blocks):
        attention = block.get_submodule(real.anatomy.attention)
        handles = [
            attention.register_forward_pre_hook(only_the_bias, with_kwargs=True),
            attention.register_forward_hook(lambda module, inputs, output: added.update({layer: output[0]})),  # noqa: B023
        ]
        with torch.no_grad():
            real.model(real.ids, use_cache=False)
        for handle in handles:
            handle.remove()

        expected = model.layers[layer].attention_constant.expand(*real.ids.shape, -1)
        assert expected.any() == (family in WITH_BIAS)
        torch.testing.assert_close(added[layer], expected, atol=1e-5, rtol=1e-5)
