"""Cross-layer sets of circuit-tracer and Gemma Scope 2: what each layer is predicted is the sum over earlier ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from ingest.transcoder import predictions
from tests.unit.ingest import cross, models
from tests.unit.ingest.reading import read_all

R, W = ReadSite, WriteSite


@pytest.mark.parametrize("activation", [Activation.RELU, Activation.JUMPRELU])
def test_a_cross_layer_set_of_circuit_tracer_predicts_the_sum_of_what_all_earlier_layers_write(tmp_path, activation):
    written = cross.write_cross_layer(tmp_path, activation)
    source = open_transcoders(tmp_path)
    info = source.info
    assert (info.kind, info.targets, info.activation) == ("cross-layer", (0, 1, 2), activation)
    assert (info.read, info.write, info.name) == (R.RESID_MID, W.MLP_RAW, "clt-37")

    read = {layer: models.random(11, models.D_MODEL, seed=layer) for layer in range(3)}
    _same_predictions(source, written, read)


@pytest.mark.parametrize("affine", [False, True], ids=["plain", "affine skip"])
def test_a_cross_layer_set_of_gemma_scope_2_leaves_decoders_into_earlier_layers_unused(tmp_path: Path, affine):
    folder = tmp_path / "gemma-scope-2-270m-pt" / "clt_width_262k"
    written = cross.write_gemma_scope_2(folder, affine)
    source = open_transcoders(folder)
    assert (source.info.read, source.info.write) == (R.NORM_POST_GAIN, W.MLP_POST_NORM)
    assert (source.info.kind, source.info.has_skip) == ("cross-layer", affine)

    read = {layer: models.random(11, models.D_MODEL, seed=layer) for layer in range(3)}
    _same_predictions(source, written, read)


def _same_predictions(source, written, read) -> None:
    for layer, active, predicted in predictions(source, read):
        own = written[layer]
        expected = own.b_dec + (0 if own.w_skip is None else read[layer] @ own.w_skip.T)
        for earlier in written[: layer + 1]:
            expected = expected + earlier.encode(read[earlier.layer]) @ cross.decoder(earlier, layer)
        torch.testing.assert_close(active, own.encode(read[layer]))
        torch.testing.assert_close(predicted, expected)


def test_circuit_tracers_config_may_list_the_files_of_a_gemma_scope_2_cross_layer_set(tmp_path: Path):
    cross.write_gemma_scope_2(tmp_path / "params")
    stated = {
        "model_name": "google/gemma-3-270m",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "transcoders": [f"params/params_layer_{layer}.safetensors" for layer in range(3)],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stated))

    listed = open_transcoders(tmp_path)

    assert (listed.info.write, listed.info.targets) == (W.MLP_POST_NORM, (0, 1, 2))
    assert torch.equal(listed.decoder(0, 2), cross.decoder(models.transcoder(0), 2))


def test_some_layers_of_a_cross_layer_set_still_write_at_all_later_ones(tmp_path: Path):
    cross.write_cross_layer(tmp_path)

    source = open_transcoders(tmp_path, [1])

    assert (source.info.layers, source.info.targets) == ([1], (0, 1, 2))
    assert torch.equal(source.decoder(1, 2), cross.decoder(models.transcoder(1), 2))


def test_a_decoder_alone_is_read_of_a_cross_layer_set(tmp_path: Path):
    cross.write_cross_layer(tmp_path)
    source = open_transcoders(tmp_path)
    for name in ("W_enc_0", "W_dec_1", "W_enc_1"):
        (tmp_path / f"{name}.safetensors").unlink()

    assert source.decoder(0, 2).shape == (models.N_FEATURES[0], models.D_MODEL)


CROSS_LAYER = {
    "a layer without its decoders": (lambda f: (f / "W_dec_1.safetensors").unlink(), r"without W_dec_1\.safetensors"),
    "a layer missing": (
        lambda f: [(f / f"W_{half}_1.safetensors").unlink() for half in ("enc", "dec")],
        "layer 1 of the cross-layer set is missing; it needs all",
    ),
    "decoders into too few layers": (
        lambda f: save_file({"W_dec_0": torch.ones(29, 2, 20)}, f / "W_dec_0.safetensors"),
        r"w_dec has shape \(29, 2, 20\), expected \(29, 3, 20\)",
    ),
    "decoders of integers": (
        lambda f: save_file({"W_dec_0": torch.ones(29, 3, 20, dtype=torch.int32)}, f / "W_dec_0.safetensors"),
        "w_dec is stored as torch.int32",
    ),
    "a NaN in a decoder": (
        lambda f: save_file({"W_dec_0": torch.full((29, 3, 20), torch.nan)}, f / "W_dec_0.safetensors"),
        "what it writes at layer 0 has NaN or Inf",
    ),
    "thresholds in one layer": (
        lambda f: save_file(
            {**load_file(f / "W_enc_1.safetensors"), "threshold_1": torch.ones(31)}, f / "W_enc_1.safetensors"
        ),
        "layer 1 has thresholds True, layer 0 has False",
    ),
    "a tensor nobody knows": (
        lambda f: save_file(
            {**load_file(f / "W_enc_1.safetensors"), "gate_1": torch.ones(31)}, f / "W_enc_1.safetensors"
        ),
        "a tensor 'gate_1' that this layout does not have",
    ),
}


@pytest.mark.parametrize("wrong", CROSS_LAYER)
def test_what_is_wrong_with_a_cross_layer_set_is_said_in_one_line(tmp_path: Path, wrong: str):
    spoil, says = CROSS_LAYER[wrong]
    cross.write_cross_layer(tmp_path)
    spoil(tmp_path)

    with pytest.raises(BadTranscoder, match=says):
        read_all(tmp_path)


def test_saelens_sum_of_a_cross_layer_sets_decoders_is_never_taken_for_weights():
    pytest.importorskip("sae_lens", reason="comes with the extra: pip install 'feature-atlas[ingest]'")

    with pytest.raises(BadTranscoder, match="cross-layer set with its decoders summed; edges need them apart"):
        open_transcoders("saelens:mntss-gemma-2-2b-2.5m-clt-as-per-layer")
