"""The pair that ships: what :mod:`atlas.releases` names opens, fits, and its edges hold in the model itself."""

from __future__ import annotations

from functools import cache

import torch
from transformers import AutoModelForCausalLM

from atlas import demo, releases
from atlas.model import ReadSite, WriteSite
from ingest.folding import Vectors
from ingest.sources import open_transcoders
from ingest.weights import open_model
from tests.unit.ingest.frozen import Frozen

SOURCES, POSITION = range(0, 1024, 32), 9
SWITCHED_ON = 8.0  # of the size of the stream, so that float32 resolves the change


@cache
def vectors() -> Vectors:
    bundled = releases.find("bunny")
    model = open_model(bundled.model)
    return Vectors(model, open_transcoders(bundled.transcoders, model=model))


@cache
def frozen() -> Frozen:
    words = [vectors().model.vocabulary.texts.index(word) for word in (" witch", " said", " the", " little", " king")]
    return Frozen(AutoModelForCausalLM.from_pretrained(demo.MODEL).float().eval(), torch.tensor([[0, *words, *words]]))


def test_the_bundled_pair_is_what_its_release_says():
    bundled, info = releases.find("bunny"), vectors().source.info

    assert info.layers == [0, 1, 2, 3]
    assert sum(info.n_features.values()) == releases.table().set_index("name").loc["bunny", "features"]
    assert (info.read, info.write) == (ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW)
    assert bundled.name_as == f"bunny/{info.name}"
    assert vectors().model.vocabulary.name == "bunny"
    assert (releases.table().set_index("name").loc["bunny", "bytes"]) > 1e6


def test_a_bundled_edge_is_what_switching_its_source_on_does():
    source = vectors().source
    put = SWITCHED_ON * source.load(1).w_dec[list(SOURCES)]

    after = frozen().changed(put, POSITION, layer=1, site=WriteSite.MLP_RAW)

    for later in (2, 3):
        target = source.load(later)
        moved = frozen().pre_activations(after, target) - frozen().pre_activations(frozen().clean, target)
        measured = moved[:, POSITION] * frozen().read_sigma(later, target.read, POSITION) / SWITCHED_ON
        predicted = vectors().writes(1)[list(SOURCES)] @ vectors().reads(later).T
        assert ((measured - predicted).abs().max() / predicted.abs().max()).item() < 1e-5


def test_a_bundled_transcoder_stands_in_for_its_mlp():
    for layer in vectors().layers:
        transcoder = vectors().source.load(layer)
        x, y = frozen().clean.mlp_in[layer][0, 1:], frozen().clean.mlp_out[layer][0, 1:]

        predicted = transcoder.decode(transcoder.encode(x))

        unexplained = (y - predicted).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
        assert unexplained.item() < 0.5  # a wrong site or orientation explains nothing
