"""Two hundred spoiled files and more: each ends in one clear line, in bounded memory and time, with nothing written."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from atlas.errors import BadSource
from atlas.model import Activation
from ingest.sources import open_transcoders
from tests.unit.ingest import cross, layouts, models, mutations
from tests.unit.ingest.mutations import Spoil

PER_LAYER = (("W_enc", "W_dec"), ("b_enc", "b_dec"))


def at(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def circuit_tracer(folder: Path) -> Path:
    return models.write_circuit_tracer(folder, [models.transcoder(layer) for layer in range(3)])


def saelens(folder: Path) -> Path:
    """As the library writes it (``test_sources_saelens`` reads the library's own files)."""
    for layer in range(3):
        made = models.transcoder(layer, activation=Activation.JUMPRELU, skip=True)
        place = folder / f"layer_{layer}"
        place.mkdir(parents=True)
        stated = {
            "architecture": "jumprelu_skip_transcoder",
            "apply_b_dec_to_input": False,
            "normalize_activations": "none",
            "metadata": {
                "model_name": "tiny",
                "hook_name": f"blocks.{layer}.ln2.hook_normalized",
                "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            },
        }
        (place / "cfg.json").write_text(json.dumps(stated))
        tensors: dict[str, Any] = {"W_enc": made.w_enc.T, "b_enc": made.b_enc, "W_dec": made.w_dec, "b_dec": made.b_dec}
        tensors |= {"threshold": made.threshold, "W_skip": made.w_skip}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "sae_weights.safetensors")
    return folder


def _circuit_tracer() -> Iterator[tuple[str, Spoil]]:
    file, config = at("layer_1.safetensors"), at("config.yaml")
    yield from mutations.truncated(file)
    yield from mutations.lying(file)
    yield from mutations.tensors(file, *PER_LAYER)
    outside = ["../x.safetensors", "/etc/passwd", "a/../../x.npz", "C:\\x.npz", "x\0y.npz", "~/x", "hf://../../x", "."]
    absurd = {
        "k": ["many", -3, 1e99, [1], True],
        "activation": ["gelu", 7, {}, "topk"],
        "feature_input_hook": [None, 3, "", "hook_embed", "x" * 5000, ["a"]],
        "feature_output_hook": [None, 3, "blocks.0.attn.hook_q"],
        "model_kind": ["lorsa", 3, "cross_layer_transcoder"],
        "transcoders": [[path] for path in outside] + ["one", [], {}, [[["a"]]], {"0": "a"}, [None]],
    }
    yield from mutations.configs(config, absurd, yaml.safe_load, yaml.safe_dump)
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    yield "a YAML bomb", lambda f: config(f).write_text(laughs + "feature_input_hook: *j\nfeature_output_hook: *j\n")
    yield "a YAML that makes objects", lambda f: config(f).write_text("!!python/object/apply:os.getcwd []")


def _cross_layer() -> Iterator[tuple[str, Spoil]]:
    for name in ("W_enc_1.safetensors", "W_dec_1.safetensors"):
        yield from mutations.truncated(at(name))
        yield from mutations.lying(at(name))
    yield from mutations.tensors(at("W_enc_1.safetensors"), ("W_enc_1",), ("b_enc_1", "b_dec_1"))
    yield from mutations.tensors(at("W_dec_1.safetensors"), (), ("W_dec_1",))


def _sparsify() -> Iterator[tuple[str, Spoil]]:
    place = "layers.1.mlp"
    yield from mutations.truncated(at(f"{place}/sae.safetensors"))
    yield from mutations.tensors(at(f"{place}/sae.safetensors"), ("encoder.weight", "W_dec"), ("encoder.bias", "b_dec"))
    absurd = {
        "k": ["many", -3, 1e99, None, [1], 10**9, True],
        "d_in": [19, -1],
        "num_latents": [3],
        "transcode": ["no", 7],
        "activation": ["groupmax", 3],
    }
    yield from mutations.configs(at(f"{place}/cfg.json"), absurd, json.loads, json.dumps)


def _llama_scope_2() -> Iterator[tuple[str, Spoil]]:
    place = f"layer1_transcoder_8x_k{layouts.K}"
    yield from mutations.truncated(at(f"{place}/sae_weights.safetensors"))
    yield from mutations.tensors(at(f"{place}/sae_weights.safetensors"), ("W_E", "W_D"), ("b_E", "b_D"))
    absurd = {
        "top_k": ["many", -3, 1e99, None, 10**9],
        "act_fn": ["batchtopk", 3.5e9],
        "hook_point_in": ["../..", None, 3, "blocks.99999999999.mlp.hook_in"],
        "norm_activation": ["token-wise"],
    }
    yield from mutations.configs(at(f"{place}/config.json"), absurd, json.loads, json.dumps)


def _gemma_scope_2() -> Iterator[tuple[str, Spoil]]:
    place = "layer_1_width_16k_l0_small_affine"
    file, config = at(f"{place}/params.safetensors"), at(f"{place}/config.json")
    yield from mutations.truncated(file)
    yield from mutations.lying(file)
    yield from mutations.tensors(file, ("w_enc", "w_dec", "affine_skip_connection"), ("b_enc", "b_dec", "threshold"))
    absurd = {
        "architecture": ["gated", 7, {}, None],
        "affine_connection": [False],
        "hf_hook_point_in": ["../..", 3, "", "x" * 5000, ["a"], "model.layers.1.self_attn.q_proj.input"],
        "hf_hook_point_out": ["/etc/passwd", 3, ["a"], "model.layers.1.mlp.input"],
    }
    yield from mutations.configs(config, absurd, json.loads, json.dumps)


def _gemma_scope_2_cross_layer() -> Iterator[tuple[str, Spoil]]:
    file = at("params_layer_1.safetensors")
    yield from mutations.truncated(file)
    yield from mutations.lying(file)
    yield from mutations.tensors(file, ("w_enc", "w_dec", "affine_skip_connection"), ("b_enc", "b_dec", "threshold"))
    yield "no layer 1", lambda f: file(f).unlink()
    yield "a layer of its own far away", lambda f: file(f).rename(f / "params_layer_99999999999.safetensors")


def _saelens() -> Iterator[tuple[str, Spoil]]:
    file, config = at("layer_1/sae_weights.safetensors"), at("layer_1/cfg.json")
    yield from mutations.truncated(file)
    yield from mutations.lying(file)
    yield from mutations.tensors(file, ("W_enc", "W_dec", "W_skip"), ("b_enc", "b_dec", "threshold"))
    hooks = ["../..", None, 3, "", "blocks.99999999999.mlp.hook_in", "blocks.1.attn.hook_q", ["a"], "x" * 5000]
    absurd = {
        "architecture": ["gated", 7, ["x"], {}, None, "transcoder", "skip_transcoder", "jumprelu_transcoder", "topk"],
        "normalize_activations": ["layer_norm", 3, ["a"]],
        "metadata": ["none", 3, [], {}, None, *({"hook_name": hook, "hook_name_out": hook} for hook in hooks)],
    }
    yield from mutations.configs(config, absurd, json.loads, json.dumps)


def _gemma_scope() -> Iterator[tuple[str, Spoil]]:
    file = at("layer_1/width_16k/average_l0_71/params.npz")
    yield from mutations.truncated(file)
    yield from mutations.npz(file)


def _pchlenski() -> Iterator[tuple[str, Spoil]]:
    def file(folder: Path) -> Path:
        return next(folder.glob("*blocks.1.*"))

    yield from mutations.truncated(file)

    def stored(content: Any) -> Spoil:
        return lambda folder: torch.save(content, file(folder))

    for name, content in {
        "a list": [1, 2],
        "no state": {"cfg": 1},
        "a state of numbers": {"state_dict": {"W_enc": 1}},
        "tensors of integers": {"state_dict": dict.fromkeys(layouts.NAMES, torch.ones(31, dtype=torch.int64))},
    }.items():
        yield name, stored(content)
    yield "a path", lambda f: torch.save({"state_dict": Path("x")}, file(f))
    yield "code without an archive", lambda f: file(f).write_bytes(pickle.dumps(print))
    yield "a long integer of gigabytes", lambda f: _pickled(file(f), b"\x80\x02\x8b\xff\xff\xff\x7f")
    yield "a text of exabytes", lambda f: _pickled(file(f), b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f")
    yield "nested without end", lambda f: _pickled(file(f), b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".")
    yield "a zip bomb", lambda f: _pickled(file(f), b"\x80\x02" + b"]0" * 40_000_000, zipfile.ZIP_DEFLATED)
    yield "an unknown instruction", lambda f: _pickled(file(f), b"\x80\x02\xf0\xf1.")


def _pickled(path: Path, data: bytes, how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


LAYOUTS: dict[str, tuple[Callable[[Path], Any], Callable[[], Iterator[tuple[str, Spoil]]]]] = {
    "circuit-tracer": (circuit_tracer, _circuit_tracer),
    "cross-layer": (lambda f: cross.write_cross_layer(f, Activation.JUMPRELU), _cross_layer),
    "sparsify": (lambda f: layouts.sparsify(f, skip=False), _sparsify),
    "Llama-Scope-2-Qwen3-1.7B": (layouts.llama_scope_2, _llama_scope_2),
    "gemma-scope-2b-pt-transcoders": (layouts.gemma_scope, _gemma_scope),
    "gemma-scope-2-270m-pt": (layouts.gemma_scope_2, _gemma_scope_2),
    "gemma-scope-2-270m-pt-clt": (cross.write_gemma_scope_2, _gemma_scope_2_cross_layer),
    "saelens": (saelens, _saelens),
    "pchlenski": (layouts.pchlenski, _pchlenski),
}


def read_all(folder: Path) -> None:
    source = open_transcoders(folder, allow_pickle=True)
    for layer in source.info.layers:
        source.load(layer)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_spoiled_file_ends_in_one_clear_line_in_bounded_memory_and_time(tmp_path: Path, layout, monkeypatch):
    write, spoils = LAYOUTS[layout]
    good = tmp_path / "good" / layout
    write(good)
    read_all(good)
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))

    wrong = mutations.sweep(good, tmp_path / "bad" / layout, spoils(), read_all, BadSource)

    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "home").exists()


def test_there_are_two_hundred_of_them():
    assert sum(len(list(spoils())) for _, spoils in LAYOUTS.values()) >= 200
