"""Billions of positions: nothing that counts, names or places them is too narrow."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from atlas import observations
from ingest.evidence import staged
from ingest.evidence.corpus import Corpus
from ingest.evidence.observe import _shards
from tests.unit.ingest.evidence.text import FIRST, N_EXAMPLES, random_text

FAR = 1 << 33
"""more windows than 32 bits can number"""
N = int(FIRST[-1])
WINDOWS = 23


@pytest.fixture
def long(tmp_path: Path) -> Corpus:
    """Three billion ids of which most are a hole in the file, and windows of 1,000 in it."""
    count, length = 3_000_000, 1000
    path = tmp_path / "ids.i32"
    with path.open("wb") as file:
        file.truncate(4 * count * length)
    ids = np.memmap(path, np.int32, "r+")
    ids[2_500_000 * length : 2_500_002 * length] = np.tile(np.arange(length), 2) + np.repeat([0, 5000], length)
    return Corpus(ids, np.arange(count + 1, dtype=np.int64) * length, False, {})


def test_windows_beyond_what_32_bits_can_address_are_read_where_they_are(long: Corpus):
    found = long.windows(2_500_000, 2_500_002)

    np.testing.assert_array_equal(found, [np.arange(1000), np.arange(5000, 6000)])
    shards = _shards(long, 65536)
    assert shards[0][0] == 0
    assert shards[-1][1] == len(long)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(shards))
    assert max(b - a for a, b in shards) <= 66


def test_the_windows_of_examples_are_kept_by_their_numbers_in_as_many_chunks_as_they_need(
    long: Corpus, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(staged, "_IDS_A_CHUNK", 1500)
    used = np.array([7, 2_500_000, 2_500_001, 2_999_999])

    found = staged.windows(long, used)

    assert found["ids"].num_chunks > 1
    assert found["window"].to_pylist() == used.tolist()
    assert found["ids"].type == pa.list_(pa.int32())
    assert found["ids"].to_pylist() == [[0] * 1000, [*range(1000)], [*range(5000, 6000)], [0] * 1000]


def test_examples_from_windows_that_32_bits_cannot_number_are_those_of_the_same_windows_nearer():
    near, far = random_text(), random_text()
    far.window[:] += FAR
    first, second = near.sums([WINDOWS]), far.sums([FAR + 9, FAR + WINDOWS])

    for name in ("top_value", "top_position", "top_around", "n", "pair_n"):
        np.testing.assert_array_equal(first.arrays[name], second.arrays[name])
    filled = first.arrays["top_window"] >= 0
    np.testing.assert_array_equal(first.arrays["top_window"][filled] + FAR, second.arrays["top_window"][filled])
    sample = second.arrays["some_window"]
    for row in range(N):
        kept = sample[row] >= 0
        places = list(zip(sample[row][kept].tolist(), second.arrays["some_position"][row][kept].tolist(), strict=True))
        fires = (far.activations[:, row] > 0).sum()
        assert len(set(places)) == len(places) == min(N_EXAMPLES, fires)
        for window, position in places:
            at = (far.window == window) & (far.position == position)
            assert far.activations[at, row] > 0
    table = staged.examples(second)
    assert table["window"].type == observations.EXAMPLE.field("window").type
    assert table["window"].to_numpy().min() >= FAR


def test_the_places_of_a_sample_differ_by_window_position_and_feature_up_to_their_last_bit():
    """Window and position are one number of 64 bits; what ranks it must not fold two places of a feature into one."""
    from ingest.evidence.counting import _hash

    windows = np.array([0, 1, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 32, (1 << 44) - 1], np.uint64)
    positions = np.array([0, 1, 4095, (1 << 20) - 1], np.uint64)
    for row in (0, 1, 10_000_000):
        of_row = np.uint64(row) << np.uint64(40)
        places = {int(w << np.uint64(20) | p) ^ int(of_row) for w in windows for p in positions}
        ranks = {_hash(np.uint64(place)) for place in places}
        assert len(ranks) == len(windows) * len(positions)


def test_counts_go_on_beyond_what_32_bits_hold():
    text = random_text()
    sums, once = text.sums([9]), text.sums([9, WINDOWS]).arrays
    counted = ("n", "histogram", "token_n", "pair_n")
    held = {name: sums.arrays[name].copy() for name in counted}
    for name in counted:
        sums.arrays[name] += 3_000_000_000

    sums.add(text.batch(9, WINDOWS))

    for name in counted:
        assert sums.arrays[name].dtype == np.int64
        np.testing.assert_array_equal(sums.arrays[name], once[name] + 3_000_000_000)
        assert (once[name] > held[name]).any()
    sources = np.array([0, 3])
    assert (sums.pairs(sources, np.full(2, N - 1))[0] > 2**31).all()
