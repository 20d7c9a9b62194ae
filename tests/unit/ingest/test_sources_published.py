"""Layouts of pchlenski, sparsify, Llama Scope 2 and repositories without a config: read as they document themselves."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from ingest.sources.tensors import read_shapes
from tests.unit.ingest import layouts, models
from tests.unit.ingest.reading import X, agrees, said_when

R, W = ReadSite, WriteSite


# pchlenski's GPT-2


def test_pchlenskis_pickles_are_read_where_that_is_asked_for_with_their_biases_folded(tmp_path: Path):
    written = layouts.pchlenski(tmp_path)
    assert "--allow-pickle" in said_when(tmp_path)

    agrees(tmp_path, written, allow_pickle=True)

    info = open_transcoders(tmp_path, allow_pickle=True).info
    assert (info.read, info.write) == (R.NORM_PRE_GAIN, W.MLP_RAW_CENTRED)
    assert info.model_name == "gpt2-small"


class Marker:
    """What a hostile pickle would call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "code ran")


def test_a_pickle_that_carries_code_is_refused_and_nothing_runs(tmp_path: Path):
    layouts.pchlenski(tmp_path)
    path = next(tmp_path.glob("*blocks.1*"))
    mark = tmp_path / "mark"
    torch.save({"cfg": Marker(mark), "state_dict": {}}, path)

    assert "is no file of torch with tensors" in said_when(tmp_path, allow_pickle=True)
    assert not mark.exists()
    path.write_bytes(pickle.dumps(Marker(mark)))  # of the old kind, without an archive around it
    assert "is no file of torch with tensors" in said_when(tmp_path, allow_pickle=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b_dec_out": None}, "lacks one of W_enc, b_enc, W_dec, b_dec, b_dec_out"),
        ({"W_enc": torch.ones(31, 20)}, r"W_enc has shape \(31, 20\), expected \(20, 31\)"),
        ({"scaling": torch.ones(2)}, "a tensor 'scaling' that this layout does not have"),
        ({"b_enc": torch.full((31,), torch.nan)}, "b_enc has NaN or Inf"),
    ],
)
def test_what_is_wrong_with_such_a_pickle_is_said(tmp_path: Path, change, says):
    layouts.pchlenski(tmp_path)
    path = next(tmp_path.glob("*blocks.1*"))
    made = models.transcoder(1)
    state = {"W_enc": made.w_enc.T, "b_enc": made.b_enc, "W_dec": made.w_dec, "b_dec": made.b_dec}
    state |= {"b_dec_out": made.b_dec} | change
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    layouts.save_pickle(path, {"cfg": layouts.LanguageModelSAERunnerConfig(1), "state_dict": kept})

    with pytest.raises(BadTranscoder, match=says):
        open_transcoders(tmp_path, allow_pickle=True).load(1)


# sparsify


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("point", ["layers.{}.mlp", "h.{}.mlp"])
def test_sparsify_transcoders_are_topk_and_leave_their_input_as_it_is(tmp_path: Path, skip, point):
    agrees(tmp_path, layouts.sparsify(tmp_path, skip=skip, point=point))

    info = open_transcoders(tmp_path).info
    assert (info.read, info.write, info.activation) == (R.NORM_POST_GAIN, W.MLP_RAW, Activation.TOPK)
    assert (info.kind, info.l0) == ("skip" if skip else "transcoder", dict.fromkeys(range(3), float(layouts.K)))


def test_sparsify_autoencoders_subtract_their_decoders_bias_from_the_input(tmp_path: Path):
    agrees(tmp_path, layouts.sparsify(tmp_path, transcode=False, skip=False, point="layers.{}"))

    info = open_transcoders(tmp_path).info
    assert (info.read, info.write, info.kind) == (R.RESID_POST, W.RESID_POST, "sae")


