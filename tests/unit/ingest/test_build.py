"""A build of a tiny model, against all its weights sorted by hand."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas.errors import BadModel, BadSetting, BadTranscoder
from atlas.staging import Build
from ingest import Keep, build, plan
from ingest.plan import Sizes, units
from tests.unit.ingest import models
from tests.unit.ingest.tiny import KEEP, KINDS, Dense, edges, make


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_keeps_what_sorting_all_weights_keeps_with_its_z_and_share(built, kind):
    dense = Dense(KEEP)

    found = edges(built, kind)

    assert set(found) == set(map(tuple, np.argwhere(dense.kept[kind]).tolist()))
    for (source, target), (weight, z, share) in found.items():
        assert weight == pytest.approx(dense.stored[kind][source, target], rel=1e-6)
        assert z == pytest.approx(dense.z[kind][source, target], rel=1e-5, abs=1e-6)
        assert share == pytest.approx(abs(dense.weights[kind][source, target]) / dense.total[kind][target], rel=1e-5)


def test_nothing_that_was_left_out_lies_above_a_features_cut(built):
    dense, features = Dense(KEEP), built.nodes("Feature").to_pandas()
    left_out = {kind: np.where(dense.kept[kind], 0, dense.stored[kind]) for kind in dense.kept}
    left_out_z = np.where(dense.kept["FEEDS"] | (dense.stored["FEEDS"] == 0), 0, np.abs(dense.z["FEEDS"]))
    slack = 1 + 1e-5

    for row, feature in features.iterrows():
        assert left_out_z[:, row].max() <= feature["cut_in_z"] * slack
        assert left_out_z[row].max() <= feature["cut_out_z"] * slack
        for layer in range(3):
            inside = dense.layer == layer
            assert np.abs(left_out["FEEDS"][inside, row]).max() <= feature["cuts_in_by_layer"][layer] * slack
            assert np.abs(left_out["FEEDS"][row, inside]).max() <= feature["cuts_out_by_layer"][layer] * slack
        assert left_out["ACTIVATES"][:, row].max() <= feature["cut_token_pos"] * slack
        assert -left_out["ACTIVATES"][:, row].min() <= feature["cut_token_neg"] * slack
        assert left_out["PROMOTES"][row].max() <= feature["cut_logit_pos"] * slack
        assert -left_out["PROMOTES"][row].min() <= feature["cut_logit_neg"] * slack
    assert (features["cut_in_z"][dense.layer == 0] == 0).all()
    assert (features["cut_in_z"][dense.layer > 0] > 0).all()


def test_features_carry_the_sums_of_everything_that_reaches_them_and_that_they_reach(built):
    dense, features = Dense(KEEP), built.nodes("Feature").to_pandas()

    out = np.abs(dense.weights["FEEDS"]).sum(axis=1) + np.abs(dense.weights["PROMOTES"]).sum(axis=1)

    np.testing.assert_allclose(features["l1_in"], dense.total["FEEDS"], rtol=1e-6)
    np.testing.assert_allclose(features["l1_out"], out, rtol=1e-6)
    np.testing.assert_allclose(features["std_tokens"], dense.weights["ACTIVATES"].std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(features["mean_logits"], 0, atol=1e-6)


def test_files_are_sorted_as_their_specification_says(built):
    built.verify()
    for kind, by in (
        ("ACTIVATES", ["target", "source"]),
        ("FEEDS", ["target", "source"]),
        ("PROMOTES", ["source", "target"]),
    ):
        keys = [
            key for table in built.edges(kind) for key in zip(*(table[name].to_pylist() for name in by), strict=True)
        ]
        assert keys == sorted(set(keys))
    feeds = built.stats("FEEDS").to_pandas()
    assert feeds[["target", "layer"]].apply(tuple, axis=1).is_monotonic_increasing
    assert not (built.path / "work").exists()


def test_blocks_of_rows_change_the_files_but_not_the_graph(built, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["ingest.plan"], "_BLOCK", 5)
    monkeypatch.setattr(sys.modules["ingest.plan"], "_UNIT_FLOP", 1)

    blocks = make(tmp_path)

    assert len(blocks.edge_files("FEEDS")) > len(built.edge_files("FEEDS"))
    for kind in KINDS:
        ours, theirs = edges(blocks, kind), edges(built, kind)
        assert {pair: (weight, z) for pair, (weight, z, _) in ours.items()} == {
            pair: (weight, z) for pair, (weight, z, _) in theirs.items()
        }
        assert all(share == pytest.approx(theirs[pair][2], rel=1e-6) for pair, (_, _, share) in ours.items())
    cuts = [name for name in built.nodes("Feature").column_names if "cut" in name]
    assert blocks.nodes("Feature").select(cuts).equals(built.nodes("Feature").select(cuts))


@pytest.mark.parametrize("what", ["another feature", "another cut", "another model"])
def test_a_changed_input_is_another_run(built, tmp_path, what):
    transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
    if what == "another feature":
        changed = transcoders[1].w_dec.clone()
        changed[0, 0] += 1
        transcoders[1] = replace(transcoders[1], w_dec=changed)
    keep = replace(KEEP, z=4) if what == "another cut" else KEEP
    model = models.model("gpt2", seed=1 if what == "another model" else 0)

    other = build(model=(model, models.tokenizer()), transcoders=transcoders, name="tiny/tc", keep=keep, home=tmp_path)

    assert other.run != built.run


def test_one_layer_has_tokens_and_logits_but_feeds_nothing(tmp_path):
    one = build(
        model=(models.model("llama"), models.tokenizer()),
        transcoders={1: models.transcoder(1)},
        home=tmp_path,
        keep=KEEP,
    )

    assert one.layers == [1]
    assert one.edge_files("FEEDS") == []
    assert one.rows("edges/ACTIVATES") > 0
    assert one.nodes("Feature")["cuts_in_by_layer"].to_pylist()[0] == [0.0]


@pytest.mark.parametrize(
    ("part", "says"), [("w_enc", "layer 1: what feature 7 reads"), ("w_dec", "layer 1: what feature 7 writes")]
)
def test_vectors_too_long_for_float32_are_refused_with_layer_and_row(tmp_path, part, says):
    transcoders = {layer: models.transcoder(layer) for layer in range(3)}
    long = getattr(transcoders[1], part).clone()
    long[7] = 3e38
    transcoders[1] = replace(transcoders[1], **{part: long})

    with pytest.raises(BadTranscoder, match=says):
        build(model=(models.model("llama"), models.tokenizer()), transcoders=transcoders, home=tmp_path, keep=KEEP)

    assert not list(tmp_path.rglob("manifest.json"))


def test_an_embedding_too_long_for_float32_is_the_models_fault(tmp_path):
    model = models.model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = 3e38

    with pytest.raises(BadModel, match="token 9"):
        build(model=(model, models.tokenizer()), transcoders={0: models.transcoder(0)}, home=tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "no-slash"},
        {"name": "a/b/c"},
        {"keep": Keep(z=-1)},
        {"min_z": 0.0},
        {"device": "no-such-device"},
    ],
    ids=str,
)
def test_a_setting_without_sense_is_refused_before_anything_is_written(tmp_path, options):
    asked = {"name": "tiny/tc", "keep": KEEP, **options}

    with pytest.raises(BadSetting):
        build(
            model=(models.model("gpt2"), models.tokenizer()),
            transcoders={0: models.transcoder(0)},
            home=tmp_path,
            **asked,
        )

    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_at_least_what_a_build_keeps_and_writes_nothing(built, tmp_path):
    transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
    model = (models.model("gpt2"), models.tokenizer())

    cost = plan(model=model, transcoders=transcoders, name="tiny/tc", keep=KEEP, home=tmp_path)

    assert list(tmp_path.iterdir()) == []
    for kind, most in cost.edges.items():
        assert built.rows(f"edges/{kind}/") <= most
    assert cost.features == sum(models.N_FEATURES)
    assert cost.products == sum(unit.products for unit in units(Sizes((0, 1, 2), models.N_FEATURES, 53, 20)))
    assert "time" in str(cost)


def test_progress_reaches_its_end_in_every_step(tmp_path):
    seen: dict[str, tuple[int, int]] = {}

    make(tmp_path, progress=lambda what, done, total: seen.update({what: (done, total)}))

    assert len(seen) == 3
    assert all(done == total for done, total in seen.values())


def test_run_json_says_when_and_how_and_is_outside_the_manifest(built):
    said = json.loads((built.path / "run.json").read_text())

    assert said["device"] == "cpu"
    assert said["actual"]["temporary"] > 0
    assert "run.json" not in built.manifest["files"]
