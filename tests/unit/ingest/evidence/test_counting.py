"""Sums over a text equal the dense computation, whatever the division."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.evidence.counting import AFTER, BEFORE, edges_of_bins
from tests.unit.ingest.evidence.text import FIRST, N_EXAMPLES, N_VOCAB, random_text

N = int(FIRST[-1])
WINDOWS = 23


def dense_pairs(text, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n_both, sum of the source where the target fires, sum of products, with every earlier feature."""
    end = int(FIRST[np.searchsorted(FIRST, row, side="right") - 1])
    a = text.activations.astype(np.float64)
    sources, target = a[:, :end], a[:, row]
    on = target > 0
    return (sources[on] > 0).sum(0), sources[on].sum(0), (sources * target[:, None]).sum(0)


@pytest.mark.parametrize("cuts", [[WINDOWS], list(range(1, WINDOWS + 1)), [1, 4, 17, WINDOWS]])
def test_sums_of_pairs_equal_the_dense_computation_whatever_the_batches(cuts):
    text = random_text()

    sums = text.sums(cuts)

    for row in range(N):
        n_both, of_source, product = dense_pairs(text, row)
        sources = np.arange(len(n_both))
        found = sums.pairs(sources, np.full(len(sources), row))
        np.testing.assert_array_equal(found[0], n_both)
        np.testing.assert_allclose(found[1], of_source, rtol=1e-12)
        np.testing.assert_allclose(found[2], product, rtol=1e-12)
        np.testing.assert_array_equal(sums.products(row), found[2])


def test_sums_of_features_and_tokens_equal_the_dense_computation():
    text = random_text()
    a = text.activations.astype(np.float64)
    token = np.eye(N_VOCAB)[text.token]

    found = text.sums([5, WINDOWS]).arrays

    np.testing.assert_array_equal(found["n"], (a > 0).sum(0))
    np.testing.assert_allclose(found["sum"], a.sum(0), rtol=1e-12)
    np.testing.assert_allclose(found["square"], (a**2).sum(0), rtol=1e-12)
    np.testing.assert_array_equal(found["max"], text.activations.max(0))
    np.testing.assert_array_equal(found["token_n"], (a > 0).T @ token)
    np.testing.assert_allclose(found["token_sum"], a.T @ token, rtol=1e-12)


def test_every_division_of_the_text_gives_the_same_bits():
    text = random_text(seed=1)

    whole, parts = text.sums([WINDOWS]).arrays, text.sums([2, 3, 11, WINDOWS]).arrays

    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)


def test_blocks_of_features_give_what_all_at_once_give():
    text = random_text(seed=2)
    whole = text.sums([WINDOWS])
    memory = 4 * text.shape.row_bytes(N - 1)

    blocks = text.shape.blocks(memory)

    assert len(blocks) > 3
    assert [row for block in blocks for row in block] == list(range(N))
    for block in blocks:
        assert sum(text.shape.row_bytes(row) for row in block) <= memory
        part = text.sums([9, WINDOWS], block)
        assert sum(array.nbytes for array in part.arrays.values()) <= memory
        for name in ("n", "token_sum", "histogram", "top_value", "some_position"):
            np.testing.assert_array_equal(part.arrays[name], whole.arrays[name][block.start : block.stop])
        for row in block:
            np.testing.assert_array_equal(part.products(row), whole.products(row))


def test_a_block_of_one_row_is_made_however_little_memory_there_is():
    assert [len(block) for block in random_text().shape.blocks(1)] == [1] * N


def test_the_histogram_counts_every_firing_between_the_edges_of_its_bin():
    text = random_text()
    bins = edges_of_bins()

    histogram = text.sums([WINDOWS]).arrays["histogram"]

    for row in range(N):
        values = text.activations[text.activations[:, row] > 0, row]
        np.testing.assert_array_equal(histogram[row], np.histogram(values, bins)[0])
    assert (bins[1:] / bins[:-1]).max() == pytest.approx(17 / 16)


def test_the_strongest_examples_are_the_largest_of_their_windows():
    text = random_text()

    found = text.sums([6, WINDOWS]).arrays

    for row in range(N):
        by_window = {}
        for value, window, position in zip(text.activations[:, row], text.window, text.position, strict=True):
            if value > by_window.get(window, (0.0, 0))[0]:
                by_window[window] = (value, position)
        best = sorted(((-value, window, position) for window, (value, position) in by_window.items()))[:N_EXAMPLES]
        here = found["top_window"][row] >= 0
        assert (
            list(
                zip(
                    -found["top_value"][row][here],
                    found["top_window"][row][here],
                    found["top_position"][row][here],
                    strict=True,
                )
            )
            == best
        )


@pytest.mark.parametrize("kind", ["top", "some"])
def test_an_example_keeps_the_features_own_activations_around_it(kind):
    text = random_text(length=60, n_windows=5)

    found = text.sums([2, 5]).arrays

    for row, slot in zip(*np.nonzero(found[f"{kind}_window"] >= 0), strict=True):
        window, position = found[f"{kind}_window"][row, slot], found[f"{kind}_position"][row, slot]
        own = text.activations[text.window == window, row]
        padded = np.concatenate([np.zeros(BEFORE), own, np.zeros(AFTER)])
        np.testing.assert_array_equal(
            found[f"{kind}_around"][row, slot], padded[position - 1 : position + BEFORE + AFTER]
        )
        assert found[f"{kind}_around"][row, slot, BEFORE] == found[f"{kind}_value"][row, slot] > 0


def test_the_sample_of_firings_has_no_place_twice_and_favours_none():
    text = random_text(n_windows=400, length=9)
    active = text.activations > 0

    found = text.sums([400]).arrays

    halves = []
    for row in range(N):
        windows = found["some_window"][row][found["some_window"][row] >= 0]
        places = set(zip(windows.tolist(), found["some_position"][row].tolist(), strict=False))
        assert len(places) == len(windows) == min(N_EXAMPLES, active[:, row].sum())
        halves += (windows >= 200).tolist()
    assert 0.3 < np.mean(halves) < 0.7