def test_one_hookpoint_of_sparsify_is_a_set_of_one_layer(tmp_path: Path):
    layouts.sparsify(tmp_path)

    assert open_transcoders(tmp_path / "layers.2.mlp").info.layers == [2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"k": None}, "k is None, expected a whole number above zero"),
        ({"k": 10**12}, "k is 1000000000000, expected a whole number"),
        ({"k": 30}, "k is 30, but there are 29 features"),
        ({"activation": "groupmax"}, "activation is 'groupmax'; only topk is read"),
        ({"d_in": 21}, "its config has d_in 21"),
        ({"num_latents": 28}, "its config has num_latents 28"),
        ({"skip_connection": False}, "skip_connection is False, and there is a W_skip"),
        ({"matching_pursuit": True}, "matching_pursuit is on"),
        ({"transcode": False}, "is an autoencoder of an MLP"),
        ({"transcode": "yes"}, "transcode is 'yes'"),
    ],
)
def test_what_is_wrong_with_a_sparsify_config_is_said(tmp_path: Path, change, says):
    layouts.sparsify(tmp_path)
    for path in tmp_path.rglob("cfg.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert says in said_when(tmp_path)


def with_scales(folder: Path, **changes) -> None:
    """As the fork for cross-layer sets saves a set of one layer."""
    for path in folder.rglob("sae.safetensors"):
        tensors = load_file(path)
        scales = {"in_norm": torch.tensor([31.0]), "out_norm": torch.tensor([7.0])}
        zeros = {"post_enc": torch.zeros(len(tensors["W_dec"]))}
        kept = tensors | zeros | scales | changes
        save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, path)
        config = path.with_name("cfg.json")
        config.write_text(json.dumps(json.loads(config.read_text()) | {"normalize_io": True, "n_targets": 0}))


@pytest.mark.parametrize("transcode", [True, False], ids=["transcoders", "autoencoders"])
def test_scales_of_inputs_and_outputs_are_folded(tmp_path: Path, transcode: bool):
    options = {} if transcode else {"transcode": False, "skip": False, "point": "layers.{}"}
    written = layouts.sparsify(tmp_path, **options)
    with_scales(tmp_path)

    for layer, expected in written.items():
        found, x = open_transcoders(tmp_path).load(layer), X * (models.D_MODEL**0.5 / 31.0)
        torch.testing.assert_close(found.encode(X), expected.encode(x))
        torch.testing.assert_close(found.decode(found.encode(X), X), expected.output(x) * (7.0 / models.D_MODEL**0.5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"in_norm": torch.tensor([0.0])}, "in_norm and out_norm are not one number above zero each"),
        ({"out_norm": None}, "in_norm and out_norm are not one number above zero each"),
        ({"post_enc": torch.ones(29)}, "adds a learned constant (post_enc) to its activation"),
    ],
)
def test_what_no_weight_stands_for_is_refused(tmp_path: Path, changes, says):
    layouts.sparsify(tmp_path)
    with_scales(tmp_path, **changes)

    assert says in said_when(tmp_path)


def test_weights_in_several_files_are_told_from_none(tmp_path: Path):
    layouts.sparsify(tmp_path)
    path = tmp_path / "layers.1.mlp" / "sae.safetensors"
    path.rename(path.with_name("sae-00001-of-00002.safetensors"))

    assert "layers.1.mlp/cfg.json stands without sae.safetensors beside it; where that is split" in said_when(tmp_path)


@pytest.mark.parametrize("stated", [True, False], ids=["in its config", "in its tensors"])
def test_a_cross_layer_set_of_eleuthers_fork_is_refused_with_what_to_take_instead(tmp_path: Path, stated: bool):
    layouts.sparsify(tmp_path, skip=False)
    for layer, path in enumerate(sorted(tmp_path.rglob("sae.safetensors"))):
        tensors = load_file(path)
        rows = tensors.pop("W_dec")
        several = {f"W_decs.{i}": rows + i for i in range(3 - layer)}
        several |= {f"post_encs.{i}": torch.ones(len(rows)) for i in range(3 - layer)}
        save_file(tensors | several, path)
        if stated:
            config = path.with_name("cfg.json")
            config.write_text(json.dumps(json.loads(config.read_text()) | {"n_targets": 3 - layer}))

    said = said_when(tmp_path)

    assert "is of a cross-layer set of EleutherAI's fork, whose layout is not read" in said
    assert said.endswith("take a cross-layer set in circuit-tracer's or Gemma Scope 2's layout")
    assert "\n" not in said


def test_sparsify_without_a_config_has_no_k(tmp_path: Path):
    layouts.sparsify(tmp_path)
    (tmp_path / "layers.1.mlp" / "cfg.json").unlink()

    assert "stands without cfg.json, which alone states its k" in said_when(tmp_path)


# Llama Scope 2

LLAMA_SCOPE = "Llama-Scope-2-Qwen3-1.7B"


