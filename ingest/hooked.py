"""Models that are loaded in TransformerLens: its bridge around transformers, and its own HookedTransformer.

The bridge keeps the library's parameters under their names. HookedTransformer renames them, splits heads, and stores
Gemma's gains as ``1 + w`` and its embedding multiplied by the root of d_model; nothing is added to either again.
Weights that TransformerLens processed (folded norms, centred writes) belong to another model than the one transcoders
read, and are refused.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from atlas.errors import BadModel
from ingest.families import FAMILIES, Family, Get, Values, family_of, required

_ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma2ForCausalLM": "gemma2",
}
_WRAPPED = "._original_component"


def is_lens(model: Any) -> bool:
    """Whether it is TransformerLens' own, told without importing the library."""
    return type(model).__module__.partition(".")[0] == "transformer_lens"


def parameters(model: Any) -> tuple[Any, Family, Get]:
    """Config, family and parameters as :func:`ingest.weights.assemble` takes them.

    Raises :class:`atlas.errors.BadModel` for processed weights and for families that no test proves.
    """
    if hasattr(model, "original_model"):
        if model._weights_processed:
            raise _processed("boot the bridge without enable_compatibility_mode()")
        inner = model.original_model
        family = family_of(inner.config, "the bridge's model")
        state = {
            name.replace(_WRAPPED, "").removeprefix(family.prefix): tensor
            for name, tensor in inner.state_dict().items()
        }
        return inner.config.get_text_config(), family, state.get
    return _hooked(model)


def _hooked(model: Any) -> tuple[Any, Family, Get]:
    cfg = model.cfg
    if cfg.normalization_type not in {"LN", "RMS"}:
        raise _processed("load it with from_pretrained_no_processing")
    architecture = str(cfg.original_architecture)
    if architecture not in _ARCHITECTURES:
        raise BadModel(
            f"a HookedTransformer of {architecture} is not read; load it with transformers, or with TransformerLens' "
            "bridge"
        )
    family = FAMILIES[_ARCHITECTURES[architecture]]
    renamed = replace(
        family,
        embedding="embed.W_E",
        positions=family.positions and "pos_embed.W_pos",
        attention_norm="blocks.{}.ln1",
        mlp_norm="blocks.{}.ln2",
        mlp="blocks.{}.mlp",
        attention="blocks.{}.attn",
        post_attention_norm=family.post_attention_norm and "blocks.{}.ln1_post",
        post_mlp_norm=family.post_mlp_norm and "blocks.{}.ln2_post",
        final_norm="ln_final",
        values=_values,
        gain_offset=0.0,
        scaled_embedding=False,
    )
    state = model.state_dict()

    def get(name: str) -> Tensor | None:
        if name.startswith("lm_head."):
            found = state["unembed.W_U"].T if name.endswith("weight") else state["unembed.b_U"]
            return found.contiguous()
        return state.get(name.replace(".weight", ".w").replace(".bias", ".b"))

    config = SimpleNamespace(
        num_hidden_layers=cfg.n_layers,
        num_attention_heads=cfg.n_heads,
        num_key_value_heads=cfg.n_key_value_heads,
        rms_norm_eps=cfg.eps,
        final_logit_softcapping=cfg.output_logits_soft_cap if cfg.output_logits_soft_cap > 0 else None,
        _name_or_path=cfg.model_name,
    )
    return config, renamed, get


def _values(get: Get, layer: int, config: Any) -> Values:
    def either(name: str) -> Tensor:
        grouped = get(f"blocks.{layer}.attn._{name}")
        return required(get, f"blocks.{layer}.attn.{name}") if grouped is None else grouped

    w_v, w_o = either("W_V"), either("W_O")
    return w_v.transpose(0, 1).flatten(1), either("b_V").flatten(), w_o.flatten(0, 1), either("b_O")


def _processed(how: str) -> BadModel:
    return BadModel(
        f"TransformerLens has folded or centred this model's weights, which no transcoder was trained to read; {how}"
    )
