"""What the engine keeps is what sorting all weights keeps."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from ingest.edges import Group, Keep, Pool, compute, rules, spread
from ingest.edges.tiles import Floors, NotFinite, Product, lengths
from tests.unit.ingest.edges import cases
from tests.unit.ingest.edges.brute import assert_is_truth, truth

DEVICES = ("cpu", "torch=cpu")
TILES = ((8, 16), (1000, 1000), (5, 64))


@pytest.mark.parametrize("case", cases.adversarial(), ids=str)
@pytest.mark.parametrize("kind", ["FEEDS", "ACTIVATES"])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_kept_is_what_sorting_all_weights_keeps(case, kind, device):
    wanted = rules(kind, cases.SMALL)

    for tile in TILES:
        assert_is_truth(cases.found(case, wanted, device=device, tile=tile), case, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_min_z_adds_every_edge_that_far_out_and_lowers_the_cut(device):
    case, wanted = cases.random(), rules("FEEDS", cases.SMALL, min_z=1.5)

    result = cases.found(case, wanted, device=device, tile=(8, 16))

    assert_is_truth(result, case, wanted)
    assert len(result.row) > len(cases.found(case, rules("FEEDS", cases.SMALL)).row)
    assert result.cuts["z"].max() <= np.float32(1.5)


@pytest.mark.parametrize("count", [0, 1, 28, 29, 30, 100])
def test_a_row_with_no_more_than_the_count_is_kept_whole_and_has_no_cut(count):
    case = cases.random(n_cols=(29,))
    keep = Keep(per_layer=count, z=count, tokens=count, features_per_token=count)

    result = cases.found(case, rules("FEEDS", keep))

    assert_is_truth(result, case, rules("FEEDS", keep))
    assert (result.cuts["abs"] == 0).all() == (count >= 29)


@pytest.mark.parametrize("kind", ["FEEDS", "ACTIVATES"])
def test_tile_threads_order_and_device_change_no_bit(kind):
    case, wanted = cases.random(300, (501, 777), 65), rules(kind, cases.SMALL, min_z=3.0)
    first = cases.found(case, wanted, threads=1)

    for threads, tile, device in ((3, (64, 96), "cpu"), (2, (300, 32), "cpu"), (1, (7, 1000), "torch=cpu")):
        other = cases.found(case, wanted, threads=threads, tile=tile, device=device)

        for name in ("row", "col", "weight", "mean", "std"):
            assert getattr(first, name).tobytes() == getattr(other, name).tobytes(), name
        assert all(first.cuts[order].tobytes() == other.cuts[order].tobytes() for order in first.cuts)
        for ours, theirs in zip(first.candidates, other.candidates, strict=True):
            assert all(
                a.tobytes() == b.tobytes() for a, b in zip(vars(ours).values(), vars(theirs).values(), strict=True)
            )
        np.testing.assert_allclose(first.l1, other.l1, rtol=1e-6)


def test_rows_of_a_layer_have_the_same_bits_whether_computed_at_once_or_in_blocks():
    case, wanted = cases.random(200, (301, 77), 33), rules("FEEDS", cases.SMALL)
    whole = cases.pairs(cases.found(case, wanted))

    blocks = [cases.Case("block", case.rows[span], case.groups) for span in (slice(0, 150), slice(150, 200))]
    first, second = (cases.pairs(cases.found(block, wanted)) for block in blocks)

    assert whole == first | {(row + 150, col): weight for (row, col), weight in second.items()}


def test_floors_spare_candidates_but_none_that_could_still_win():
    case, wanted = cases.random(100, (80,)), rules("FEEDS", cases.SMALL)
    free = cases.found(case, wanted)
    floor = free.floors[0]

    spared = cases.found(case, wanted, floors=[floor])

    assert cases.pairs(spared) == cases.pairs(free)
    assert len(spared.candidates[0].col) <= len(free.candidates[0].col)
    for order, score in (("abs", "weight"), ("z", "z")):
        size = np.abs(getattr(free.candidates[0], score))
        wins = size >= floor.of("col", order)[free.candidates[0].col]
        offered = set(zip(spared.candidates[0].col.tolist(), spared.candidates[0].row.tolist(), strict=True))
        needed = zip(free.candidates[0].col[wins].tolist(), free.candidates[0].row[wins].tolist(), strict=True)
        assert set(needed) <= offered


@pytest.mark.parametrize("device", DEVICES)
def test_many_ties_beyond_any_reservoir_are_settled_by_place(device):
    case = cases.Case("ties", np.ones((4, 3), np.float32), [np.ones((3000, 3), np.float32)])

    result = cases.found(case, rules("FEEDS", cases.SMALL), device=device)

    assert cases.pairs(result) == {(row, col): 3.0 for row in range(4) for col in range(2)}
    assert (result.cuts["abs"] == 3.0).all()


@pytest.mark.parametrize(("side", "value"), [("row", np.nan), ("row", np.inf), ("col", -np.inf), ("col", 3e38)])
def test_what_is_not_finite_is_refused_with_its_place(side, value):
    case = cases.random()
    vectors = {"row": case.rows.copy(), "col": case.groups[0].copy()}
    vectors[side][7, 2] = value

    with pytest.raises(NotFinite) as refused:
        Product(torch.from_numpy(vectors["row"]), torch.from_numpy(vectors["col"]), np.zeros(37), np.ones(37))

    assert (refused.value.side, refused.value.index) == (side, 7)


def test_the_sums_of_logits_need_no_rules():
    case = cases.random(n_cols=(29,))

    result = cases.found(case, rules("logits", cases.SMALL))

    assert len(result.row) == 0
    np.testing.assert_allclose(result.l1, truth(case.rows, case.groups, rules("logits", cases.SMALL)).l1(), rtol=1e-6)


def test_no_floor_is_no_floor():
    assert Floors().of("row", "abs") is None


def test_a_spread_does_not_depend_on_the_number_of_threads():
    vectors = torch.from_numpy(cases.random(9000, (1,), 20).rows)
    found = []
    for threads in (1, 3):
        with Pool(threads) as pool:
            found.append(spread(vectors, pool))

    assert torch.equal(found[0].mean, found[1].mean)
    assert torch.equal(found[0].covariance, found[1].covariance)


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-30, 1e-16, 1.0, 1e14, 1e25])
def test_lengths_are_rounded_up_and_by_little_also_where_float32_cannot_hold_a_square(scale: float):
    vectors = torch.randn(50, 700, generator=torch.Generator().manual_seed(1)) * scale
    exact = vectors.double().square().sum(dim=1).sqrt()

    found = lengths(vectors)

    assert (found >= exact).all()
    assert (found <= exact * (1 + 2e-4)).all()


def test_a_unit_holds_two_dozen_bytes_of_a_column_at_most_however_many_layers_it_meets():
    n_cols, rng = 4096, np.random.default_rng(5)
    rows = torch.from_numpy(rng.standard_normal((32, 16), np.float32))

    def peak(n_groups: int) -> int:
        def groups():
            for g in range(n_groups):
                vectors = torch.from_numpy(rng.standard_normal((n_cols, 16), np.float32))
                yield Group(g * n_cols, vectors, spread(vectors, pool))

        with Pool(1) as pool:
            tracemalloc.start()
            compute(rows, 0, groups(), rules("FEEDS", Keep()), pool, spill=lambda group, found: None)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    peak(1)  # compiles

    assert peak(10) - peak(2) < 24 * 8 * n_cols