@pytest.mark.parametrize("act_fn", ["topk", "jumprelu", "relu"])
@pytest.mark.parametrize("by_length", [False, True], ids=["by value", "by length"])
@pytest.mark.parametrize("scaling", ["dataset-wise", "inference"])
def test_llama_scope_2_is_what_its_library_computes_with_all_scales_folded(tmp_path: Path, act_fn, by_length, scaling):
    agrees(tmp_path / LLAMA_SCOPE, layouts.llama_scope_2(tmp_path / LLAMA_SCOPE, act_fn, by_length, scaling))

    info = open_transcoders(tmp_path / LLAMA_SCOPE).info
    assert (info.read, info.write) == (R.NORM_PRE_GAIN, W.MLP_RAW)
    if by_length:
        rows = open_transcoders(tmp_path / LLAMA_SCOPE).load(1).w_dec.norm(dim=1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"use_glu_encoder": True}, "a gated encoder (use_glu_encoder), whose pre-activation is no dot product"),
        ({"act_fn": "batchtopk"}, "act_fn is 'batchtopk', which decides over many positions at once"),
        ({"norm_activation": "token-wise"}, "norm_activation is 'token-wise', which scales each text by itself"),
        ({"sae_type": "lorsa"}, "is of the type 'lorsa'"),
        ({"top_k": 0}, "top_k is 0, expected a whole number above zero"),
        ({"hook_point_in": "mlp.hook_in"}, "expected blocks.N.… of one layer"),
    ],
)
def test_what_is_wrong_with_a_llama_scope_2_config_is_said(tmp_path: Path, change, says):
    layouts.llama_scope_2(tmp_path / LLAMA_SCOPE)
    for path in tmp_path.rglob("config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    assert says in said_when(tmp_path / LLAMA_SCOPE)


@pytest.mark.parametrize("value", [None, torch.tensor(0.0), torch.tensor(torch.nan), torch.ones(3)])
def test_llama_scope_2_without_a_usable_scale_is_refused(tmp_path: Path, value):
    layouts.llama_scope_2(tmp_path / LLAMA_SCOPE)
    for path in tmp_path.rglob("*.safetensors"):
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("hook_normalized"))
        del tensors[name]
        save_file(tensors | ({} if value is None else {name: value}), path)

    assert "its input is scaled by the dataset's norm, and" in said_when(tmp_path / LLAMA_SCOPE)


# Sets whose config is missing or says too little


def test_a_qwen3_set_without_a_config_is_known_by_its_name_or_by_its_training_log(tmp_path: Path):
    written = [models.transcoder(layer) for layer in range(3)]
    named = models.write_circuit_tracer(tmp_path / "qwen3-14b-transcoders", written)
    logged = models.write_circuit_tracer(tmp_path / "mine", written)
    for folder in (named, logged):
        (folder / "config.yaml").unlink()
    (logged / "wanb-config.yaml").write_text("d_model: {value: 20}")

    for folder in (named, logged):
        info = open_transcoders(folder).info
        assert (info.read, info.write, info.activation) == (R.NORM_POST_GAIN, W.MLP_RAW, Activation.RELU)
        torch.testing.assert_close(open_transcoders(folder).load(1).encode(X), written[1].encode(X))
    assert open_transcoders(named).info.model_name == "Qwen/Qwen3-14B"


def test_metas_topk_set_gets_its_k_from_what_is_known_of_it(tmp_path: Path):
    written = [models.transcoder(layer, activation=Activation.TOPK) for layer in range(3)]
    folder = models.write_circuit_tracer(tmp_path / "crv-8b-instruct-transcoders", written)

    assert "k is 128, but there are 29 features" in said_when(folder)
    stated = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(stated | {"k": 5}))  # what the set itself says comes first
    torch.testing.assert_close(open_transcoders(folder).load(1).encode(X), written[1].encode(X))


def test_the_old_llama_set_is_read_at_the_stream_with_its_decoder_turned(tmp_path: Path):
    written = [models.transcoder(layer, skip=True) for layer in range(3)]
    folder = models.write_circuit_tracer(tmp_path / "skip-transcoder-Llama-3.2-1B-131k-nobos", written)
    (folder / "config.yaml").unlink()
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(tensors | {"W_dec": tensors["W_dec"].T.contiguous()}, path)

    source = open_transcoders(folder)

    assert (source.info.read, source.info.write, source.info.kind) == (R.RESID_MID, W.MLP_RAW, "skip")
    assert torch.equal(source.load(2).w_dec, written[2].w_dec)


def test_shapes_come_from_headers_alone_whatever_the_format(tmp_path: Path):
    from ingest.folders import open_folder

    layouts.gemma_scope(tmp_path / "npz")
    layouts.sparsify(tmp_path / "safetensors")

    npz = read_shapes(open_folder(tmp_path / "npz"), "layer_1/width_16k/average_l0_71/params.npz", 1)
    file = read_shapes(open_folder(tmp_path / "safetensors"), "layers.1.mlp/sae.safetensors", 1)

    assert npz["W_enc"] == (20, 31)
    assert file["encoder.weight"] == (31, 20)
