"""A plan is an account of sizes: it holds for ten million features as for ten thousand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ingest import Keep, compared
from ingest.plan import COMPARED, Sizes, estimate, units
from tests.unit.ingest.tiny import make

GPT2 = Sizes(tuple(range(12)), (24_576,) * 12, 50_257, 768)
LARGEST = Sizes(tuple(range(26)), (393_216,) * 26, 256_000, 2304)


def planned(sizes: Sizes, **options):
    return estimate("m/s", sizes, Keep(), None, device="cpu", **{"calibrate": False, **options})


def cut(sizes: Sizes, layers: int) -> Sizes:
    return replace(sizes, layers=sizes.layers[:layers], n_features=sizes.n_features[:layers])


def test_ten_million_features_have_a_plan():
    plan = planned(LARGEST)

    assert plan.features == 10_223_616
    assert plan.pairs == 325
    assert plan.products == 325 * 393_216**2 + 2 * 10_223_616 * 256_000 + 256_000**2
    assert plan.flop == 2 * 2304 * plan.products
    assert 5e8 < sum(plan.edges.values()) < 5e9
    assert plan.disk < 10 * sum(plan.edges.values())
    for part in ("26 layers, 10,223,616 features", "325 pairs of layers", "edges", "disk", "memory"):
        assert part in str(plan)


def test_memory_does_not_grow_with_the_number_of_layers_and_the_rest_no_faster_than_pairs():
    half, whole = planned(cut(LARGEST, 13)), planned(LARGEST)
    pairs = whole.pairs / half.pairs

    assert half.memory == whole.memory
    for field in ("products", "disk", "temporary"):
        assert 2 < getattr(whole, field) / getattr(half, field) < pairs


def test_gpt2_small_needs_less_than_four_gigabytes_and_forty_odd_million_edges():
    plan = planned(GPT2)

    assert plan.memory < 4e9
    assert 3.5e7 < sum(plan.edges.values()) < 4.5e7


@pytest.mark.parametrize("sizes", [GPT2, LARGEST], ids=["gpt2", "largest"])
def test_units_cover_every_row_once_and_none_is_a_large_part_of_the_whole(sizes):
    todo = units(sizes)

    for kind, layer, rows in (("FEEDS", 11, sizes.n_features[11]), ("PROMOTES", 0, sizes.n_features[0])):
        spans = [(unit.first, unit.last) for unit in todo if (unit.kind, unit.layer) == (kind, layer)]
        assert [last for _, last in spans[:-1]] == [first for first, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, rows)
    assert max(unit.products for unit in todo) < 0.1 * sum(unit.products for unit in todo)
    assert len(todo) < 3000


def test_a_finished_build_says_what_was_predicted_beside_what_it_was(tmp_path):
    build = make(tmp_path)

    noted = json.loads((build.path / "run.json").read_text())

    assert set(noted["predicted"]) == set(noted["actual"]) == set(COMPARED)
    assert noted["actual"]["edges"] == {kind: build.rows(f"edges/{kind}/") for kind in noted["actual"]["edges"]}
    assert noted["actual"]["disk"] == build.bytes
    assert sum(noted["actual"]["edges"].values()) <= sum(noted["predicted"]["edges"].values())
    assert f"{build.n_edges:,} edges (at most" in compared(build)


def test_a_build_of_another_version_has_nothing_to_compare(tmp_path):
    build = make(tmp_path)
    (build.path / "run.json").write_text('{"seconds": 3}')

    assert compared(build) == ""
