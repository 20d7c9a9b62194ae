"""Edges of cross-layer sets and edges through skips are what switching the source on does, in models of every family.

As in ``test_intervention``: everything but the paths in question is held still, the source is switched on by hooks on
the library's own modules, at every layer it writes at, and what the target reads is compared with
:class:`ingest.folding.Vectors`.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from atlas.errors import BadSetting, BadTranscoder
from atlas.model import TRANSCODER_READS, TRANSCODER_WRITES, ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.skips import Sigmas
from ingest.transcoder import TranscoderSource
from tests.unit.ingest import models
from tests.unit.ingest.cross import CrossLayer
from tests.unit.ingest.replaced import Replaced
from tests.unit.ingest.sites import CASES, KINDS, SITES
from tests.unit.ingest.test_intervention import IDS, frozen, largest_error, weights

R, W = ReadSite, WriteSite
POSITION, SWITCHED_ON = 4, 3.0
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
TWICE = [(*case, torch.float32) for case in CASES]
TWICE += [(*case, torch.float64) for case in CASES if case[1] in models.FAMILIES]
ENDS = ("kind", "family", "read", "write", "dtype")

every_case = pytest.mark.parametrize(ENDS, TWICE, ids=str)
every_skip = pytest.mark.parametrize(ENDS, [case for case in TWICE if "skips" in case[0]], ids=str)


def source_of(kind: str, read: ReadSite, write: WriteSite, dtype: torch.dtype) -> TranscoderSource:
    skip = "skips" in kind
    if kind.startswith("cross-layer"):
        return CrossLayer(read, write, skip=skip, dtype=dtype)
    return models.transcoders(read, write, skip=skip, dtype=dtype)


def sigmas_at(real: Replaced, read: ReadSite, write: WriteSite, position: int) -> Sigmas:
    """The denominators of one position, in place of means over a text: with them a path is exact."""
    return Sigmas(
        {layer: 1 / real.read_sigma(layer, read, position).item() for layer in range(models.N_LAYERS)},
        {layer: 1 / real.write_sigma(layer, write, position).item() for layer in range(models.N_LAYERS)},
    )


def both(kind: str, family: str, read: ReadSite, write: WriteSite, dtype: torch.dtype, position: int = POSITION):
    source = source_of(kind, read, write, dtype)
    skips = "skips" in kind
    real = Replaced(frozen(family, dtype), source, skips)
    sigmas = sigmas_at(real, read, write, position) if skips else None
    return real, Vectors(weights(family, dtype), source, dtype=dtype, with_skips=skips, sigmas=sigmas)


def written(source: TranscoderSource, layer: int) -> dict[int, Tensor]:
    """What a layer's features write, by the layer at which they do."""
    if isinstance(source, CrossLayer):
        return {into: source.decoder(layer, into) for into in range(layer, models.N_LAYERS)}
    return {layer: source.load(layer).w_dec}


@every_case
def test_an_edge_between_features_is_what_the_source_does_to_the_target(kind, family, read, write, dtype):
    real, predicted = both(kind, family, read, write, dtype)
    source = predicted.source

    errors = []
    for earlier in range(models.N_LAYERS):
        put = {into: SWITCHED_ON * vectors for into, vectors in written(source, earlier).items()}
        after = real.change(None, put, POSITION)
        for later in range(earlier + 1, models.N_LAYERS):
            target = source.load(later)
            moved = real.pre_activations(after, target) - real.pre_activations(real.clean, target)
            scale = real.read_sigma(later, read, POSITION) * real.write_sigma(earlier, write, POSITION) / SWITCHED_ON
            edges = predicted.writes(earlier, later) @ predicted.reads(later).T
            errors.append(largest_error(moved[:, POSITION] * scale, edges))

    assert max(errors) < TOLERANCE[dtype]


@every_case
def test_an_edge_to_a_logit_is_what_the_feature_does_to_it_against_all_others(kind, family, read, write, dtype):
    real, predicted = both(kind, family, read, write, dtype)

    errors = []
    for layer in range(models.N_LAYERS):
        put = {into: SWITCHED_ON * vectors for into, vectors in written(predicted.source, layer).items()}
        moved = (real.change(None, put, POSITION).logits - real.clean.logits)[:, POSITION]
        moved = moved - moved.mean(-1, keepdim=True)
        scale = real.final_sigma(POSITION) * real.write_sigma(layer, write, POSITION) / SWITCHED_ON
        errors.append(largest_error(moved * scale, predicted.writes(layer) @ predicted.logit_reads().T))

    assert max(errors) < TOLERANCE[dtype]


@every_skip
def test_an_edge_from_a_token_runs_through_every_skip_before_the_feature(kind, family, read, write, dtype):
    real, predicted = both(kind, family, read, write, dtype)
    embedded = real.embedding(torch.arange(models.N_VOCAB)).detach()

    after = real.change(SWITCHED_ON * embedded, {}, POSITION)
    errors = []
    for layer in range(models.N_LAYERS):
        target = predicted.source.load(layer)
        moved = real.pre_activations(after, target) - real.pre_activations(real.clean, target)
        measured = moved[:, POSITION] * real.read_sigma(layer, read, POSITION) / SWITCHED_ON
        errors.append(largest_error(measured, predicted.token_writes(layer) @ predicted.reads(layer).T))

    assert max(errors) < TOLERANCE[dtype]


