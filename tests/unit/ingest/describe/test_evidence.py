"""Every token alone: the table is what one pass a token gives, and it goes on where it stopped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from atlas.errors import BadModel
from atlas.model import Activation
from ingest.describe import evidence, forward
from ingest.describe.evidence import gather
from ingest.describe.forward import Passes, Probes
from tests.unit.ingest.describe.small import BOS, N_LAYERS, renamed, small


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_table_says_what_one_pass_a_token_says(family: str, tmp_path):
    made = small(family, Activation.JUMPRELU)
    tokens = np.array([3, 77, 78, 500, 1059])

    found = gather(made.runner, made.source, tmp_path, tokens=tokens)

    for layer in range(N_LAYERS):
        table = found.layer(layer).toarray()
        for feature in (0, 7, 50, 101):
            alone = [made.activation([BOS, token], layer, feature)[-1] for token in tokens.tolist()]
            np.testing.assert_allclose(table[tokens, feature], alone, rtol=1e-5, atol=2e-6)
        assert table[np.setdiff1d(np.arange(len(table)), tokens)].sum() == 0
    assert sum(found.layer(layer).nnz for layer in range(N_LAYERS)) > 100


def test_a_table_that_was_interrupted_goes_on_and_is_the_same(tmp_path, monkeypatch):
    made = small()
    monkeypatch.setattr(evidence, "_PART", 256)
    whole = gather(made.runner, made.source, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done > 500:
            raise Stop

    with pytest.raises(Stop):
        gather(made.runner, made.source, tmp_path / "stopped", progress=stop)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("*.parquet")}
    broken = max(before)
    broken.write_bytes(broken.read_bytes()[:50])
    again = gather(made.runner, made.source, tmp_path / "stopped")

    assert 0 < len(before) < len(list((tmp_path / "whole").glob("*.parquet")))
    untouched = [path for path, when in before.items() if path.name[4:] != broken.name[4:]]
    assert untouched
    assert all(path.stat().st_mtime_ns == before[path] for path in untouched)
    for layer in range(N_LAYERS):
        assert (again.layer(layer) != whole.layer(layer)).nnz == 0


def test_a_model_without_bos_or_with_one_it_lacks_is_refused_in_one_line(tmp_path):
    made = small()
    for bos, said in ((None, "names no BOS"), (99_999, "99999")):
        weights = renamed(made.weights, "tiny", vocabulary=dataclasses.replace(made.weights.vocabulary, bos=bos))
        runner = made.runner
        runner.weights = weights
        with pytest.raises(BadModel, match=said):
            gather(runner, made.source, tmp_path)


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.JUMPRELU])
def test_a_batch_decides_as_one_pass_a_sequence_decides_close_calls_included(activation, monkeypatch):
    made = small("gpt2", activation)
    rng = np.random.default_rng(5)
    sequences = [rng.integers(0, 1060, size=rng.integers(1, 12)).tolist() for _ in range(40)]
    which = np.repeat(np.arange(40), 30)
    position = np.array([rng.integers(len(sequences[s])) for s in which])
    feature = rng.integers(0, 110, size=len(which))
    monkeypatch.setattr(forward, "_POSITIONS", 64)
    monkeypatch.setattr(forward, "CLOSE", 0.05)  # so that close calls do occur

    passes = Passes(made.runner, made.source)
    found = passes.activations(2, sequences, Probes(which, position, feature))

    alone = [made.activation(sequences[s], 2, f)[p] for s, p, f in zip(which[:300], position, feature, strict=False)]
    np.testing.assert_allclose(found[:300], alone, rtol=1e-5, atol=2e-6)
    assert ((found[:300] > 0) == (np.array(alone) > 0)).all()
    assert 8 < passes.count <= 40 + 20
