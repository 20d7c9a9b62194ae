"""What is staged equals the dense computation, for every statistic, however the text was divided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from atlas import observations
from atlas.errors import BadBuild, BadModel, BadSetting
from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from ingest.evidence.counting import BEFORE
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import open_subject
from tests.unit.ingest import models
from tests.unit.ingest.evidence.observed import dense, ids_file, subject

CASES = {
    "gpt2, relu": ("gpt2", Activation.RELU, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "gpt2, centred": ("gpt2", Activation.JUMPRELU, ReadSite.RESID_MID_CENTRED, WriteSite.MLP_RAW_CENTRED),
    "llama, topk": ("llama", Activation.TOPK, ReadSite.NORM_PRE_GAIN, WriteSite.MLP_RAW),
    "gemma2, before its norm": ("gemma2", Activation.JUMPRELU, ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "gemma2, behind its norm": ("gemma2", Activation.RELU, ReadSite.RESID_MID, WriteSite.MLP_POST_NORM),
}
OPTIONS = Options(examples=3, strongest=3)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("home")
    return subject(home, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)


def close(found: object, expected: object, what: str) -> None:
    if expected is None or found is None:
        assert found is expected, what
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12), what


@pytest.mark.parametrize("case", CASES)
def test_every_statistic_equals_the_dense_computation_on_the_librarys_own_hidden_states(case: str, tmp_path: Path):
    family, activation, read, write = CASES[case]
    tiny = subject(tmp_path, family, activation=activation, read=read, write=write)
    request = ids_file(tmp_path)

    seen = observe(tiny, request, OPTIONS)

    truth = dense(tiny, request)
    assert seen.positions == len(truth.a)
    for row, found in enumerate(seen.features().to_pylist()):
        for name, value in truth.feature(row).items():
            close(found[name], value, f"{name} of {row}")
    both = observed(tiny.build, seen.name)
    kept = {(edge["source"], edge["target"]): edge for table in both.edges("FEEDS") for edge in table.to_pylist()}
    assert len(kept) == tiny.build.rows("edges/FEEDS/") + len(seen.extra()) == both.rows("edges/FEEDS/")
    for (i, j), edge in kept.items():
        for name, value in truth.edge(i, j, edge["weight"]).items():
            close(edge[name], value, f"{name} of {i} -> {j}")
        assert edge["weight"] == pytest.approx(truth.weights[i, j], rel=1e-4, abs=1e-5)
    mean_active = np.array(
        [truth.a[truth.a[:, i] > 0, i].mean() if truth.a[:, i].any() else 0 for i in range(truth.a.shape[1])]
    )
    orders = {
        "twera": truth.weights * (truth.a.T @ truth.a),
        "drive": truth.weights * (mean_active * truth.inverse_out[truth.layer])[:, None],
    }
    for name, strength in orders.items():
        expected = set()
        for j in np.nonzero(truth.live)[0].tolist():
            scores = np.abs(strength[:, j]) * truth.live
            best = np.argsort(-scores, kind="stable")[: OPTIONS.strongest]
            expected |= {(int(i), j) for i in best if scores[i] > 0}
        assert {pair for pair, edge in kept.items() if name in edge["kept_by"].split(",")} == expected


def test_edges_of_tokens_and_logits_carry_what_the_dense_computation_gives(gpt2, tmp_path: Path):
    request = ids_file(tmp_path, seed=1)

    seen = observe(gpt2, request, OPTIONS)

    truth = dense(gpt2, request)
    n = len(truth.a)
    weights = {
        kind: [w for table in gpt2.build.edges(kind) for w in table["weight"].to_pylist()]
        for kind in ("ACTIVATES", "PROMOTES")
    }
    for edge, weight in zip(seen.edges("ACTIVATES").to_pylist(), weights["ACTIVATES"], strict=True):
        here, a = truth.token == edge["source"], truth.a[:, edge["target"]]
        scale = truth.inverse_in[truth.layer[edge["target"]]]
        both = (here & (a > 0)).sum()
        assert edge["n_both"] == both
        close(edge["lift"], n * both / (here.sum() * (a > 0).sum()) if here.any() and a.any() else None, "lift")
        close(edge["drive_active"], weight * scale if here.any() else None, "drive_active")
        close(edge["drive_mean"], weight * scale * here.mean(), "drive_mean")
        close(edge["era"], weight * both / n, "era")
        close(edge["twera"], weight * a[here].sum() / a.sum() if a.any() else None, "twera")
    for edge, weight in zip(seen.edges("PROMOTES").to_pylist(), weights["PROMOTES"], strict=True):
        a = truth.a[:, edge["source"]]
        assert (edge["n_both"], edge["lift"], edge["twera"]) == (None, None, None)
        close(edge["drive_mean"], weight * a.mean() * truth.inverse_final, "drive_mean")


def test_what_a_token_explains_is_all_for_a_copy_of_a_token_and_nothing_for_noise(gpt2, tmp_path: Path):
    request = ids_file(tmp_path, seed=2)

    seen = observe(gpt2, request, OPTIONS)

    truth = dense(gpt2, request)
    kinds = len(set(truth.token.tolist()))
    for row, found in enumerate(seen.features().to_pylist()):
        a = truth.a[:, row]
        if a.std() == 0:
            assert found["token_share"] is None
            continue
        means = np.array([a[truth.token == token].mean() for token in truth.token])
        unexplained = ((a - means) ** 2).sum() / (len(a) - kinds) / (a.var() * len(a) / (len(a) - 1))
        close(found["token_share"], max(0.0, 1 - unexplained), f"token_share of {row}")
        mass = np.bincount(truth.token, weights=a, minlength=models.N_VOCAB)
        top = np.argsort(-mass, kind="stable")[: len(found["top_tokens"])]
        assert found["top_tokens"] == top.tolist()
        np.testing.assert_allclose(found["top_token_shares"], mass[top] / mass.sum(), rtol=1e-5)
        for quantile, value in zip(observations.QUANTILES, found["quantiles"], strict=True):
            exact = np.sort(a[a > 0])[int(np.ceil(quantile * (a > 0).sum())) - 1]
            assert value == pytest.approx(exact, rel=1 / 16)


@pytest.mark.parametrize(
    "options", [Options(batch=15, shard=30), Options(batch=10_000, shard=150), Options(memory=200_000, shard=90)]
)
def test_batches_shards_and_blocks_change_no_figure(gpt2, tmp_path: Path, options: Options):
    request = ids_file(tmp_path, seed=3)
    whole = observe(gpt2, request, Options(examples=16, strongest=16), name=f"whole-{tmp_path.name}")

    seen = observe(gpt2, request, options, name=f"parts-{tmp_path.name}")

    tables = sorted(whole.manifest["files"])
    assert tables == sorted(seen.manifest["files"])
    for name in tables:
        one, other = whole._read(name), seen._read(name)
        assert one.num_rows == other.num_rows, name
        for column in one.column_names:
            a, b = (
                np.array(np.concatenate([[], *t[column].to_pylist()]))
                if t.schema.field(column).type.num_fields
                else t[column].to_numpy()
                for t in (one, other)
            )
            np.testing.assert_allclose(
                a.astype(float), b.astype(float), rtol=1e-6, atol=1e-12, err_msg=f"{name} {column}"
            )


def test_an_example_shows_the_activation_that_running_its_window_again_gives(gpt2, tmp_path: Path):
    request = ids_file(tmp_path, seed=4)
    seen = observe(gpt2, request, OPTIONS)
    truth = dense(gpt2, request)
    row = int(np.argmax((truth.a > 0).sum(0)))

    found = seen.examples(row).to_pylist()

    assert {example["kind"] for example in found} == {observations.STRONGEST, observations.SAMPLE}
    assert found[0]["value"] == pytest.approx(truth.a[:, row].max(), rel=1e-6)
    for example in found:
        np.save(tmp_path / "again.npy", np.array([example["ids"]]))
        from ingest.evidence.corpus import Request

        again = dense(gpt2, Request(ids=str(tmp_path / "again.npy"))).a[:, row]
        at = np.nonzero(np.array(example["ids"]) != 0)[0].tolist().index(example["position"])
        assert again[at] == pytest.approx(example["value"], rel=1e-6)
        assert example["around"][BEFORE] == example["value"]


def test_the_observed_text_is_named_hashed_and_beside_the_build(gpt2, tmp_path: Path):
    before = json.loads((gpt2.build.path / "manifest.json").read_text())
    request = ids_file(tmp_path, seed=5)

    seen = observe(gpt2, request, OPTIONS, name="seeded")

    assert json.loads((gpt2.build.path / "manifest.json").read_text()) == before
    assert seen.manifest["corpus"]["name"] == "windows-5.npy"
    assert len(seen.manifest["corpus"]["sha256"]) == len(seen.manifest["corpus"]["ids_sha256"]) == 64
    assert "seeded" in observations.names(gpt2.build)
    assert observe(gpt2, request, OPTIONS, name="seeded").manifest == seen.manifest
    with pytest.raises(BadSetting, match="another text"):
        observe(gpt2, ids_file(tmp_path, seed=6), OPTIONS, name="seeded")
    assert observations.remove(gpt2.build, "seeded") > 0
    with pytest.raises(BadBuild, match="no observation 'seeded'"):
        observations.find(gpt2.build, "seeded")


def test_another_model_than_the_builds_is_refused(gpt2):
    other = models.model("gpt2", seed=9), models.tokenizer()

    with pytest.raises(BadModel, match="give that model"):
        open_subject(gpt2.build, other, {})
