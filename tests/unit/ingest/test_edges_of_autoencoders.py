"""Edges of autoencoders of the stream: what tokens put where they read, and what they put is worth to logits.

Measured as in ``test_intervention``, at the blocks themselves: the stream that enters one, leaves it, or lies between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
import torch
from torch import Tensor

from atlas.errors import BadSetting, BadTranscoder
from atlas.model import RESIDUAL, ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.plan import Sizes
from ingest.sources.memory import InMemory
from ingest.through import units
from tests.unit.ingest import models
from tests.unit.ingest.frozen import Frozen, Values
from tests.unit.ingest.test_intervention import POSITION, SWITCHED_ON, frozen, largest_error, weights

R = ReadSite
every_site = pytest.mark.parametrize(("family", "site"), list(product(models.EVERY, RESIDUAL)), ids=str)


def autoencoders(site: ReadSite) -> InMemory:
    return models.transcoders(site, WriteSite(str(site)))


def stream(real: Frozen, layer: int, site: ReadSite, change: Tensor | None = None) -> tuple[Values, Tensor]:
    """A run and the stream at a site, seen by the block; with a change [batch, d_model], it is of the embedding."""
    seen: dict[str, Tensor] = {}

    def entered(module, inputs, given) -> None:
        seen["pre"] = inputs[0] if inputs else given["hidden_states"]

    def left(module, inputs, output) -> None:
        seen["post"] = output[0] if isinstance(output, tuple) else output

    block = real.blocks[layer]
    hooks = [block.register_forward_pre_hook(entered, with_kwargs=True), block.register_forward_hook(left)]
    try:
        put = torch.zeros(1, models.D_MODEL) if change is None else change
        values = real.changed(put, POSITION)
    finally:
        for hook in hooks:
            hook.remove()
    if site is R.RESID_MID:
        norm = real.mlp_norm(layer)
        return values, values.norm_in[norm] if norm else values.mlp_in[layer]
    return values, seen["pre" if site is R.RESID_PRE else "post"]


@contextmanager
def written(real: Frozen, layer: int, site: ReadSite, change: Tensor) -> Iterator[None]:
    """The stream at a site of one block changed, at one position."""
    put = torch.zeros(len(change), real.ids.shape[1], change.shape[1])
    put[:, POSITION] = change
    block = real.blocks[layer]

    def entering(module, inputs, given):
        return (
            ((inputs[0] + put, *inputs[1:]), given)
            if inputs
            else (inputs, {**given, "hidden_states": given["hidden_states"] + put})
        )

    def leaving(module, inputs, output):
        return (output[0] + put, *output[1:]) if isinstance(output, tuple) else output + put

    if site is R.RESID_PRE:
        hook = block.register_forward_pre_hook(entering, with_kwargs=True)
    else:  # attention and MLP are held: what is added between them leaves the block
        hook = block.register_forward_hook(leaving)
    try:
        yield
    finally:
        hook.remove()


@every_site
def test_an_edge_from_a_token_is_what_its_embedding_does_to_the_stream_that_is_read(family, site):
    source = autoencoders(site)
    real, predicted = frozen(family, torch.float32), Vectors(weights(family, torch.float32), source)
    embedded = real.embedding(torch.arange(models.N_VOCAB)).detach()

    for layer in range(models.N_LAYERS):
        to = source.load(layer)
        after, before = (stream(real, layer, site, put)[1] for put in (SWITCHED_ON * embedded, None))
        measured = (after - before)[:, POSITION] @ to.w_enc.T / SWITCHED_ON
        assert largest_error(measured, predicted.token_writes() @ predicted.reads(layer).T) < 1e-5


@every_site
def test_an_edge_to_a_logit_is_what_its_direction_in_the_stream_does_to_it(family, site):
    source = autoencoders(site)
    real, predicted = frozen(family, torch.float32), Vectors(weights(family, torch.float32), source)

    for layer in range(models.N_LAYERS):
        put = SWITCHED_ON * source.load(layer).w_dec
        with written(real, layer, site, put):
            after = real.changed(torch.zeros_like(put), POSITION)
        moved = (after.logits - real.clean.logits)[:, POSITION]
        moved = (moved - moved.mean(-1, keepdim=True)) * real.final_sigma(POSITION) / SWITCHED_ON
        assert largest_error(moved, predicted.writes(layer) @ predicted.logit_reads().T) < 1e-5


@every_site
def test_tokens_positions_attention_mlps_and_constants_add_up_to_what_is_read(family, site):
    source, model = autoencoders(site), weights(family, torch.float32)
    real, vectors = frozen(family, torch.float32), Vectors(model, source)
    length = real.ids.shape[1]

    for layer in range(models.N_LAYERS):
        total = vectors.token_writes()[real.ids[0]]
        if model.positions is not None:
            total = total + model.positions[:length]
        own = site is R.RESID_POST or (site is R.RESID_MID and not real.anatomy.parallel)
        for before in range(layer + own):
            name = real.post_attention_norm(before)
            attention = (real.clean.norm_out[name] if name else real.clean.attention[before])[0]
            total = total + attention - model.layers[before].attention_constant
        for before in range(layer + (site is R.RESID_POST)):
            total = total + real.added(before)
        pre = total @ vectors.reads(layer).T + vectors.constant(layer) + vectors.bias(layer)

        to = source.load(layer)
        expected = stream(real, layer, site)[1][0] @ to.w_enc.T + to.b_enc
        assert ((pre - expected).abs().max() / expected.abs().max()).item() < 1e-4


@pytest.mark.parametrize("family", models.EVERY)
def test_autoencoders_elsewhere_and_their_edges_through_heads_are_refused_in_one_line(family):
    model = weights(family, torch.float32)

    for site in WriteSite:
        if site is WriteSite.MLP_RAW_CENTRED:
            continue  # where nothing reads
        elsewhere = autoencoders(R(str(site)))
        if elsewhere.info.read in RESIDUAL:
            vectors = Vectors(model, elsewhere)
            assert not Sizes.of(vectors).feeds
            with pytest.raises(BadSetting, match=r"^\S+ are autoencoders; edges through heads .* leave --heads out$"):
                units(vectors, Sizes.of(vectors))
        else:
            with pytest.raises(BadTranscoder, match=rf"^\S+ are autoencoders of {site}, which is not the stream: .*$"):
                Vectors(model, elsewhere)
