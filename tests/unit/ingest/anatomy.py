"""Where a block of each family keeps its parts, read in the library's source and used by measurements alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Anatomy:
    """Names of modules; of a block's unless said otherwise."""

    base: str
    """within the model"""
    blocks: str = "layers"
    attention: str = "self_attn"
    attention_norm: str | None = "input_layernorm"
    mlp_norm: str | None = "post_attention_layernorm"
    post_attention: str | None = None
    post_mlp: str | None = None
    final: str = "norm"
    layer_norm: bool = False
    one_more: bool = False
    """a norm multiplies by one more than it stores"""
    parallel: bool = False

    def of(self, model: nn.Module) -> nn.Module:
        return model.get_submodule(self.base)

    def blocks_of(self, model: nn.Module) -> list[nn.Module]:
        return list(self.of(model).get_submodule(self.blocks))

    @property
    def norms(self) -> list[str]:
        """A block's norms around attention and MLP; not those inside of attention."""
        found = (self.attention_norm, self.mlp_norm, self.post_attention, self.post_mlp)
        return list(dict.fromkeys(name for name in found if name))


_LLAMA = Anatomy("model")
_GEMMA2 = Anatomy(
    "model",
    mlp_norm="pre_feedforward_layernorm",
    post_attention="post_attention_layernorm",
    post_mlp="post_feedforward_layernorm",
    one_more=True,
)
_OLMO2 = Anatomy(
    "model",
    attention_norm=None,
    mlp_norm=None,
    post_attention="post_attention_layernorm",
    post_mlp="post_feedforward_layernorm",
)
_NEOX = Anatomy("gpt_neox", attention="attention", final="final_layer_norm", layer_norm=True)
ANATOMY = {
    "gpt2": Anatomy(
        "transformer",
        "h",
        "attn",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        final="ln_f",
        layer_norm=True,
    ),
    "gpt_neox": Anatomy(**vars(_NEOX) | {"parallel": True}),
    "gpt_neox_serial": _NEOX,
    "phi": Anatomy("model", mlp_norm="input_layernorm", final="final_layernorm", layer_norm=True, parallel=True),
    "olmo": Anatomy("model", layer_norm=True),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "phi3": _LLAMA,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "gemma": Anatomy("model", one_more=True),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": Anatomy(**vars(_GEMMA2) | {"base": "model.language_model"}),
}
