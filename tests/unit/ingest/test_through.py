"""A build with heads holds what multiplying everything out finds: every kind, every head, both rules, z and share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ingest
from atlas.observed import observed
from atlas.staging import Build
from atlas.through import FEATURES
from ingest.folding import Vectors
from ingest.heads import heads
from ingest.weights import open_model
from tests.unit.ingest import models

KEEP = 3


@pytest.fixture(scope="module")
def source():
    from atlas.model import ReadSite, WriteSite

    return models.transcoders(ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW)


def asked(family: str, source, home: Path) -> dict:
    transcoders = {layer: source.load(layer) for layer in range(models.N_LAYERS)}
    return {
        "model": (models.model(family), models.tokenizer()),
        "transcoders": transcoders,
        "device": "cpu",
        "home": home,
    }


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox", "llama"])
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def build(family: str, source, tmp_path_factory) -> Build:
    given = asked(family, source, tmp_path_factory.mktemp(family))
    return ingest.build(**given, name="tiny/tc-test", keep=ingest.Keep(heads=KEEP))


@pytest.fixture(scope="module")
def vectors(family: str, source) -> Vectors:
    return Vectors(open_model(models.model(family), models.tokenizer()), source, dtype=torch.float64)


def every(vectors: Vectors, side: str) -> tuple[torch.Tensor, np.ndarray]:
    """Vectors of all features, and their layers."""
    of = [getattr(vectors, side)(layer) for layer in range(models.N_LAYERS)]
    return torch.cat(of), np.repeat(np.arange(models.N_LAYERS), models.N_FEATURES)


def strongest(weights: np.ndarray) -> set[tuple[int, int]]:
    """Of each row and of each column of sources x targets."""
    size = np.abs(weights)
    kept = set()
    for axis in (0, 1):
        order = np.argsort(-size, axis=axis, kind="stable").take(range(min(KEEP, size.shape[axis])), axis=axis)
        mask = np.zeros(size.shape, bool)
        np.put_along_axis(mask, order, True, axis=axis)
        kept |= set(zip(*np.nonzero(mask & (size > 0)), strict=True))
    return {(int(a), int(b)) for a, b in kept}


def dense(vectors: Vectors, kind: str, layer: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights from all sources to all targets of one head, and which of either it joins."""
    head = heads(vectors.model, layer, dtype=torch.float64)[number]
    writes, of_write = every(vectors, "writes")
    reads, of_read = every(vectors, "reads")
    parallel = vectors.model.parallel
    before, behind = np.flatnonzero(of_write < layer), np.flatnonzero(of_read >= layer + parallel)
    tokens = np.arange(models.N_VOCAB)
    left = vectors.token_writes() if kind == "ACTIVATES_VIA" else writes
    right = vectors.logit_reads() if kind == "PROMOTES_VIA" else reads
    rows = tokens if kind == "ACTIVATES_VIA" else before
    cols = tokens if kind == "PROMOTES_VIA" else behind
    weights = (left @ head.reads @ head.writes @ right.T).numpy()
    return weights[np.ix_(rows, cols)], rows, cols


@pytest.mark.parametrize("kind", ["ACTIVATES_VIA", "FEEDS_VIA", "PROMOTES_VIA"])
def test_each_head_keeps_the_strongest_of_each_end(build: Build, vectors: Vectors, kind: str):
    tables = {(int(t["layer"][0].as_py()), int(t["head"][0].as_py())): t for t in build.edges(kind) if len(t)}
    expected_heads = set()
    for layer in range(models.N_LAYERS):
        for number in range(models.N_HEADS):
            weights, rows, cols = dense(vectors, kind, layer, number)
            if not weights.size:
                continue
            expected_heads.add((layer, number))
            table = tables[layer, number]
            found = set(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True))
            assert found == {(int(rows[a]), int(cols[b])) for a, b in strongest(weights)}

            at = np.searchsorted(rows, table["source"]), np.searchsorted(cols, table["target"])
            np.testing.assert_allclose(table["weight"], weights[at], rtol=1e-4, atol=1e-5 * np.abs(weights).max())
            by_source = kind == "PROMOTES_VIA"
            mean, std = (getattr(weights, name)(axis=1 if by_source else 0) for name in ("mean", "std"))
            own = at[0] if by_source else at[1]
            np.testing.assert_allclose(table["z"], (weights[at] - mean[own]) / std[own], rtol=1e-3, atol=1e-4)
            total = build.total_into("Token" if by_source else "Feature")[table["target"].to_numpy()]
            np.testing.assert_allclose(table["share"], np.abs(weights[at]) / total, rtol=1e-3)
    assert tables.keys() == expected_heads


