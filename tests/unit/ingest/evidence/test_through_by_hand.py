"""Four positions, a head's pattern over them, and what evidence says of edges through it, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from ingest.evidence.attended import AttendedSums, Head, Part
from ingest.evidence.capture import Batch
from ingest.evidence.counting import Shape
from ingest.evidence.relations import Relations, Totals
from ingest.evidence.through import evidence

# Two features of layer 0, two of layer 1; a column a position.
ACTIVATIONS = np.array(
    [
        [2.0, 0.0, 4.0, 0.0],  # A
        [0.0, 5.0, 0.0, 0.0],  # B
        [0.0, 1.0, 0.0, 3.0],  # C
        [0.0, 0.0, 0.0, 0.0],  # D, never at all
    ]
).T
TOKENS = np.array([0, 1, 2, 2])
# What each position attends to. The window's first column is BOS, which takes the rest and is not counted.
PATTERN = np.array(
    [
        [1.00, 0.00, 0.00, 0.00, 0.00],
        [0.50, 0.50, 0.00, 0.00, 0.00],
        [0.25, 0.25, 0.50, 0.00, 0.00],
        [0.25, 0.00, 0.25, 0.50, 0.00],
        [0.00, 0.50, 0.00, 0.25, 0.25],
    ]
)
FEATURES = {"source": [0, 1, 0], "target": [2, 2, 3]}
FROM_TOKENS = {"source": [2, 3], "target": [2, 2]}
TO_LOGITS = {"source": [0], "target": [1]}
HEAD = Head(1, 0)


def edges(ends: dict[str, list[int]]) -> pa.Table:
    columns = {name: pa.array(numbers, pa.int32()) for name, numbers in ends.items()}
    return pa.table(columns | {"weight": pa.array([-2.0] * len(ends["source"]), pa.float32())})


@pytest.fixture
def counted() -> tuple[Relations, AttendedSums]:
    files = {"edges/FEEDS_VIA/L0001H000.parquet": FEATURES, "edges/ACTIVATES_VIA/L0001H000.parquet": FROM_TOKENS}
    build = SimpleNamespace(
        manifest={"files": files}, n_features=4, n_tokens=4, edge_columns=None, read=lambda name, _: edges(files[name])
    )
    sums = AttendedSums(build, [HEAD], n_layers=2)  # type: ignore[arg-type]
    position, feature = np.nonzero(ACTIVATIONS)
    batch = Batch(
        window=np.full(4, 7),
        position=np.arange(1, 5, dtype=np.int32),
        token=TOKENS.astype(np.int32),
        start=np.concatenate([[0], np.cumsum(np.bincount(position, minlength=4))]),
        feature=feature.astype(np.int32),
        value=ACTIVATIONS[position, feature].astype(np.float32),
        inverse={},
    )
    sums.add(1, PATTERN[None, None].astype(np.float32), Part(batch, 7, 4, 4))
    sums.scaled("in", 1, np.array([0.25, 0.25, 0.1, 0.4]))  # the norm before attention; there is none behind it
    inverse = {"in": np.array([4.0, 2.0]), "out": np.array([4.0, 4.0]), "final": np.array([8.0])}  # of 4 positions
    counts = (ACTIVATIONS > 0).sum(0), ACTIVATIONS.sum(0)
    totals = Totals(4, np.bincount(TOKENS, minlength=4), inverse, *counts)
    return Relations(None, None, Shape(np.array([0, 2, 4]), 4, 1), totals, 1), sums  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "ends", "row", "expected"),
    [
        # A reaches the four positions as 1, 0.5, 2 and 0.5 * 2 + 0.25 * 4, attended by 0.5, 0.25, 0.5 and 0.75.
        # C fires at the second and the fourth: attended 0.25 + 0.75; lift 4 * 1 / (2 * 2)
        # ERA -2 * (0.5 + 2) / 4; TWERA -2 * (0.5 * 1 + 2 * 3) / (1 + 3)
        # norms 0.5 before C's MLP and 0.25 before attention: drive -2 * 3 / 8 and -2 * (5.5 / 4) / 8
        ("FEEDS_VIA", FEATURES, 0, (1.0, 1.0, -0.75, -0.34375, -1.25, -3.25)),
        # B reaches the second and the third, as 2.5 and 1.25: C fires at the second. lift 4 * 0.5 / (0.75 * 2)
        ("FEEDS_VIA", FEATURES, 1, (0.5, 4 / 3, -1.25, -0.234375, -1.25, -1.25)),
        ("FEEDS_VIA", FEATURES, 2, (0.0, None, -0.75, -0.34375, 0.0, None)),
        # token 2 stands at the last two; the fourth attends to itself and to the third by a quarter each
        ("ACTIVATES_VIA", FROM_TOKENS, 0, (0.5, 1.0, -0.25, -0.0625, -0.25, -0.75)),
        ("ACTIVATES_VIA", FROM_TOKENS, 1, (0.0, None, None, -0.0, 0.0, 0.0)),
        # into a logit the last norm's 2 stands for the target's 0.5
        ("PROMOTES_VIA", TO_LOGITS, 0, (None, None, -3.0, -1.375, None, None)),
    ],
)
def test_statistics_of_an_edge_through_a_head_are_those_worked_out_by_hand(counted, kind, ends, row, expected):
    found = evidence(*counted, kind, 0, edges(ends)).to_pylist()[row]

    names = ("attended", "lift", "drive_active", "drive_mean", "era", "twera")
    for name, value in zip(names, expected, strict=True):
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-7)), name
