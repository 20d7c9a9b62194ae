"""A vector registered as a direction is a feature: its edges are what the model does, and questions answer about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import atlas
import ingest
import queries
from atlas.errors import AtlasError, BadBuild, BadSetting, BadTranscoder
from atlas.model import ReadSite, WriteSite
from ingest.directions import SITES, Direction, WithDirections
from tests.unit.ingest import models
from tests.unit.ingest.sites import SITES as PROVEN
from tests.unit.ingest.test_intervention import POSITION, frozen, largest_error, weights

G = models.random(models.D_MODEL, seed=77)


def with_direction(family: str, site: ReadSite, layer: int) -> WithDirections:
    source = models.transcoders(ReadSite.RESID_MID, WriteSite.MLP_RAW)
    return WithDirections(weights(family, torch.float32), source, directions=[Direction("probe", G, layer, site)])


def test_a_layer_is_copied_for_its_directions_and_not_where_it_has_none():
    vectors = with_direction("llama", ReadSite.RESID_MID, layer=2)

    for of in (vectors.reads, vectors.writes, vectors.bias):
        assert of(1).data_ptr() == of(1).data_ptr()
        assert len(of(2)) == len(of(1)) - models.N_FEATURES[1] + models.N_FEATURES[2] + 1


PLACES = list(dict.fromkeys((family, read) for family, read, _ in PROVEN))


@pytest.mark.parametrize(("family", "site"), PLACES)
def test_what_reaches_a_direction_is_what_moves_its_product_with_the_stream(family: str, site: ReadSite):
    real, vectors = frozen(family, torch.float32), with_direction(family, site, layer=2)
    source = models.transcoders(ReadSite.RESID_MID, WriteSite.MLP_RAW)

    put = 3.0 * source.load(0).w_dec
    after = real.changed(put, POSITION, layer=0, site=WriteSite.MLP_RAW)
    moved = (real.site(after, 2, site) - real.site(real.clean, 2, site))[:, POSITION] @ G
    scale = real.read_sigma(2, site, POSITION) * real.write_sigma(0, WriteSite.MLP_RAW, POSITION) / 3.0

    assert vectors.n_features[2] == models.N_FEATURES[2] + 1
    predicted = vectors.writes(0, 2) @ vectors.reads(2)[-1]
    assert largest_error(moved * scale, predicted) < 1e-5


@pytest.mark.parametrize("family", models.EVERY)
def test_a_site_that_a_model_does_not_have_is_refused_in_one_line(family: str):
    for site in SITES:
        if (family, site) not in PLACES:
            with pytest.raises(BadTranscoder, match=r"^\S+ has .*; a direction there is at resid_mid$"):
                with_direction(family, site, layer=2)


@pytest.mark.parametrize("family", models.EVERY)
def test_what_a_direction_writes_is_itself_in_the_stream_behind_its_layer(family: str):
    real, vectors = frozen(family, torch.float32), with_direction(family, ReadSite.RESID_MID, layer=0)
    source = models.transcoders(ReadSite.RESID_MID, WriteSite.MLP_RAW)
    into_stream = WriteSite.MLP_POST_NORM if real.anatomy.post_mlp else WriteSite.MLP_RAW

    after = real.changed(3.0 * G[None], POSITION, layer=0, site=into_stream)
    moved = real.pre_activations(after, source.load(2)) - real.pre_activations(real.clean, source.load(2))

    predicted = vectors.writes(0, 2)[-1:] @ source.load(2).w_enc.T
    assert largest_error(moved[:, POSITION] / 3.0, predicted) < 1e-5


@pytest.fixture
def made(tmp_path: Path, monkeypatch) -> tuple[Path, dict]:
    """A build of a stored model and set, and where it is."""
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    models.model("llama").save_pretrained(tmp_path / "model")
    models.tokenizer().save_pretrained(tmp_path / "model")
    layers = [models.transcoder(layer, ReadSite.RESID_MID) for layer in range(models.N_LAYERS)]
    models.write_circuit_tracer(tmp_path / "set", layers, read="hook_resid_mid", write="mlp.hook_out")
    build = ingest.build(
        model=tmp_path / "model", transcoders=tmp_path / "set", name="tiny/tc-1", device="cpu", check=False
    )
    return tmp_path, {"build": build, "w_dec": layers[0].w_dec, "w_enc": layers[2].w_enc}


def test_a_registered_direction_can_be_asked_about_like_any_feature(made):
    path, about = made
    np.save(path / "sentiment.npy", G.numpy())

    build = ingest.register("tiny/tc-1", path / "sentiment.npy", layer=1, device="cpu")
    atlas.load(build, path / "atlas")

    key = f"tiny/1-tc-1-directions/{models.N_FEATURES[1]}"
    with atlas.open(path / "atlas") as graph:
        card = queries.card(graph, key)
        assert (card["label"], card["label_source"]) == ("sentiment", "direction")
        found = queries.inputs(graph, key, of="features", by="weight", k=5)
        expected = (about["w_dec"] @ G).numpy()
        best = np.argsort(-np.abs(expected))[:5]
        assert found["key"].tolist() == [f"tiny/0-tc-1-directions/{at}" for at in best]
        np.testing.assert_allclose(found["weight"], expected[best], rtol=1e-4)
        later = queries.outputs(graph, key, of="features", by="weight", k=5)
        expected = (about["w_enc"] @ G).numpy()
        assert later["key"].tolist() == [f"tiny/2-tc-1-directions/{at}" for at in np.argsort(-np.abs(expected))[:5]]
        assert set(queries.outputs(graph, key, of="tokens")["type"]) == {"Token"}
        assert not queries.paths(graph, found["key"][0], key).empty
        assert key in queries.search(graph, "sentiment")["key"].tolist()


def test_directions_add_up_and_one_of_the_same_name_is_replaced(made):
    path, about = made
    save_file({"truth": G, "mood": -G}, path / "two.safetensors")

    ingest.register(about["build"], {"first": G}, layer=0, device="cpu")
    build = ingest.register(about["build"], path / "two.safetensors", layer=2, site="norm_pre_gain", device="cpu")
    again = ingest.register(about["build"], {"mood": 2 * G}, layer=1, device="cpu")

    names = [(one["name"], one["layer"], one["site"]) for one in again.manifest["settings"]["directions"]]
    assert sorted(names) == [("first", 0, "resid_mid"), ("mood", 1, "resid_mid"), ("truth", 2, "norm_pre_gain")]
    assert build.features_per_layer == [models.N_FEATURES[0] + 1, models.N_FEATURES[1], models.N_FEATURES[2] + 2]
    assert again.nodes("TranscoderSet")["kind"][0].as_py() == "directions"
    assert about["build"].features_per_layer == list(models.N_FEATURES)


BAD = {
    "another length": ({"x": torch.ones(7)}, {}, "has length 7, .* has d_model 20"),
    "whole numbers": ({"x": torch.ones(20, dtype=torch.int64)}, {}, "one vector of floating-point numbers"),
    "nothing": ({"x": torch.zeros(20)}, {}, "is zero or not finite"),
    "not a number": ({"x": torch.full((20,), float("nan"))}, {}, "is zero or not finite"),
    "a layer that is not there": ({"x": torch.ones(20)}, {"layer": 9}, "at layer 9, where .* has no features"),
    "another site": ({"x": torch.ones(20)}, {"site": "mlp_raw"}, "'mlp_raw' is no site of a direction"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_what_is_no_direction_is_refused_in_one_line_and_not_kept(made, wrong: str):
    path, about = made
    vectors, options, says = BAD[wrong]

    with pytest.raises(AtlasError, match=says) as caught:
        ingest.register(about["build"], vectors, **{"layer": 1, **options}, device="cpu")

    assert "\n" not in str(caught.value)
    assert not (path / "home" / "directions").exists()


def test_a_pickle_and_an_unknown_set_are_refused(made):
    path, about = made
    np.save(path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(BadSetting, match=r"objects\.npy cannot be read"):
        ingest.register(about["build"], path / "objects.npy", layer=1)
    with pytest.raises(BadBuild, match="no build has this name"):
        ingest.register("tiny/other", {"x": G}, layer=1)
