"""Whatever the matrices and the rules: what is kept is what sorting all weights keeps, on every path."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ingest.edges import Keep, rules
from tests.unit.ingest.edges import cases
from tests.unit.ingest.edges.brute import assert_is_truth

FEW = st.integers(0, 7)


@st.composite
def problems(draw):
    """Small numbers, many of them equal or zero, of any scale; some vectors twice, some far longer than the rest."""
    d = draw(st.integers(1, 6))
    small = st.integers(-3, 3).map(float)

    def vectors(most: int, least: int = 0) -> np.ndarray:
        n = draw(st.integers(least, most))
        found = draw(arrays(np.float32, (n, d), elements=small)) * np.float32(2.0 ** draw(st.integers(-40, 40)))
        if n and draw(st.booleans()):
            found[draw(st.integers(0, n - 1))] *= np.float32(2.0**12)
        return np.concatenate([found, found[: draw(st.integers(0, 3))]])

    keep = Keep(per_layer=draw(FEW), z=draw(FEW), tokens=draw(FEW), features_per_token=draw(FEW))
    case = cases.Case("drawn", vectors(9, 1), [vectors(12) for _ in range(draw(st.integers(1, 3)))])
    kind, min_z = draw(st.sampled_from(["FEEDS", "ACTIVATES", "PROMOTES"])), draw(st.sampled_from([None, 0.5, 2.0]))
    tile = draw(st.tuples(st.integers(1, 9), st.integers(1, 16)))
    return case, rules(kind, keep, min_z), draw(st.sampled_from(["cpu", "torch=cpu"])), tile


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(problems())
def test_what_is_kept_is_what_sorting_keeps(problem):
    case, wanted, device, tile = problem

    assert_is_truth(cases.found(case, wanted, threads=1, device=device, tile=tile), case, wanted)
