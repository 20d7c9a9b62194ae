"""Read and write vectors: what each site does to them by hand, what is refused, and that a large set streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.families import Norm
from ingest.folding import Vectors
from ingest.sources import open_transcoders
from ingest.sources.memory import InMemory
from ingest.transcoder import SetInfo, Transcoder
from ingest.weights import ModelWeights, open_model
from tests.unit.ingest import models
from tests.unit.ingest.tiny import write_both

R, W = ReadSite, WriteSite


def weights(family: str = "gpt2") -> ModelWeights:
    return open_model(models.model(family), models.tokenizer())


class Counting:
    """A source that says which layers were read, in order."""

    def __init__(self, source: InMemory) -> None:
        self.source, self.read = source, list[int]()

    @property
    def info(self) -> SetInfo:
        return self.source.info

    def load(self, layer: int) -> Transcoder:
        self.read.append(layer)
        return self.source.load(layer)


def test_the_sizes_are_those_of_the_set_and_the_model():
    vectors = Vectors(weights(), models.transcoders(R.NORM_POST_GAIN, W.MLP_RAW))

    assert (vectors.layers, vectors.n_features) == ([0, 1, 2], list(models.N_FEATURES))
    assert (vectors.n_vocab, vectors.d_model) == (models.N_VOCAB, models.D_MODEL)
    assert vectors.token_writes().shape == vectors.logit_reads().shape == (models.N_VOCAB, models.D_MODEL)
    for layer, n in enumerate(models.N_FEATURES):
        assert vectors.reads(layer).shape == vectors.writes(layer).shape == (n, models.D_MODEL)
        assert {vectors.bias(layer).shape, vectors.constant(layer).shape, vectors.threshold(layer).shape} == {(n,)}
        torch.testing.assert_close(vectors.norm_enc(layer), vectors.reads(layer).pow(2).sum(1).sqrt())
        torch.testing.assert_close(vectors.norm_dec(layer), vectors.writes(layer).pow(2).sum(1).sqrt())


def test_a_logit_is_blind_to_what_moves_all_logits_alike():
    reads = Vectors(weights("llama"), models.transcoders(R.RESID_MID, W.MLP_RAW)).logit_reads()

    torch.testing.assert_close(reads.mean(0), torch.zeros(models.D_MODEL), atol=1e-6, rtol=0)


@pytest.mark.parametrize("read", [R.NORM_PRE_GAIN, R.NORM_POST_GAIN, R.RESID_MID_CENTRED])
def test_a_layer_norm_model_reads_nothing_of_the_mean(read):
    reads = Vectors(weights(), models.transcoders(read, W.MLP_RAW)).reads(1)

    torch.testing.assert_close(reads.sum(1), torch.zeros(len(reads)), atol=1e-5, rtol=0)


def test_only_what_reads_behind_the_gain_reads_the_norms_bias():
    model = weights()
    norm_bias = model.layers[1].mlp_bias
    before, behind = (models.transcoders(read, W.MLP_RAW) for read in (R.NORM_PRE_GAIN, R.NORM_POST_GAIN))
    transcoder = behind.load(1)

    assert torch.equal(Vectors(model, before).bias(1), transcoder.b_enc)
    torch.testing.assert_close(Vectors(model, behind).bias(1), transcoder.b_enc + transcoder.w_enc @ norm_bias)


def test_a_layer_that_is_kept_does_not_keep_the_file_it_was_read_from():
    changed, unchanged = (models.transcoders(read, W.MLP_RAW) for read in (R.NORM_POST_GAIN, R.RESID_MID))
    of_file, as_read = changed.load(1), unchanged.load(1)
    one, other = Vectors(weights(), changed), Vectors(weights("llama"), unchanged)

    assert one.writes(1).data_ptr() != of_file.w_dec.data_ptr()
    assert torch.equal(one.writes(1), of_file.w_dec)
    assert other.reads(1).data_ptr() == as_read.w_enc.data_ptr()  # nothing is gained by a copy of both
    assert other.writes(1).data_ptr() == as_read.w_dec.data_ptr()


def test_a_feature_fires_above_its_threshold_and_above_zero_without_one():
    jump = models.transcoders(R.RESID_MID, W.MLP_RAW, activation=Activation.JUMPRELU)

    assert torch.equal(Vectors(weights(), jump).threshold(2), jump.load(2).threshold)
    assert not Vectors(weights(), models.transcoders(R.RESID_MID, W.MLP_RAW)).threshold(2).any()


def test_a_decoder_bias_reaches_later_layers_only():
    model = weights()
    plain = models.transcoders(R.RESID_MID, W.MLP_RAW)
    shift = torch.ones(models.D_MODEL)
    moved = InMemory(
        {layer: _with_more_b_dec(plain.load(layer), shift if layer == 1 else 0 * shift) for layer in range(3)}
    )

    differences = [Vectors(model, moved).constant(i) - Vectors(model, plain).constant(i) for i in range(3)]

    assert not differences[0].any()
    assert not differences[1].any()
    torch.testing.assert_close(differences[2], plain.load(2).w_enc @ shift)


def _with_more_b_dec(transcoder: Transcoder, more: torch.Tensor) -> Transcoder:
    return replace(transcoder, b_dec=transcoder.b_dec + more)


def test_layers_without_a_transcoder_are_left_out():
    some = InMemory({layer: models.transcoder(layer) for layer in (0, 2)})

    vectors = Vectors(weights(), some)

    assert (vectors.layers, vectors.n_features) == ([0, 2], [29, 37])
    assert vectors.constant(2).shape == (37,)


def test_a_set_larger_than_the_cache_streams_and_gives_the_same():
    source = models.transcoders(R.NORM_POST_GAIN, W.MLP_RAW)
    one_layer = 2 * 37 * models.D_MODEL * 4
    whole, streamed = Counting(source), Counting(source)
    roomy, tight = Vectors(weights(), whole), Vectors(weights(), streamed, cache_bytes=one_layer)

    for later in range(3):
        for earlier in range(later):
            torch.testing.assert_close(
                tight.writes(earlier) @ tight.reads(later).T, roomy.writes(earlier) @ roomy.reads(later).T
            )
        torch.testing.assert_close(tight.constant(later), roomy.constant(later))

    assert sorted(whole.read) == [0, 1, 2]
    assert len(streamed.read) > 3
    assert len(tight._kept) == 1


def test_small_facts_of_a_layer_are_kept_when_its_vectors_are_not():
    source = Counting(models.transcoders(R.NORM_POST_GAIN, W.MLP_RAW))
    vectors = Vectors(weights(), source, cache_bytes=0)
    for layer in range(3):
        vectors.reads(layer)
    before = len(source.read)

    assert [vectors.bias(layer).shape[0] for layer in range(3)] == list(models.N_FEATURES)
    assert len(source.read) == before


def made_for(d_model: int) -> InMemory:
    n = 29
    return InMemory(
        {
            0: Transcoder(
                layer=0,
                w_enc=torch.ones(n, d_model),
                b_enc=torch.ones(n),
                w_dec=torch.ones(n, d_model),
                b_dec=torch.ones(d_model),
                activation=Activation.RELU,
                read=R.RESID_MID,
                write=W.MLP_RAW,
            )
        },
        name="other",
        model_name="another-model",
    )


@pytest.mark.parametrize(
    ("family", "source", "says"),
    [
        ("gpt2", lambda: made_for(19), "a stream 19 wide, but gpt2-small has d_model 20; it is made for another-model"),
        (
            "gpt2",
            lambda: InMemory({5: replace(models.transcoder(1), layer=5)}),
            "a transcoder for layer 5, but gpt2-small ends at layer 2",
        ),
        ("llama", lambda: models.transcoders(R.RESID_MID_CENTRED, W.MLP_RAW), "RMSNorm: nothing is centred"),
        ("llama", lambda: models.transcoders(R.RESID_MID, W.MLP_RAW_CENTRED), "RMSNorm: nothing is centred"),
        ("qwen3", lambda: models.transcoders(R.RESID_MID, W.MLP_POST_NORM), "has none there"),
    ],
)
def test_a_set_that_does_not_fit_the_model_is_refused_at_once(family, source, says):
    with pytest.raises(BadTranscoder, match=says):
        Vectors(weights(family), source())


def test_a_layer_that_is_not_what_its_set_states_is_refused():
    class Lying(Counting):
        @property
        def info(self) -> SetInfo:
            return replace(self.source.info, n_features={0: 29, 1: 30, 2: 37})

    with pytest.raises(BadTranscoder, match=r"layer 1: .* \(31, 20, 20\), expected \(30, 20, 20\)"):
        Vectors(weights(), Lying(models.transcoders(R.RESID_MID, W.MLP_RAW))).reads(1)


def test_the_models_norm_decides_what_is_centred():
    assert {family: weights(family).norm for family in models.FAMILIES} == {
        "gpt2": Norm.LAYER,
        "llama": Norm.RMS,
        "gemma2": Norm.RMS,
        "qwen3": Norm.RMS,
    }


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped can be read on Linux only")
def test_the_file_of_a_layer_that_was_let_go_is_not_held_for_the_sake_of_its_biases(tmp_path: Path):
    model, transcoders = write_both(tmp_path)
    vectors = Vectors(open_model(model), open_transcoders(transcoders), cache_bytes=0)

    for layer in vectors.layers:
        assert len(vectors.bias(layer)) == len(vectors.reads(layer))

    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if transcoders in line}
    assert len(mapped) <= 1
