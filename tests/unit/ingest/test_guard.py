"""A set that is read where it was not trained is found out before anything is built, with the figures."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers.pre_tokenizers import Whitespace

from atlas import demo
from atlas.cli import main
from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest import build, guard
from ingest.guard import Rehearsal
from ingest.page import TEXT
from ingest.sources import InMemory, open_transcoders
from ingest.taps import Taps
from ingest.transcoder import Transcoder
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.tiny import KEEP, write_both

R, W = ReadSite, WriteSite


@cache
def bunny():
    return open_model(str(demo.MODEL))


@cache
def rehearsal() -> Rehearsal:
    return Rehearsal(str(demo.MODEL), bunny(), open_transcoders(str(demo.TRANSCODERS), model=bunny()))


def of(source) -> Rehearsal:
    """The bundled model, loaded once, with another set."""
    found = Rehearsal(str(demo.MODEL), bunny(), source)
    found.runner, found.tokenizer = rehearsal().runner, rehearsal().tokenizer
    return found


def misdeclared(folder: Path, read: str) -> Path:
    shutil.copytree(demo.TRANSCODERS, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"feature_input_hook": read}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_the_bundled_set_explains_its_mlps_where_it_says_it_reads_and_nowhere_else():
    said: list[str] = []
    noted = rehearsal().check(say=said.append)

    assert noted["fit"]["explained"] > 0.8
    assert 10 < noted["fit"]["l0"] < 50
    lines = said[0].splitlines()
    assert "declared  norm_post_gain -> mlp_raw " in lines[2]
    assert len([line for line in lines if line.startswith("or ")]) == 7
    assert "norm_pre_gain -> mlp_raw" in said[0]


@pytest.mark.parametrize("hook", ["ln2.hook_normalized", "hook_resid_mid"])
def test_a_set_that_declares_another_hook_is_refused_with_both_figures_and_goes_on_when_forced(tmp_path: Path, hook):
    source = open_transcoders(misdeclared(tmp_path / "set", hook), model=bunny())

    with pytest.raises(BadTranscoder) as caught:
        of(source).check()

    said = str(caught.value)
    assert "reading norm_post_gain and writing mlp_raw it explains 89" in said
    assert f"declares that it reads {source.info.read}" in said
    assert "features active" in said
    assert "always on" in said
    assert of(source).check(force=True)["fit"]["explained"] < 0.3


def test_nothing_is_written_when_a_build_is_refused_and_its_command_says_why_in_one_line(tmp_path, monkeypatch, capsys):
    folder = misdeclared(tmp_path / "set", "hook_resid_mid")
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))

    with pytest.raises(BadTranscoder, match="or go on as it is with --force"):
        build(model=str(demo.MODEL), transcoders=str(folder), layers=[0, 1])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(("ingest", "--model", str(demo.MODEL), "--transcoders", str(folder), "--layers", "0-1", "--quiet"))
    said = capsys.readouterr()

    assert stopped.value.code == 1
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "Mend its config, or go on as it is with --force" in said.err
    assert not (tmp_path / "home").exists() or not any((tmp_path / "home").rglob("*.*"))


@pytest.fixture(scope="module")
def autoencoder() -> InMemory:
    """Of the stream entering block 2: its strongest directions, each in both signs, with the mean in the bias."""
    taps = Taps(rehearsal().runner, [2])
    windows, counted = guard._windows(rehearsal().runner, rehearsal().tokenizer, TEXT)
    x = taps.run(windows, counted)[2].resid_pre
    mean = x.mean(0)
    _, _, directions = torch.linalg.svd(x - mean, full_matrices=False)
    kept = torch.cat([directions[:56], -directions[:56]])
    return kept, mean


def stream(autoencoder, site: ReadSite) -> InMemory:
    kept, mean = autoencoder
    made = Transcoder(2, kept, -(kept @ mean), kept, mean, Activation.RELU, site, WriteSite(str(site)))
    return InMemory({2: made})


def test_features_of_the_stream_put_on_an_mlps_output_are_refused_and_told_where_they_belong(autoencoder):
    right, wrong = (of(stream(autoencoder, site)) for site in (R.RESID_PRE, R.MLP_RAW))

    assert right.check()["fit"]["explained"] > 0.8
    with pytest.raises(BadTranscoder, match=r"declares that it reads mlp_raw .* reading resid_(pre|mid|post)"):
        wrong.check()


def test_a_release_that_states_other_figures_is_shown_beside_what_was_measured():
    source = open_transcoders(str(demo.TRANSCODERS), model=bunny())
    stated = InMemory(
        {layer: source.load(layer) for layer in (0, 1)}, l0=dict.fromkeys((0, 1), 500.0), explained={0: 0.9, 1: 0.9}
    )

    said: list[str] = []
    of(stated).check(say=said.append)

    assert "stated" in said[0]
    assert "500.0" in said[0]
    assert "warning: 2" in said[0]
    assert "features are active at a position, the release states 500.0" in said[0]


def test_a_set_that_fits_nowhere_is_warned_of_and_not_refused():
    said: list[str] = []
    words = models.tokenizer()
    words.backend_tokenizer.pre_tokenizer = Whitespace()
    found = Rehearsal(
        (models.model("gemma2"), words),
        open_model((models.model("gemma2"), words)),
        models.transcoders(R.NORM_PRE_GAIN, W.MLP_POST_NORM),
    )

    found.check(say=said.append)

    assert "warning: it explains less than nothing" in said[0]
    assert "norm_pre_gain -> mlp_raw" in said[0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "olmo2"])
def test_every_site_of_every_kind_of_block_is_tapped(family):
    library = models.model(family)
    weights = open_model((library, models.tokenizer()))
    from ingest.evidence.capture import Runner

    seen = Taps(Runner(library, weights), [1]).run(np.asarray([[0, 31, 7, 44, 12]]), np.ones((1, 5), bool))[1]

    states = library(torch.tensor([[0, 31, 7, 44, 12]]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(seen.resid_pre, states[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.resid_post, states[2][0], atol=1e-5, rtol=1e-4)
    added = seen.mlp if seen.mlp_post is None else seen.mlp_post
    between = seen.attention if weights.parallel else 0
    torch.testing.assert_close(seen.resid_post, seen.resid_mid + added + between, atol=1e-4, rtol=1e-4)
    assert seen.z is not None
    if weights.has_post_mlp_norm:
        attention = seen.read(R.ATTN_POST_NORM)
        torch.testing.assert_close(attention, seen.resid_mid - seen.resid_pre)


def test_means_of_denominators_are_those_of_the_norms(tmp_path: Path):
    found = rehearsal().sigmas()

    assert set(found.before) == set(range(4))
    assert all(value > 0 for value in found.before.values())
    assert set(found.behind.values()) == {1.0}
    assert json.loads(json.dumps(found.before))


def test_the_model_that_ran_for_the_check_is_let_go_before_edges_are_computed(tmp_path: Path, monkeypatch):
    from ingest.evidence import capture

    load, recipe = capture.load, sys.modules["ingest.build"]
    compute_units, loaded, alive = recipe.compute_units, [], []

    def noted(*given, **named):
        model = load(*given, **named)
        loaded.append(weakref.ref(model))
        return model

    def computed(*given):
        alive.extend(reference() is not None for reference in loaded)
        return compute_units(*given)

    monkeypatch.setattr(capture, "load", noted)
    monkeypatch.setattr(recipe, "compute_units", computed)
    model, transcoders = write_both(tmp_path)
    build(model=model, transcoders=transcoders, name="tiny/tc", keep=KEEP, home=tmp_path)

    assert alive == [False]
