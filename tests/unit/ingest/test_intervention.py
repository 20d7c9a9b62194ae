"""Edges are what switching a source on does: predicted by a dot product, measured in real models of every family.

Everything but the direct path is held still (:mod:`tests.unit.ingest.frozen`), the source is switched on by a hook on
the library's module, and the change of what the target reads is compared with :class:`ingest.folding.Vectors`.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from atlas.model import ReadSite, WriteSite
from ingest import families
from ingest.folding import Vectors
from ingest.sources.memory import InMemory
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.frozen import Frozen
from tests.unit.ingest.sites import SITES

R, W = ReadSite, WriteSite
IDS = torch.tensor([[0, 31, 7, 44, 12, 50, 3]])
POSITION = 4
SWITCHED_ON = 3.0
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

CASES = [(*site, torch.float32) for site in SITES]
CASES += [(*site, torch.float64) for site in SITES if site[0] in models.FAMILIES]
every_site = pytest.mark.parametrize(("family", "read", "write", "dtype"), CASES, ids=lambda value: str(value))


@cache
def frozen(family: str, dtype: torch.dtype) -> Frozen:
    return Frozen(models.model(family, dtype=dtype), IDS, family)


@cache
def weights(family: str, dtype: torch.dtype):
    return open_model(models.model(family), models.tokenizer())


def vectors(family: str, source: InMemory, dtype: torch.dtype) -> Vectors:
    return Vectors(weights(family, dtype), source, dtype=dtype)


def largest_error(measured: Tensor, predicted: Tensor) -> float:
    """The largest difference, against the largest edge of the same kind."""
    assert measured.shape == predicted.shape
    assert predicted.abs().max() > 0.1
    return ((measured - predicted).abs().max() / predicted.abs().max()).item()


@every_site
def test_an_edge_between_features_is_what_switching_the_source_on_does_to_the_target(family, read, write, dtype):
    source = models.transcoders(read, write, dtype=dtype)
    real, predicted = frozen(family, dtype), vectors(family, source, dtype)

    errors = []
    for earlier in range(models.N_LAYERS - 1):
        put = SWITCHED_ON * source.load(earlier).w_dec
        after = real.changed(put, POSITION, layer=earlier, site=write)
        for later in range(earlier + 1, models.N_LAYERS):
            target = source.load(later)
            moved = real.pre_activations(after, target) - real.pre_activations(real.clean, target)
            scale = real.read_sigma(later, read, POSITION) * real.write_sigma(earlier, write, POSITION) / SWITCHED_ON
            measured = moved[:, POSITION] * scale
            errors.append(largest_error(measured, predicted.writes(earlier) @ predicted.reads(later).T))

    assert max(errors) < TOLERANCE[dtype]


@every_site
def test_an_edge_from_a_token_is_what_its_embedding_does_to_the_feature(family, read, write, dtype):
    source = models.transcoders(read, write, dtype=dtype)
    real, predicted = frozen(family, dtype), vectors(family, source, dtype)
    embedded = real.embedding(torch.arange(models.N_VOCAB)).detach()

    after = real.changed(SWITCHED_ON * embedded, POSITION)
    errors = []
    for layer in range(models.N_LAYERS):
        target = source.load(layer)
        moved = real.pre_activations(after, target) - real.pre_activations(real.clean, target)
        measured = moved[:, POSITION] * real.read_sigma(layer, read, POSITION) / SWITCHED_ON
        errors.append(largest_error(measured, predicted.token_writes() @ predicted.reads(layer).T))

    assert max(errors) < TOLERANCE[dtype]


@every_site
def test_an_edge_to_a_logit_is_what_the_feature_does_to_it_against_all_others(family, read, write, dtype):
    source = models.transcoders(read, write, dtype=dtype)
    real, predicted = frozen(family, dtype), vectors(family, source, dtype)

    errors = []
    for layer in range(models.N_LAYERS):
        put = SWITCHED_ON * source.load(layer).w_dec
        after = real.changed(put, POSITION, layer=layer, site=write)
        moved = (after.logits - real.clean.logits)[:, POSITION]
        moved = moved - moved.mean(-1, keepdim=True)
        scale = real.final_sigma(POSITION) * real.write_sigma(layer, write, POSITION) / SWITCHED_ON
        errors.append(largest_error(moved * scale, predicted.writes(layer) @ predicted.logit_reads().T))

    assert max(errors) < TOLERANCE[dtype]


def test_every_family_that_is_read_is_proven_here():
    proven = {family.removesuffix("_serial") for family, _, _ in SITES}

    assert proven == {*families.FAMILIES, *families.PROVEN}


@pytest.mark.parametrize("family", models.FAMILIES)
def test_nothing_moves_at_other_positions_or_before_the_source(family):
    source = models.transcoders(R.NORM_POST_GAIN, W.MLP_RAW)
    real = frozen(family, torch.float32)

    after = real.changed(source.load(1).w_dec, POSITION, layer=1, site=W.MLP_RAW)
    moved = [(real.pre_activations(after, t) - real.pre_activations(real.clean, t)) for t in map(source.load, range(3))]

    effect = moved[2][:, POSITION].abs().max()
    # The two passes differ in batch size, and so, on some processors, in the order of sums.
    still = TOLERANCE[torch.float32] * effect
    assert effect > 1e-3
    assert moved[0].abs().max() < still
    assert moved[1].abs().max() < still
    assert moved[2][:, [p for p in range(7) if p != POSITION]].abs().max() < still
