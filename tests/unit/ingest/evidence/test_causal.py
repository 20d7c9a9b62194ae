"""Where nothing lies between two layers, taking a source away does exactly what drive and TWERA say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ingest
from atlas.errors import BadSetting
from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence import causal
from ingest.evidence.corpus import prepare
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import open_subject
from tests.unit.ingest import models
from tests.unit.ingest.evidence.observed import KEEP, ids_file


@pytest.fixture(scope="module")
def observed_text(tmp_path_factory: pytest.TempPathFactory):
    home: Path = tmp_path_factory.mktemp("home")
    model, tokenizer = models.model("gpt2"), models.tokenizer()
    with torch.no_grad():
        for block in model.transformer.h:  # attention says nothing, so the next MLP reads what this one writes
            block.attn.c_proj.weight.zero_()
    source = models.transcoders(ReadSite.RESID_MID, WriteSite.MLP_RAW, activation=Activation.RELU)
    layers = {layer: source.load(layer) for layer in source.info.layers}
    build = ingest.build(
        model=(model, tokenizer), transcoders=layers, name="tiny/tc", keep=KEEP, device="cpu", home=home
    )
    subject = open_subject(build, (model, tokenizer), layers)
    request = ids_file(home)
    seen = observe(subject, request, Options(examples=2, strongest=3))
    text = prepare(request, tokenizer, models.N_VOCAB, home / "text")
    return subject, seen, text


@pytest.fixture(scope="module")
def measured(observed_text):
    *_, text = observed_text
    return causal.effects(*observed_text, sources=6, targets=8, windows=len(text))


def test_a_removed_source_takes_its_drive_from_the_next_layer(measured):
    following = measured[measured["target_layer"] == measured["source_layer"] + 1]

    assert len(following) > 20
    np.testing.assert_allclose(following["where"], following["drive_active"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(following["overall"], following["drive_mean"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(following["weighted"], following["twera"], rtol=1e-3, atol=1e-5)


def test_the_table_gives_a_perfect_predictor_a_rank_correlation_of_one(measured):
    following = measured[measured["target_layer"] == measured["source_layer"] + 1]

    table = causal.table(following).set_index(["layer", "predictor"])

    assert table.loc[("all", "drive_active"), ["sign", "where", "where_size"]].tolist() == pytest.approx(
        [1, 1, 1], abs=1e-3
    )
    assert table.loc[("all", "twera"), "weighted"] == pytest.approx(1, abs=1e-3)
    assert table.loc[("all", "weight"), "where"] < 1
    ratio = causal.size(following)
    assert ratio.loc[ratio["layers apart"] == 1, [0.25, 0.75]].to_numpy() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("sources", [6, 0])
def test_where_no_source_fires_often_enough_one_line_says_so(
    observed_text, sources: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(causal, "FIRES", 15)  # a window has 14 positions that count

    with pytest.raises(BadSetting, match=r"15 times or more in 1 windows of windows-0\.npy; measure on more") as caught:
        causal.effects(*observed_text, sources=sources, targets=8, windows=1)

    assert "\n" not in str(caught.value)
