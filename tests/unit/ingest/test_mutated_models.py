"""Spoiled files of language models: each ends in one clear line, in bounded memory and time, with nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.errors import BadModel
from ingest.heads import heads
from ingest.weights import open_model
from tests.unit.ingest import models, mutations
from tests.unit.ingest.mutations import Spoil

GAINS = {
    "gpt2": ("transformer.h.1.ln_2.weight", "transformer.h.1.attn.c_proj.bias"),
    "llama": ("model.layers.1.post_attention_layernorm.weight", "model.layers.1.self_attn.o_proj.bias"),
}
MATRICES = {
    "gpt2": ("transformer.wte.weight", "transformer.h.1.attn.c_attn.weight", "transformer.h.1.attn.c_proj.weight"),
    "llama": ("model.embed_tokens.weight", "model.layers.1.self_attn.v_proj.weight", "lm_head.weight"),
}
SIZES = {
    "gpt2": ("n_layer", "n_embd", "n_head"),
    "llama": ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
}


def at(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def spoils(family: str) -> Iterator[tuple[str, Spoil]]:
    file, config, tokenizer = at("model.safetensors"), at("config.json"), at("tokenizer.json")
    yield from mutations.truncated(file)
    yield from mutations.lying(file)
    for name, spoil in mutations.tensors(file, MATRICES[family], GAINS[family]):
        if not name.startswith(("a tensor", f"no {GAINS[family][1]}")):  # a model may have more, and no biases
            yield name, spoil
    absurd: dict[str, Any] = {"model_type": ["mamba", 7, None, "../..", ["a"]]}
    for name in SIZES[family]:
        absurd[name] = [0, -1, "many", None, 1e99, 10**9, [1], models.N_LAYERS + 1 if "layer" in name else 7]
    yield from mutations.configs(config, absurd, json.loads, json.dumps)
    yield from ((f"tokenizer: {name}", spoil) for name, spoil in mutations.truncated(tokenizer))
    yield "a tokenizer nested without end", lambda f: tokenizer(f).write_text("[" * 100_000)


@pytest.mark.parametrize("family", SIZES)
def test_every_spoiled_model_ends_in_one_clear_line_in_bounded_memory_and_time(tmp_path: Path, family, monkeypatch):
    good = tmp_path / "good"
    models.model(family).save_pretrained(good)
    models.tokenizer().save_pretrained(good)
    read_all(good)
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))

    wrong = mutations.sweep(good, tmp_path / "model", spoils(family), read_all, BadModel)

    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "home").exists()


def read_all(folder: Path) -> None:
    model = open_model(folder)
    for layer in range(model.n_layers):
        heads(model, layer)