@pytest.mark.parametrize(ENDS[:-1], CASES, ids=str)
def test_all_that_reaches_a_feature_adds_up_to_its_pre_activation(kind, family, read, write):
    for position in (2, POSITION):
        real, vectors = both(kind, family, read, write, torch.float32, position)
        source, model = vectors.source, vectors.model
        for layer in range(models.N_LAYERS):
            embedded = vectors.token_writes(layer)[IDS[0, position]]
            total = embedded + sum(_added(real, vectors, before, layer, position) for before in range(layer + 1))
            if model.positions is not None:
                total = total + vectors.carried(model.positions[position], 0, layer)
            total = total @ vectors.reads(layer).T + vectors.constant(layer)
            pre = total / real.read_sigma(layer, read, position) + vectors.bias(layer)

            expected = real.pre_activations(real.clean, source.load(layer))[0, position]
            assert ((pre - expected).abs().max() / expected.abs().max()).item() < 1e-4


def _added(real: Replaced, vectors: Vectors, before: int, layer: int, position: int) -> Tensor:
    """What attention, features and the error of one layer have become where a later one reads."""
    source, info = vectors.source, vectors.source.info
    name = real.post_attention_norm(before)
    attention = (real.clean.norm_out[name] if name else real.clean.attention[before])[0, position]
    beside = vectors.model.parallel  # what attention adds is then read by later layers only
    if beside and before == layer:
        return torch.zeros(models.D_MODEL)
    total = vectors.carried(attention - vectors.model.layers[before].attention_constant, before + beside, layer)
    if before == layer:
        return total
    transcoder = source.load(before)
    x = real.site(real.clean, before, info.read)[0]
    active, behind = transcoder.encode(x), real.write_sigma(before, info.write, position).item()
    predicted = transcoder.decode(active, x)
    for earlier in range(before if info.targets else 0):
        y = source.load(earlier).encode(real.site(real.clean, earlier, info.read)[0])
        predicted = predicted + y @ source.decoder(earlier, before)
    if not vectors.with_skips and transcoder.w_skip is not None:
        predicted = predicted - x @ transcoder.w_skip.T
    # What a set leaves out is the model's own, and part of the error. A constant is told without the denominator of a
    # norm behind it, which depends on the text.
    error = (real.added(before) - real.arriving(before, info.write, predicted))[position]
    constant = real.arriving(before, info.write, transcoder.b_dec.expand_as(x))[position] * (1 - behind)
    total = total + active[position] @ vectors.writes(before, layer) / behind
    return total + vectors.carried(error + constant, before + 1, layer)


def test_a_path_through_skips_differs_from_the_direct_one_only_where_a_skip_lies_between():
    source = models.transcoders(R.RESID_MID, W.MLP_RAW, skip=True)
    direct, through = (Vectors(weights("llama", torch.float32), source, with_skips=skips) for skips in (False, True))

    assert torch.equal(direct.writes(0, 1), through.writes(0, 1))
    assert not torch.allclose(direct.writes(0, 2), through.writes(0, 2))
    torch.testing.assert_close(
        through.writes(0, 2), direct.writes(0, 2) + direct.writes(0, 2) @ source.load(1).w_skip.T
    )


def test_sums_are_the_same_in_whatever_order_they_are_asked_for_and_however_little_is_kept():
    source = CrossLayer(R.RESID_MID, W.MLP_RAW, skip=True)
    roomy = Vectors(weights("llama", torch.float32), source, with_skips=True)
    tight = Vectors(weights("llama", torch.float32), source, with_skips=True, cache_bytes=0)
    pairs = [(s, t) for s in range(3) for t in (*range(s + 1, 4),)]

    forwards = {pair: roomy.writes(*pair) for pair in pairs}

    for s, t in reversed(pairs):
        torch.testing.assert_close(tight.writes(s, t), forwards[s, t])
    torch.testing.assert_close(tight.writes(0), forwards[0, 3])


def test_a_decoder_is_read_once_while_targets_ascend():
    source = CrossLayer(R.RESID_MID, W.MLP_RAW)
    vectors = Vectors(weights("llama", torch.float32), source)

    for target in range(1, 4):
        for layer in range(target):
            vectors.writes(layer, target)

    assert sorted(source.read) == [(s, t) for s in range(3) for t in range(s + 1, 3)]


def test_paths_through_skips_need_skips_and_where_a_norm_lies_between_its_denominator():
    plain = models.transcoders(R.RESID_MID, W.MLP_RAW)
    normed = models.transcoders(R.NORM_POST_GAIN, W.MLP_RAW, skip=True)

    with pytest.raises(BadTranscoder, match="has no skips, so there is no path through them"):
        Vectors(weights("llama", torch.float32), plain, with_skips=True)
    with pytest.raises(BadSetting, match="denominator depends on the text; edges through skips need its mean over one"):
        Vectors(weights("llama", torch.float32), normed, with_skips=True).writes(0, 2)


@pytest.mark.parametrize("family", models.EVERY)
def test_each_place_that_a_family_admits_is_proven_and_every_other_is_refused_in_one_line(family):
    model, found, refused = weights(family, torch.float32), [], {}
    proven = {*CASES, *(("plain", *site) for site in SITES)}

    for kind, read, write in product(("plain", *KINDS), TRANSCODER_READS, TRANSCODER_WRITES):
        source = source_of(kind, read, write, torch.float32)
        try:
            Vectors(model, source, with_skips="skips" in kind)
            found.append((kind, family, read, write))
        except BadTranscoder as error:
            refused[kind, read, write] = str(error)

    assert set(found) == {case for case in proven if case[1] == family}
    assert len(found) + len(refused) == 4 * 4 * 3
    assert all("\n" not in said and 40 < len(said) < 250 for said in refused.values())
    assert {next((why for why in WHY if why in said), said) for said in refused.values()} <= set(WHY)


WHY = (
    "has RMSNorm: nothing is centred",
    "reads behind a norm before the MLP, but",
    "writes behind a norm after the MLP, but",
    "each has a denominator of its own, so its writes do not add up to an edge",
)
"""all that a site can be refused for"""
