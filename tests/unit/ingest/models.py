"""Tiny random models of every proven family, and transcoders for them. No two axes have the same size.

Gains are not one, biases not zero, and nothing is centred by chance: a fold that is left out shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources.memory import InMemory
from ingest.transcoder import Transcoder

FAMILIES = ("gpt2", "llama", "gemma2", "qwen3")
"""written out by hand in :mod:`ingest.families`"""
MAPPED = (
    "gpt_neox",
    "gpt_neox_serial",
    "phi",
    "olmo",
    "mistral",
    "qwen2",
    "smollm3",
    "phi3",
    "olmo2",
    "olmo3",
    "gemma",
    "gemma3_text",
    "gemma3",
)
"""read off the library's map of parts"""
EVERY = FAMILIES + MAPPED
N_LAYERS, D_MODEL, N_VOCAB, N_POSITIONS, D_MLP = 3, 20, 53, 17, 34
N_HEADS, N_KV, D_HEAD = 4, 2, 6
N_FEATURES = (29, 31, 37)
"""by layer"""


def config(family: str) -> PreTrainedConfig:
    tokens: dict[str, Any] = {"vocab_size": N_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "gpt2":
        return GPT2Config(
            n_layer=N_LAYERS, n_embd=D_MODEL, n_head=N_HEADS, n_positions=N_POSITIONS, n_inner=D_MLP, **tokens
        )
    shape: dict[str, Any] = {
        "num_hidden_layers": N_LAYERS,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": N_KV,
        "head_dim": D_HEAD,
        "max_position_embeddings": N_POSITIONS,
        "attn_implementation": "eager",
        **tokens,
    }
    classes: dict[str, Any] = {
        "mistral": MistralConfig,
        "olmo": OlmoConfig,
        "olmo2": Olmo2Config,
        "olmo3": Olmo3Config,
        "gemma": GemmaConfig,
        "phi3": Phi3Config,
        "smollm3": SmolLM3Config,
    }
    match family:
        case "llama":
            return LlamaConfig(attention_bias=True, mlp_bias=True, **shape)
        case "qwen2":
            return Qwen2Config(**shape)
        case "qwen3":
            return Qwen3Config(attention_bias=True, tie_word_embeddings=True, **shape)
        case "gemma2":
            return Gemma2Config(final_logit_softcapping=30.0, **shape)
        case "gemma3_text":
            return Gemma3TextConfig(**shape)
        case "gemma3":
            seen = {"hidden_size": 8, "intermediate_size": 9, "num_hidden_layers": 1, "num_attention_heads": 2}
            return Gemma3Config(
                text_config=shape, vision_config=seen | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=1
            )
        case "phi" | "gpt_neox" | "gpt_neox_serial":
            shape = {name: value for name, value in shape.items() if name not in ("head_dim", "num_key_value_heads")}
            if family == "phi":
                return PhiConfig(num_key_value_heads=N_KV, **shape)
            return GPTNeoXConfig(use_parallel_residual=family == "gpt_neox", **shape)
    return classes[family](**shape)


def model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model whose parameters are all random, gains and biases included; of either precision they are the same."""
    made = AutoModelForCausalLM.from_config(config(family)).eval().to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            noise = (noise * 4096).round() / 4096  # so that 1 + w, gemma's gain, is exact in either precision
            is_gain = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(noise + 1.0 if is_gain and "gemma" not in family else noise)
    if "gemma" in family and dtype is torch.float64:
        embedding = made.get_input_embeddings()
        if hasattr(embedding, "embed_scale"):
            embedding.embed_scale.fill_(D_MODEL**0.5)  # the library keeps it rounded to float32
    return made


def tokenizer(n_tokens: int = N_VOCAB - 2) -> PreTrainedTokenizerFast:
    """Words, with a BOS of id 0; two rows fewer than the embedding has, as padded embeddings have."""
    words = {"<bos>": 0, "<unk>": 1, **{f"word{i}": i for i in range(2, n_tokens)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")), bos_token="<bos>", unk_token="<unk>"
    )


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype) * 0.5


def transcoder(
    layer: int,
    read: ReadSite = ReadSite.NORM_POST_GAIN,
    write: WriteSite = WriteSite.MLP_RAW,
    *,
    activation: Activation = Activation.RELU,
    skip: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Transcoder:
    n, seed = N_FEATURES[layer], 100 * layer
    return Transcoder(
        layer=layer,
        w_enc=random(n, D_MODEL, seed=seed + 1, dtype=dtype),
        b_enc=random(n, seed=seed + 2, dtype=dtype),
        w_dec=random(n, D_MODEL, seed=seed + 3, dtype=dtype),
        b_dec=random(D_MODEL, seed=seed + 4, dtype=dtype),
        activation=activation,
        read=read,
        write=write,
        threshold=random(n, seed=seed + 5, dtype=dtype).abs() if activation is Activation.JUMPRELU else None,
        k=5 if activation is Activation.TOPK else None,
        w_skip=random(D_MODEL, D_MODEL, seed=seed + 6, dtype=dtype) if skip else None,
    )


def write_circuit_tracer(
    folder: Path, layers: Iterable[Transcoder], read: str = "mlp.hook_in", write: str = "mlp.hook_out", **config: Any
) -> Path:
    """circuit-tracer's per-layer layout, as its own writer makes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for transcoder in layers:
        tensors = {
            "W_enc": transcoder.w_enc,
            "b_enc": transcoder.b_enc,
            "W_dec": transcoder.w_dec,
            "b_dec": transcoder.b_dec,
            "activation_function.threshold": transcoder.threshold,
            "W_skip": transcoder.w_skip,
        }
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / f"layer_{transcoder.layer}.safetensors")
    stated = {
        "model_name": "tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": read,
        "feature_output_hook": write,
        "scan": "tiny",
        **config,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({key: value for key, value in stated.items() if value}))
    return folder


def transcoders(read: ReadSite, write: WriteSite, **options: Any) -> InMemory:
    """A transcoder for every layer, as a source."""
    return InMemory({layer: transcoder(layer, read, write, **options) for layer in range(N_LAYERS)}, name="tc-test")
