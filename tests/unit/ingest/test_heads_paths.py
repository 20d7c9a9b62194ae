"""Edges through a head of cross-layer sets and beside skips: what a source has written before the head is carried, and
what the head writes runs through the skips behind it. As ``test_heads``, on the models of ``test_paths``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from atlas.model import ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.heads import heads
from ingest.through import _arriving
from tests.unit.ingest.frozen import Values, one_head
from tests.unit.ingest.replaced import Replaced
from tests.unit.ingest.test_paths import (
    IDS,
    KINDS,
    SITES,
    largest_error,
    library,
    sigmas_at,
    source_of,
    weights,
    written,
)

SOURCE, TARGET, SWITCHED_ON = 2, 5, 3.0
LAYER, NUMBER = 1, 2


class Opened(Replaced):
    """The replaced model with one head open."""

    def carried(self, writes: Mapping[int, Tensor]) -> Values:
        with one_head(self, (LAYER, NUMBER), SOURCE, TARGET):
            return self.change(None, writes, SOURCE)


@dataclass
class Case:
    real: Opened
    before: Vectors
    """with the denominators of the position that the head attends to"""
    behind: Vectors
    """with those of the position from which it attends"""


def case(kind: str, family: str, read: ReadSite, write: WriteSite) -> Case:
    source, skips = source_of(kind, read, write, torch.float32), "skips" in kind
    real = Opened(library(family, torch.float32), IDS, source, skips, family)
    at = [
        Vectors(
            weights(family),
            source,
            with_skips=skips,
            sigmas=sigmas_at(real, read, write, position) if skips else None,
        )
        for position in (SOURCE, TARGET)
    ]
    return Case(real, *at)


@pytest.mark.parametrize(("kind", "family", "read", "write"), [(kind, *site) for kind in KINDS for site in SITES])
def test_an_edge_through_a_head_is_what_it_carries_of_all_that_arrives_and_what_that_becomes(kind, family, read, write):
    made = case(kind, family, read, write)
    source, real = made.before.source, made.real
    put = {into: SWITCHED_ON * vectors for into, vectors in written(source, 0).items() if into < LAYER}
    nothing = {into: torch.zeros_like(vectors) for into, vectors in put.items()}

    after, before = real.carried(put), real.carried(nothing)

    target = source.load(2)
    moved = (real.pre_activations(after, target) - real.pre_activations(before, target))[:, TARGET]
    scale = real.head_sigma(LAYER, SOURCE, TARGET) * real.read_sigma(2, read, TARGET) / SWITCHED_ON
    head = heads(weights(family), LAYER)[NUMBER]
    carried = head.carried(made.before.writes(0, LAYER))
    predicted = carried @ (made.behind.reads(2) @ _arriving(made.behind, head, 2).T).T
    assert largest_error(moved * scale * real.write_sigma(0, write, SOURCE), predicted) < 1e-5
