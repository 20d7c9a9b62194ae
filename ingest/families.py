"""Model families: which parameter plays which part, and what each family does to it before use.

Names of parameters are those of transformers, without the prefix of the model's base. Four families are written out
here; those of :data:`PROVEN` beside them are read off TransformerLens' map of parts (:mod:`ingest.bridged`), so that a
new family is a name in that table and a tiny model in the tests. A family is in either only when an intervention
proves its edges (``tests/unit/ingest/test_intervention.py``); any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from atlas.errors import BadModel

Get = Callable[[str], Tensor | None]
"""a parameter by its name, or None where the model has none of that name"""
Values = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""W_V [d_model, n_values], its bias, W_O [n_heads * d_head, d_model], its bias"""


class Norm(StrEnum):
    """What is taken off and divided by: LayerNorm also takes off the mean over the axis ``d_model``."""

    LAYER = "layer"
    RMS = "rms"


@dataclass(frozen=True)
class Family:
    """One architecture. ``{}`` in a name stands for the layer."""

    name: str
    """transformers' ``model_type``"""
    prefix: str
    norm: Norm
    embedding: str
    attention_norm: str | None
    """None where attention reads the stream itself (OLMo 2)"""
    mlp_norm: str | None
    """before the MLP; its input is the stream at ``resid_mid``. None where the MLP reads the stream itself"""
    final_norm: str
    values: Callable[[Get, int, Any], Values]
    """of one layer, by parameters and the library's config"""
    mlp: str = "layers.{}.mlp"
    attention: str = "layers.{}.self_attn"
    positions: str | None = None
    post_attention_norm: str | None = None
    post_mlp_norm: str | None = None
    parallel: bool = False
    """the MLP reads the stream that its own layer's attention reads, not what that attention has added to"""
    gain_offset: float = 0.0
    """added to a stored gain: Gemma stores ``w`` and multiplies by ``1 + w``"""
    gains: bool = True
    """False where norms only divide (OLMo)"""
    scaled_embedding: bool = False
    """the embedding is multiplied by the root of d_model"""


def fused(attention: str, out: str) -> Callable[[Get, int, Any], Values]:
    """Queries, keys and values in one matrix stored (in, out), as GPT-2 keeps them."""

    def values(get: Get, layer: int, config: Any) -> Values:
        block = attention.format(layer)
        weight, bias = required(get, f"{block}.weight"), get(f"{block}.bias")
        d = weight.shape[0]
        w_o = out.format(layer)
        return (
            weight[:, 2 * d :],
            None if bias is None else bias[2 * d :],
            required(get, f"{w_o}.weight"),
            get(f"{w_o}.bias"),
        )

    return values


def separate(value: str, out: str) -> Callable[[Get, int, Any], Values]:
    """Values in a matrix of their own."""

    def values(get: Get, layer: int, config: Any) -> Values:
        w_v, w_o = value.format(layer), out.format(layer)
        return (
            required(get, f"{w_v}.weight").mT,
            get(f"{w_v}.bias"),
            required(get, f"{w_o}.weight").mT,
            get(f"{w_o}.bias"),
        )

    return values


def joint(attention: str, out: str, *, by_head: bool) -> Callable[[Get, int, Any], Values]:
    """All three in one matrix stored (out, in): head after head (GPT-NeoX), or kind after kind (Phi-3)."""

    def values(get: Get, layer: int, config: Any) -> Values:
        block, w_o = attention.format(layer), out.format(layer)
        weight, bias = required(get, f"{block}.weight"), get(f"{block}.bias")
        n_heads, n_kv = n_heads_of(config)
        size = weight.shape[0] // (n_heads + 2 * n_kv)

        def of_values(rows: Tensor) -> Tensor:
            if by_head:
                return rows.view(n_heads, 3, size, *rows.shape[1:])[:, 2].flatten(0, 1)
            return rows[-n_kv * size :]

        return (
            of_values(weight).mT,
            None if bias is None else of_values(bias),
            required(get, f"{w_o}.weight").mT,
            get(f"{w_o}.bias"),
        )

    return values


def n_heads_of(config: Any) -> tuple[int, int]:
    """Heads, and heads that have values of their own, of the library's config."""
    heads = config.num_attention_heads
    return heads, getattr(config, "num_key_value_heads", None) or heads


