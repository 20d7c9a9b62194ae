"""What runs on an accelerator finds what sorting all weights finds, in any precision; here in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
import pytest
import torch

from ingest.edges import Pool, ahead, portable, precision, rules
from ingest.edges.kernels import LANES, dot
from ingest.edges.tiles import NotFinite
from tests.unit.ingest.edges import cases
from tests.unit.ingest.edges.brute import assert_is_truth

pytest.importorskip("triton")
PRECISIONS = ("fp32", "tf32", "fp16")


@pytest.fixture
def chosen(monkeypatch):
    """Choose a precision, as calibration does on an accelerator."""

    def choose(name):
        monkeypatch.setattr(precision, "fastest", lambda device, d_model: name)

    return choose


def lengths(vectors):
    return torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64) * (1 + 1e-9)


def may_be_off(case, name):
    """The proven bound of every row's sums [n_rows, n_groups]."""
    rows, found = torch.from_numpy(case.rows), []
    for cols in map(torch.from_numpy, case.groups):
        fits = precision.tempered(lengths(rows), lengths(cols))
        a = precision.row_operand(rows, lengths(rows), name if fits else "fp32")
        b = precision.column_operand(cols, lengths(cols), name if fits else "fp32")
        bound = a.first[:, None].double() * b.first + a.second[:, None].double() * b.second
        found.append(bound.sum(dim=1).numpy())
    return np.stack(found, axis=1)


@pytest.mark.parametrize("case", cases.adversarial(), ids=str)
def test_the_fused_kernel_keeps_what_sorting_all_weights_keeps(case):
    wanted = rules("FEEDS", cases.SMALL)

    assert_is_truth(cases.found(case, wanted, device="triton=cpu", tile=(64, 128)), case, wanted)


@pytest.mark.parametrize("case", cases.adversarial(), ids=str)
@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_fewer_bits_lose_nothing_that_is_wanted(case, name, chosen):
    chosen(name)

    for kind in ("FEEDS", "ACTIVATES"):
        wanted = rules(kind, cases.SMALL)
        found = cases.found(case, wanted, device="torch=cpu", tile=(16, 24))
        assert_is_truth(found, case, wanted, off=may_be_off(case, name))


@pytest.mark.parametrize("how", ["torch", "triton"])
@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_exact_sums_are_float32s_whatever_is_quickest(how, name, chosen):
    chosen(name)
    case = cases.random(70, (150, 40), 96)

    for kind in ("FEEDS", "ACTIVATES", "logits"):
        wanted = rules(kind, dataclasses.replace(cases.SMALL, exact_sums=True))
        quick = rules(kind, cases.SMALL)
        found = cases.found(case, wanted, device=f"{how}=cpu", tile=(50, 100))
        assert_is_truth(found, case, wanted, sums=1e-7)
        with pytest.raises(AssertionError):
            assert_is_truth(cases.found(case, quick, device=f"{how}=cpu", tile=(50, 100)), case, quick, sums=1e-7)


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_fused_kernel_in_any_precision_tile_by_tile_with_signs_and_least_z(name, chosen):
    chosen(name)
    case = cases.random(70, (150, 40), 21)

    for kind in ("FEEDS", "ACTIVATES"):
        wanted = rules(kind, cases.SMALL, min_z=2.0)
        found = cases.found(case, wanted, device="triton=cpu", tile=(50, 100))
        assert_is_truth(found, case, wanted, off=may_be_off(case, name))


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e9])
def test_no_product_is_further_off_than_its_bound_and_bounds_are_near(name, scale):
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(n, 96, generator=generator) * scale for n in (40, 50))
    a[3, 1:] *= 1e-7  # one entry dwarfs the rest
    rows = precision.row_operand(a, lengths(a), name)
    cols = precision.column_operand(b, lengths(b), name)

    off = (precision.product(rows, cols).double() - a.double() @ b.double().T).abs()
    bound = rows.first[:, None] * cols.first + rows.second[:, None] * cols.second

    assert (off <= bound).all()
    assert (bound <= {"fp32": 1e-5, "tf32": 1e-3, "fp16": 1e-3}[name] * lengths(a)[:, None] * lengths(b)).all()


