"""Tiles' products, by either library."""

from __future__ import annotations

import weakref

import pytest
import torch

from ingest.edges import Pool, compiled, multiply, rules
from ingest.edges.multiply import by_blas, by_onednn, quicker
from tests.unit.ingest.edges import cases
from tests.unit.ingest.edges.brute import assert_is_truth


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 17), (1, 70, 5), (33, 65, 129), (64, 48, 96)])
@pytest.mark.parametrize("way", [by_blas, by_onednn])
def test_a_product_is_that_of_float64_within_the_bound_of_its_roundings(shape, way):
    n_rows, n_cols, d = shape
    generator = torch.Generator().manual_seed(0)
    rows, cols = (torch.randn(n, d, generator=generator) for n in (n_rows, n_cols))

    x = way(cols)(rows, torch.empty(n_rows * n_cols))

    lengths = rows.double().norm(dim=1)[:, None] * cols.double().norm(dim=1)
    assert x.shape == (n_rows, n_cols)
    assert ((x.double() - rows.double() @ cols.double().T).abs() <= (d + 8) * 2.0**-24 * lengths).all()


@pytest.mark.parametrize("case", cases.adversarial(), ids=str)
@pytest.mark.parametrize("kind", ["FEEDS", "ACTIVATES"])
def test_what_is_kept_is_what_sorting_all_weights_keeps_by_onednn_too(case, kind, monkeypatch):
    monkeypatch.setattr(compiled, "quicker", lambda n_products, d_model: by_onednn)
    wanted = rules(kind, cases.SMALL)

    assert_is_truth(cases.found(case, wanted, tile=(8, 16)), case, wanted)


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_of_columns_are_laid_out_once_each_and_let_go_when_all_rows_have_met_them(threads, monkeypatch):
    laid_out, held, most = [], set(), [0]

    def counted(cols):
        by = by_onednn(cols)
        laid_out.append(len(cols))
        held.add(id(by))
        weakref.finalize(by, held.discard, id(by))
        most[0] = max(most[0], len(held))
        return by

    monkeypatch.setattr(compiled, "quicker", lambda n_products, d_model: counted)
    monkeypatch.setattr(compiled, "STRIP", 1)
    case, wanted = cases.random(200, (301, 77), 33), rules("FEEDS", cases.SMALL)

    assert_is_truth(cases.found(case, wanted, threads=threads, tile=(16, 8)), case, wanted)

    assert sum(laid_out) == 301 + 77
    assert most[0] <= 2 * threads  # a strip, and the next that is begun
    assert not held


def test_the_quicker_way_is_tried_where_there_is_much_to_multiply_and_only_there(monkeypatch):
    seconds = {by_blas: 2.0, by_onednn: 1.0}
    monkeypatch.setattr(multiply, "_seconds", lambda by, rows, memory: seconds[way_of(by)])
    multiply._tried.cache_clear()

    assert quicker(10, 12) is by_blas
    assert quicker(10**12, 12) is by_onednn
    seconds[by_onednn] = 3.0
    multiply._tried.cache_clear()
    assert quicker(10**12, 12) is by_blas
    multiply._tried.cache_clear()


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_where_onednn_is_not_there_or_does_not_work_the_blas_multiplies(error, monkeypatch):
    def broken(cols):
        raise error("no such operator")

    monkeypatch.setattr(multiply, "by_onednn", broken)
    multiply._tried.cache_clear()

    assert quicker(10**12, 12) is by_blas
    multiply._tried.cache_clear()


def way_of(by):
    return by_blas if by.func is multiply._blas else by_onednn


def test_float32_is_multiplied_as_float32_whatever_the_caller_allows():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with Pool(1):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
