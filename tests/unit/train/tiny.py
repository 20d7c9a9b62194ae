"""Tiny random models with bunny's tokenizer, and a few sentences to run them on."""

import torch
from transformers import AutoModelForCausalLM as Models
from transformers import AutoTokenizer, Gemma2Config, GPT2Config, LlamaConfig, Qwen3Config

from atlas.demo import MODEL

TEXT = (
    "Once upon a time there was a rabbit who lived with his mother in a sand-bank under the root of a very big tree. "
    "'Now, my dears,' said the old rabbit one morning, 'you may go into the fields or down the lane.' "
)

_GROUPED = {
    "vocab_size": 4096,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}

CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=4096, n_positions=64, n_embd=24, n_layer=3, n_head=3, n_inner=40, bos_token_id=0, eos_token_id=0
    ),
    "relu-gpt2": lambda: GPT2Config(
        vocab_size=4096,
        n_positions=64,
        n_embd=24,
        n_layer=3,
        n_head=3,
        n_inner=40,
        activation_function="relu",
        bos_token_id=0,
        eos_token_id=0,
    ),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "gemma2": lambda: Gemma2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED),
}


def model(family: str = "gpt2"):
    """A random model whose MLPs matter: weights far larger than at the start of a training."""
    torch.manual_seed(5)
    network = Models.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if ".mlp." in name and weight.ndim == 2:
                weight.mul_(10)
    return network


def tokenizer():
    """Bunny's."""
    return AutoTokenizer.from_pretrained(MODEL)