def sizes(embedding: Tensor, config: Any, where: str) -> tuple[int, int, int]:
    """Rows of the embedding, width of the stream and layers; raises :class:`atlas.errors.BadModel` where the config
    states others, or none."""
    if embedding.dim() != 2:
        raise BadModel(f"{where}: its embedding has shape {tuple(embedding.shape)}, expected tokens by width")
    for name, found in zip(("vocab_size", "hidden_size"), embedding.shape, strict=True):
        stated = getattr(config, name, found)
        if stated != found:
            raise BadModel(f"{where}: its config has {name} {stated!r}, its embedding {found}: one is of another model")
    n_layers = config.num_hidden_layers
    if not isinstance(n_layers, int) or n_layers < 1:
        raise BadModel(f"{where}: its config has {n_layers!r} layers, expected a whole number above zero")
    return embedding.shape[0], embedding.shape[1], n_layers


def row(get: Get, name: str, d_model: int) -> Tensor | None:
    """A gain or bias of the stream, None where there is none; raises :class:`atlas.errors.BadModel` for another
    width."""
    found = get(name)
    if found is not None and found.shape != (d_model,):
        raise BadModel(f"{name} has shape {tuple(found.shape)}, but the embedding a width of {d_model}")
    return found


def required(get: Get, name: str) -> Tensor:
    """A parameter that must be there; raises :class:`atlas.errors.BadModel`."""
    found = get(name)
    if found is None:
        raise BadModel(f"the model has no parameter {name!r}; its files are incomplete, or of another architecture")
    return found


_LLAMA: dict[str, Any] = {
    "prefix": "model.",
    "norm": Norm.RMS,
    "embedding": "embed_tokens.weight",
    "attention_norm": "layers.{}.input_layernorm",
    "mlp_norm": "layers.{}.post_attention_layernorm",
    "final_norm": "norm",
    "values": separate("layers.{}.self_attn.v_proj", "layers.{}.self_attn.o_proj"),
}
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gpt2",
            prefix="transformer.",
            norm=Norm.LAYER,
            embedding="wte.weight",
            positions="wpe.weight",
            attention_norm="h.{}.ln_1",
            mlp_norm="h.{}.ln_2",
            final_norm="ln_f",
            values=fused("h.{}.attn.c_attn", "h.{}.attn.c_proj"),
            mlp="h.{}.mlp",
            attention="h.{}.attn",
        ),
        Family("llama", **_LLAMA),
        Family("qwen3", **_LLAMA),
        Family(
            "gemma2",
            **_LLAMA
            | {
                "mlp_norm": "layers.{}.pre_feedforward_layernorm",
                "post_attention_norm": "layers.{}.post_attention_layernorm",
                "post_mlp_norm": "layers.{}.post_feedforward_layernorm",
                "gain_offset": 1.0,
                "scaled_embedding": True,
            },
        ),
    )
}
_ONLY_BEHIND: dict[str, Any] = {
    "attention_norm": None,
    "mlp_norm": None,
    "post_attention_norm": "layers.{}.post_attention_layernorm",
    "post_mlp_norm": "layers.{}.post_feedforward_layernorm",
}
PROVEN: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "mistral": {},
    "qwen2": {},
    "smollm3": {},
    "phi": {},
    "phi3": {},
    "olmo": {"gains": False},
    "olmo2": _ONLY_BEHIND,
    "olmo3": _ONLY_BEHIND,
    "gemma": {"scaled_embedding": True},
    "gemma3_text": {"scaled_embedding": True},
    "gemma3": {"scaled_embedding": True},
}
"""Families that are read off the library's map of parts, with what that map does not say or says in other words."""


def family_of(config: Any, where: str) -> Family:
    """The family of a model's config; raises :class:`atlas.errors.BadModel` for one that no test proves."""
    model_type = config if isinstance(config, str) else config.model_type
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in PROVEN and not isinstance(config, str):
        from ingest.bridged import family

        return family(config, PROVEN[model_type])
    raise BadModel(
        f"{where} is of the family {model_type!r}, but norms and sites are proven only for "
        f"{', '.join(sorted({*FAMILIES, *PROVEN}))}"
    )
