"""Edges through a head of cross-layer sets and beside skips: what a source has written before the head is carried, and
what the head writes runs through the skips behind it. As ``test_heads``, on the models of ``test_paths``."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from atlas.model import ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.heads import Head, first_target, heads
from ingest.through import _arriving
from tests.unit.ingest import models
from tests.unit.ingest.frozen import Values
from tests.unit.ingest.replaced import Replaced
from tests.unit.ingest.sites import CASES
from tests.unit.ingest.test_intervention import frozen, largest_error, weights
from tests.unit.ingest.test_paths import sigmas_at, source_of, written

SOURCE, TARGET, SWITCHED_ON = 2, 5, 3.0
NUMBER = 2
LAYERS = (1, 2)
"""with a head: at the second, features of the first layer have written at two layers before it, past a skip"""

every_case = pytest.mark.parametrize(("kind", "family", "read", "write"), CASES, ids=str)
beside_skips = pytest.mark.parametrize(
    ("kind", "family", "read", "write"), [case for case in CASES if "skips" in case[0]], ids=str
)


@dataclass
class Case:
    real: Replaced
    head: Head
    before: Vectors
    """with the denominators of the position that the head attends to"""
    behind: Vectors
    """with those of the position from which it attends"""

    @property
    def features(self) -> dict[int, Tensor]:
        """What the first layer's features write where the head still reads it, by layer."""
        return {into: SWITCHED_ON * of for into, of in written(self.real.source, 0).items() if into < self.head.layer}

    def carried(self, embedding: Tensor | None, writes: dict[int, Tensor]) -> tuple[Values, Values]:
        """Two runs with the head open: with the change and without."""
        nothing = {into: torch.zeros_like(vectors) for into, vectors in writes.items()}
        still = None if embedding is None else torch.zeros_like(embedding)
        where = (SOURCE, (self.head.layer, NUMBER), TARGET)
        return self.real.change(embedding, writes, *where), self.real.change(still, nothing, *where)

    def read(self, after: Values, before: Values, target: int) -> Tensor:
        """By how much a target's pre-activations moved, its norm's denominator and the head's taken off."""
        to = self.real.source.load(target)
        moved = (self.real.pre_activations(after, to) - self.real.pre_activations(before, to))[:, TARGET]
        return moved * self.scale * self.real.read_sigma(target, to.read, TARGET)

    @property
    def scale(self) -> Tensor:
        return self.real.head_sigma(self.head.layer, SOURCE, TARGET) / SWITCHED_ON

    @property
    def targets(self) -> range:
        """Layers that read what the head writes."""
        return range(first_target(self.before.model, self.head.layer), models.N_LAYERS)

    def predicted(self, arriving: Tensor, target: int | None) -> Tensor:
        """Edges from what arrives at the head to the features of a layer, or to logits."""
        reads = self.behind.logit_reads() if target is None else self.behind.reads(target)
        return self.head.carried(arriving) @ (reads @ _arriving(self.behind, self.head, target).T).T


def cases(kind: str, family: str, read: ReadSite, write: WriteSite) -> list[Case]:
    """One a layer of :data:`LAYERS`."""
    source, skips, model = source_of(kind, read, write, torch.float32), "skips" in kind, weights(family, torch.float32)
    real = Replaced(frozen(family, torch.float32), source, skips)
    at = [
        Vectors(model, source, with_skips=skips, sigmas=sigmas_at(real, read, write, position) if skips else None)
        for position in (SOURCE, TARGET)
    ]
    return [Case(real, heads(model, layer)[NUMBER], *at) for layer in LAYERS]


@every_case
def test_an_edge_through_a_head_is_what_it_carries_of_all_that_arrives_and_what_that_becomes(kind, family, read, write):
    for made in cases(kind, family, read, write):
        runs, scale = made.carried(None, made.features), made.real.write_sigma(0, write, SOURCE)
        arriving = made.before.writes(0, made.head.layer)

        for target in made.targets:
            assert largest_error(made.read(*runs, target) * scale, made.predicted(arriving, target)) < 1e-5
        after, before = runs
        moved = (after.logits - before.logits)[:, TARGET] * made.scale * made.real.final_sigma(TARGET) * scale
        assert largest_error(moved - moved.mean(-1, keepdim=True), made.predicted(arriving, None)) < 1e-5


@beside_skips
def test_an_edge_from_a_token_through_a_head_runs_through_the_skips_on_both_sides(kind, family, read, write):
    for made in cases(kind, family, read, write):
        embedded = made.real.embedding(torch.arange(models.N_VOCAB)).detach()

        runs = made.carried(SWITCHED_ON * embedded, {})

        arriving = made.before.token_writes(made.head.layer)
        for target in made.targets:
            assert largest_error(made.read(*runs, target), made.predicted(arriving, target)) < 1e-5
