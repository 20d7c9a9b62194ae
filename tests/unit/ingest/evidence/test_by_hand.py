"""Four positions, four features, and what evidence says of them, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.evidence.capture import Batch
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.relations import Relations, Totals

# Two features of layer 0, two of layer 1; a column a position.
ACTIVATIONS = np.array(
    [
        [2.0, 0.0, 4.0, 0.0],  # A
        [0.0, 5.0, 0.0, 0.0],  # B, never with C
        [1.0, 0.0, 3.0, 0.0],  # C
        [0.0, 0.0, 0.0, 0.0],  # D, never at all
    ]
).T
SHAPE = Shape(np.array([0, 2, 4]), n_vocab=3, n_examples=1)


@pytest.fixture
def relations() -> tuple[Relations, Sums]:
    position, feature = np.nonzero(ACTIVATIONS)
    batch = Batch(
        window=np.zeros(4, np.int64),
        position=np.arange(1, 5, dtype=np.int32),
        token=np.array([0, 1, 2, 2], np.int32),
        start=np.concatenate([[0], np.cumsum(np.bincount(position, minlength=4))]),
        feature=feature.astype(np.int32),
        value=ACTIVATIONS[position, feature].astype(np.float32),
        inverse={},
    )
    sums = Sums(SHAPE, range(4))
    sums.add(batch)
    inverse = {"in": np.array([4.0, 2.0]), "out": np.array([4.0, 4.0]), "final": np.array([4.0])}  # sums of 4 positions
    counts = (ACTIVATIONS > 0).sum(0), ACTIVATIONS.sum(0)
    totals = Totals(4, np.bincount(batch.token, minlength=3), inverse, *counts)
    return Relations(None, None, SHAPE, totals, 1), sums  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        # V = -2, 1/sigma of the target's norm 0.5 on average
        # lift 4 * 2 / (2 * 2); drive -2 * 3 * 0.5 and -2 * 1.5 * 0.5
        # ERA -2 * (2 + 4) / 4; TWERA -2 * (2 + 12) / (1 + 3)
        (0, 2, {"n_both": 2, "lift": 2.0, "drive_active": -3.0, "drive_mean": -1.5, "era": -3.0, "twera": -7.0}),
        (1, 2, {"n_both": 0, "lift": 0.0, "drive_active": -5.0, "drive_mean": -1.25, "era": 0.0, "twera": 0.0}),
        (0, 3, {"n_both": 0, "lift": None, "drive_active": -3.0, "drive_mean": -1.5, "era": 0.0, "twera": None}),
    ],
)
def test_statistics_of_an_edge_are_those_worked_out_by_hand(relations, source: int, target: int, expected: dict):
    found, sums = relations

    edge = found._edges(sums, np.array([source]), np.array([target]), np.array([-2.0]), np.array([1], np.int8))

    row = edge.to_pylist()[0]
    assert {name: row[name] for name in expected} == expected


def test_a_negative_edge_is_strong_by_drive_and_nothing_by_twera_where_both_are_never_active(relations):
    found, sums = relations

    edges = found._edges(sums, np.array([0, 1]), np.array([2, 2]), np.array([-1.0, -9.0]), np.array([1, 1], np.int8))

    drive, twera = (np.abs(edges[name].to_numpy()) for name in ("drive_active", "twera"))
    assert drive.argmax() == 1
    assert twera.argmax() == 0
