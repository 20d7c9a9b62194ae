"""Builds of cross-layer sets, of paths through skips, of autoencoders and of pickles: staged edges are the dot products
that interventions prove (``test_paths``), and names say which paths they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from atlas.staging import Build
from ingest import Keep, build
from ingest.evidence.subject import open_subject
from ingest.evidence.surface import subject
from ingest.folding import Vectors
from ingest.skips import of_settings
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest import cross, layouts, models
from tests.unit.ingest.hub import COMMIT, hub
from tests.unit.ingest.tiny import edges

ALL = Keep(per_layer=100, z=0, tokens=60, features_per_token=0)
MODEL = ("llama", models.tokenizer)


def made(transcoders, home: Path, family: str = "llama", **options) -> Build:
    model = (models.model(family), models.tokenizer())
    return build(model=model, transcoders=transcoders, keep=ALL, home=home, **options)


def predicted(vectors: Vectors) -> dict[str, np.ndarray]:
    """Every weight, by dense products."""
    layers, n = vectors.layers, vectors.n_features
    first = np.cumsum([0, *n])
    feeds = np.zeros((first[-1], first[-1]))
    for t, target in enumerate(layers):
        for s, source in enumerate(layers[:t]):
            block = vectors.writes(source, target) @ vectors.reads(target).T
            feeds[first[s] : first[s + 1], first[t] : first[t + 1]] = block.numpy()
    tokens = [vectors.token_writes(layer) @ vectors.reads(layer).T for layer in layers]
    logits = [vectors.writes(layer) @ vectors.logit_reads().T for layer in layers]
    return {"FEEDS": feeds, "ACTIVATES": torch.cat(tokens, 1).numpy(), "PROMOTES": torch.cat(logits, 0).numpy()}


def holds(found: Build, vectors: Vectors) -> None:
    """Every weight of the build is its dot product, and every dot product is in the build."""
    dense = predicted(vectors)
    for kind, weights in dense.items():
        kept = edges(found, kind)
        assert len(kept) == (np.abs(weights) > 0).sum()
        for (source, target), (weight, _, _) in kept.items():
            assert weight == pytest.approx(weights[source, target], rel=1e-4, abs=1e-5)


def test_a_cross_layer_set_is_built_with_what_its_features_have_written_before_each_reader(tmp_path: Path):
    cross.write_cross_layer(tmp_path / "set")

    found = made(str(tmp_path / "set"), tmp_path / "home")

    source = open_transcoders(tmp_path / "set")
    holds(found, Vectors(open_model((models.model("llama"), models.tokenizer())), source))
    (row,) = found.nodes("TranscoderSet").to_pylist()
    assert (row["kind"], row["name"]) == ("cross-layer", "clt-37")


@pytest.mark.parametrize("read", [ReadSite.RESID_MID, ReadSite.NORM_POST_GAIN])
def test_direct_edges_and_edges_through_skips_are_two_sets_each_named(tmp_path: Path, read):
    layers = {layer: models.transcoder(layer, read, WriteSite.MLP_RAW, skip=True) for layer in range(3)}

    direct, through = made(layers, tmp_path), made(layers, tmp_path, with_skips=True)

    assert (direct.set, through.set) == ("tc-37", "tc-37-with-skips")
    assert through.manifest["settings"]["paths"] == "with-skips"
    (row,) = through.nodes("TranscoderSet").to_pylist()
    assert json.loads(row["cut"])["paths"] == "with-skips"
    model, source = (
        open_model((models.model("llama"), models.tokenizer())),
        models.transcoders(read, WriteSite.MLP_RAW, skip=True),
    )
    holds(direct, Vectors(model, source))
    holds(through, Vectors(model, source, **of_settings(through.manifest["settings"])))
    needs = "sigmas" in through.manifest["settings"]
    assert needs == (read is ReadSite.NORM_POST_GAIN)


def test_paths_through_skips_of_a_set_without_any_are_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(BadTranscoder, match="has no skips"):
        made({0: models.transcoder(0)}, tmp_path, with_skips=True)

    assert list(tmp_path.iterdir()) == []


def test_autoencoders_of_the_stream_read_tokens_and_promote_words_but_feed_no_features(tmp_path: Path):
    site = ReadSite.RESID_POST
    layers = {layer: models.transcoder(layer, site, WriteSite.RESID_POST) for layer in range(3)}

    found = made(layers, tmp_path)

    (row,) = found.nodes("TranscoderSet").to_pylist()
    assert (row["kind"], row["read_site"], row["write_site"]) == ("sae", "resid_post", "resid_post")
    assert found.edge_files("FEEDS") == []
    assert found.rows("edges/ACTIVATES") > 0
    assert found.rows("edges/PROMOTES") > 0


def test_what_reads_the_stream_is_not_observed_and_why_is_one_line(tmp_path: Path):
    site = ReadSite.RESID_POST
    layers = {layer: models.transcoder(layer, site, WriteSite.RESID_POST) for layer in range(3)}
    found = made(layers, tmp_path)

    with pytest.raises(BadTranscoder, match="reads resid_post; what fires is read off where an MLP reads"):
        open_subject(found, models.model("llama"), layers, tokenizer=models.tokenizer())


def test_pickles_are_built_from_where_that_is_asked_for_and_the_run_notes_it(tmp_path: Path):
    layouts.pchlenski(tmp_path / "set")
    models.model("gpt2").save_pretrained(tmp_path / "model")
    models.tokenizer().save_pretrained(tmp_path / "model")
    asked: dict = {"model": str(tmp_path / "model"), "transcoders": str(tmp_path / "set"), "keep": ALL}
    asked["home"] = tmp_path / "home"

    with pytest.raises(BadTranscoder, match="--allow-pickle"):
        build(**asked)
    found = build(**asked, allow_pickle=True)

    assert json.loads((found.path / "run.json").read_text())["allow_pickle"] is True
    assert subject(found).source.info.revision == found.manifest["set"]["revision"]


def test_an_alias_is_noted_as_the_repository_and_commit_it_meant(tmp_path: Path, monkeypatch):
    with hub(tmp_path / "hub", tmp_path / "cache", monkeypatch) as served:
        folder = served.root / "mwhanna" / "set"
        models.write_circuit_tracer(
            folder, [models.transcoder(layer, activation=Activation.RELU) for layer in range(3)]
        )
        monkeypatch.setitem(__import__("ingest.sources.known", fromlist=["ALIASES"]).ALIASES, "gemma", "mwhanna/set")

        found = made("gemma", tmp_path / "home")

    noted = json.loads((found.path / "run.json").read_text())
    assert (noted["alias"], noted["transcoders"]) == ("gemma", f"mwhanna/set@{COMMIT}")
    assert found.manifest["set"]["repo"] == "mwhanna/set"
