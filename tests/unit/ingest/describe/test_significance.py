"""z is the row's own, p is what chance gives, and chance is kept to its share."""

from __future__ import annotations

import numpy as np
import torch

from ingest.describe.significance import Entries, Null, Side, beyond, discoveries, strongest


def vectors(n: int, d: int = 24, seed: int = 0, heavy: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(n, d, generator=generator) * torch.linspace(0.2, 3.0, d) + 0.3
    return found * torch.rand(n, 1, generator=generator).pow(-0.4) if heavy else found


def test_z_is_that_of_the_row_without_what_is_masked():
    writes, reads = vectors(900), vectors(7, seed=1)
    masked = np.zeros(900, bool)
    masked[::10] = True

    z = Side.of(writes, masked).z(reads)

    row = reads @ writes.T
    own = row[:, torch.from_numpy(~masked)]
    expected = (row - own.mean(1, keepdim=True)) / own.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(
        z[:, torch.from_numpy(~masked)], expected[:, torch.from_numpy(~masked)], rtol=1e-4, atol=1e-4
    )
    assert (z[:, torch.from_numpy(masked)] == 0).all()


def test_weights_are_plain_products_and_the_farthest_comes_first():
    writes, reads = vectors(900, heavy=True), vectors(7, seed=1)
    side = Side.of(writes)

    found = beyond(reads, side, writes, Null.of(side, reads, 3), 2.0)

    products = (reads @ writes.T).numpy()
    np.testing.assert_allclose(found.weight, products[found.row, found.index], rtol=1e-5)
    z = side.z(reads).numpy()
    assert len(found) == (np.abs(z) >= 2.0).sum()
    for row in range(7):
        mine = np.abs(found.z[found.row == row])
        assert (np.diff(mine) <= 0).all()


def test_p_of_random_directions_is_uniform_even_where_scores_are_far_from_gaussian():
    writes, reads = vectors(2000, heavy=True), vectors(400, seed=1)
    side = Side.of(writes)
    null = Null.of(side, reads, 3)

    fresh = torch.randn(300, 400, generator=torch.Generator().manual_seed(9)) @ (
        reads - reads.mean(0)
    ) / 20 + reads.mean(0)
    p = null.p(side.z(fresh).numpy().astype(np.float64))

    for share in (0.1, 0.01, 0.001):
        assert 0.7 * share < (p <= share).mean() < 1.4 * share
    z = side.z(fresh).numpy()
    assert (np.abs(z) > 4.5).mean() > 20 * 6.8e-6  # a normal table would call these all but impossible
    assert (np.diff(null.p(np.linspace(0, 30, 200))) <= 0).all()
    assert null.p(np.array([25.0]))[0] > 0


def test_planted_connections_are_found_and_chance_finds_almost_nothing():
    writes, reads = vectors(3000), vectors(200, seed=1)
    planted = writes[:200] - writes.mean(0)
    spread = torch.linalg.inv(torch.cov(writes.T))
    reading = reads + 6 * (planted @ spread) / (planted @ spread).norm(dim=1, keepdim=True) * reads.norm(
        dim=1, keepdim=True
    )
    side = Side.of(writes)
    null = Null.of(side, reads, 3)

    chance = discoveries(beyond(reads, side, writes, null, 3.0), len(side), 0.05)
    found = discoveries(beyond(reading, side, writes, Null.of(side, reads, 3), 3.0), len(side), 0.05)

    assert len(set(chance.row.tolist())) < 0.1 * 200
    hits = {(row, index) for row, index in zip(found.row.tolist(), found.index.tolist(), strict=True)}
    assert sum((row, row) in hits for row in range(200)) > 60


def test_the_rule_of_benjamini_and_hochberg_is_that_of_the_book():
    rng = np.random.default_rng(2)
    p = rng.uniform(size=(5, 60)) ** 3
    rows, index = np.divmod(np.arange(300), 60)
    entries = Entries(rows, index, p.ravel(), -np.log(p.ravel()), p.ravel())

    found = discoveries(entries, 60, 0.1)

    for row in range(5):
        ranked = np.sort(p[row])
        below = np.flatnonzero(ranked <= 0.1 * np.arange(1, 61) / 60)
        expected = 0 if not len(below) else below[-1] + 1
        assert (found.row == row).sum() == expected


def test_each_sign_keeps_its_own_strongest():
    z = np.array([9.0, -8.0, 7.0, -6.0, 5.0, 4.0])
    entries = Entries(np.zeros(6, int), np.arange(6), z, z, np.zeros(6))

    assert strongest(entries, 2).index.tolist() == [0, 1, 2, 3]


def test_a_feature_that_reads_nothing_has_no_z_and_no_candidates():
    writes = vectors(500)
    reads = torch.cat([torch.zeros(1, 24), vectors(3, seed=1)])
    side = Side.of(writes)

    assert (side.z(reads)[0] == 0).all()
    assert 0 not in beyond(reads, side, writes, Null.of(side, reads, 0), 2.0).row