def test_lengths_beyond_what_sixteen_bits_can_scale_are_left_to_float32(chosen):
    chosen("fp16")
    case = cases.random()
    far = cases.Case("far apart", case.rows * np.float32(2.0**70), case.groups)
    wanted = rules("FEEDS", cases.SMALL)

    found = cases.found(far, wanted, device="torch=cpu")

    assert not precision.tempered(lengths(torch.from_numpy(far.rows)))
    assert_is_truth(found, far, wanted)


@pytest.mark.parametrize("d", [1, 17, LANES, 3 * LANES + 5])
@pytest.mark.parametrize("how", ["torch", "triton"])
def test_a_weight_has_the_same_bits_wherever_it_is_computed(d, how):
    rng = np.random.default_rng(d)
    rows, cols = (rng.standard_normal((n, d)).astype(np.float32) for n in (5, 7))
    row, col = (torch.from_numpy(rng.integers(0, n, 30)) for n in (5, 7))

    engine = portable._engine("cpu", True) if how == "triton" else None
    weight = portable.weigh(torch.from_numpy(rows), torch.from_numpy(cols), row, col, engine)

    lanes = np.empty(LANES)
    expected = [np.float32(dot(rows[r], cols[c], lanes)) for r, c in zip(row.tolist(), col.tolist(), strict=True)]
    assert weight.numpy().tobytes() == np.array(expected, np.float32).tobytes()


def test_where_triton_does_not_work_a_line_says_so_and_torch_does_it(monkeypatch, caplog):
    from ingest.edges import fused

    def broken(device):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(fused, "check", broken)
    with caplog.at_level(logging.WARNING):
        engine = portable._engine.__wrapped__("cuda:0", None)

    assert engine is None
    assert [record.getMessage() for record in caplog.records] == [
        "Triton does not work on cuda:0 (no compiler here): torch's own operations do it"
    ]


def test_a_kernel_that_fails_at_work_is_replaced_and_the_result_is_the_same(monkeypatch, caplog):
    from ingest.edges import fused

    def broken(*_):
        raise RuntimeError("out of registers")

    case, wanted = cases.random(), rules("FEEDS", cases.SMALL)
    monkeypatch.setattr(fused, "survivors", broken)
    with caplog.at_level(logging.WARNING):
        found = cases.found(case, wanted, device="triton=cpu")

    assert_is_truth(found, case, wanted)
    assert "out of registers" in caplog.text


def test_what_is_not_finite_is_refused_before_it_reaches_a_device():
    case = cases.random()
    case.rows[7, 2] = np.nan

    with Pool(1), pytest.raises(NotFinite):
        cases.found(case, rules("FEEDS", cases.SMALL), device="torch=cpu")


def test_precision_is_chosen_by_timing_and_is_float32_where_nothing_else_is_quicker():
    assert precision.fastest("cpu", 8) == "fp32"


@pytest.mark.parametrize("name", PRECISIONS)
def test_little_more_than_what_is_wanted_is_weighed(name, chosen):
    chosen(name)
    case, wanted = cases.random(1500, (3000,), 48), rules("FEEDS", cases.SMALL)
    weighed = []
    with pytest.MonkeyPatch.context() as patch:
        count = portable.weigh
        patch.setattr(
            portable, "weigh", lambda a, b, row, *more: (weighed.append(len(row)), count(a, b, row, *more))[1]
        )
        cases.found(case, wanted, device="torch=cpu", tile=(500, 1000))

    assert 0 < sum(weighed) < 0.05 * 1500 * 3000


def test_the_next_item_is_made_while_one_is_in_use():
    made = []

    def items():
        for item in range(3):
            made.append(item)
            yield item

    seen = []
    for item in ahead(items()):
        seen.append(item)
        for _ in range(1000):
            if len(made) > min(item + 1, 2):
                break
            time.sleep(0.005)
        assert len(made) > min(item + 1, 2)

    assert seen == [0, 1, 2]


def test_what_goes_wrong_ahead_is_raised_in_its_turn():
    def items():
        yield 0
        raise NotFinite("col", 3)

    coming = ahead(items())

    assert next(coming) == 0
    with pytest.raises(NotFinite):
        next(coming)