def test_each_token_keeps_the_logits_it_moves_most_past_everything_else(build: Build, vectors: Vectors):
    (table,) = build.edges("PREDICTS")
    weights = (vectors.token_writes() @ vectors.logit_reads().T).numpy()

    assert set(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)) == strongest(weights)
    assert set(table["run"].to_pylist()) == {build.run}
    z = (weights - weights.mean(1, keepdims=True)) / weights.std(1, keepdims=True)
    np.testing.assert_allclose(table["z"], z[table["source"], table["target"]], rtol=1e-3, atol=1e-4)


def test_a_feature_names_the_heads_that_can_move_it_most_and_the_positions_that_do(build: Build, vectors: Vectors):
    table = observed(build).nodes("Feature")
    reads, layer_of = every(vectors, "reads")
    for row in (0, 40, 90):
        norms = {
            f"tiny/L{layer}H{head.number}": float((head.reads @ head.writes @ reads[row]).norm())
            for layer in range(models.N_LAYERS)
            if layer + vectors.model.parallel <= layer_of[row]
            for head in heads(vectors.model, layer, dtype=torch.float64)
        }
        expected = sorted(norms, key=lambda key: -norms[key])[:8]
        assert table["heads"][row].as_py() == expected
        np.testing.assert_allclose(table["head_norms"][row].as_py(), [norms[key] for key in expected], rtol=1e-4)
        learned = vectors.model.positions
        if learned is None:
            assert table["positions"][row].as_py() == []
            continue
        added = (learned.double() @ reads[row]).numpy()
        assert table["positions"][row].as_py() == np.argsort(-np.abs(added))[:16].tolist()
        np.testing.assert_allclose(
            table["position_weights"][row].as_py(), added[np.argsort(-np.abs(added))[:16]], rtol=1e-3
        )


def test_heads_are_counted_in_the_estimate_and_nothing_of_them_is_there_unless_asked(
    build: Build, source, tmp_path: Path
):
    given = asked("gpt2", source, tmp_path)
    plan = ingest.plan(**given, keep=ingest.Keep(heads=KEEP))
    plain = ingest.plan(**given)

    assert plain.edges.keys() | {"ACTIVATES_VIA", "FEEDS_VIA", "PROMOTES_VIA", "PREDICTS"} == plan.edges.keys()
    for kind, most in plan.edges.items():
        assert 0 < build.rows(f"edges/{kind}/") <= most
    assert plan.flop > plain.flop
    without = ingest.build(**given)
    assert "Head" not in without.labels
    assert not [name for name in without.manifest["files"] if "VIA" in name or "Head" in name]
    assert observed(without).nodes("Feature")["heads"].null_count == without.n_features


def test_a_build_with_heads_goes_on_where_it_stopped(source, tmp_path: Path, monkeypatch):
    from ingest import through

    given = asked("llama", source, tmp_path) | {"keep": ingest.Keep(heads=KEEP)}
    one, calls = through._one, []

    def stop(unit, *rest):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(unit.name)
        return one(unit, *rest)

    monkeypatch.setattr(through, "_one", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest.build(**given)
    again = []
    monkeypatch.setattr(through, "_one", lambda unit, *rest: (again.append(unit.name), one(unit, *rest)))
    resumed = ingest.build(**given)

    assert not set(calls) & set(again)
    assert pa.concat_tables(resumed.edges("FEEDS_VIA")).num_rows > 0


def test_what_heads_add_to_features_is_written_a_layer_at_a_time(build: Build):
    file = pq.ParquetFile(build.path / FEATURES)

    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == list(models.N_FEATURES)
