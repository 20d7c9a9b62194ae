"""Model families: which parameter plays which part, and what each family does to it before use.

A family is in :data:`FAMILIES` when an intervention proves its edges (``tests/unit/ingest/test_intervention.py``); any
other is refused. Names of parameters are those of transformers, without the prefix of the model's base.
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
    attention_norm: str
    mlp_norm: str
    """the norm before the MLP, whose input is the stream at ``resid_mid``"""
    final_norm: str
    values: Callable[[Get, int], tuple[Tensor, Tensor | None, Tensor, Tensor | None]]
    """W_V [d_model, n_values], its bias, W_O [n_heads * d_head, d_model], its bias"""
    positions: str | None = None
    post_attention_norm: str | None = None
    post_mlp_norm: str | None = None
    gain_offset: float = 0.0
    """added to a stored gain: Gemma stores ``w`` and multiplies by ``1 + w``"""
    scaled_embedding: bool = False
    """the embedding is multiplied by the root of d_model"""


def _fused(get: Get, layer: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """GPT-2 keeps queries, keys and values in one matrix, stored (in, out)."""
    block = f"h.{layer}.attn"
    weight, bias = required(get, f"{block}.c_attn.weight"), get(f"{block}.c_attn.bias")
    d = weight.shape[0]
    return (
        weight[:, 2 * d :],
        None if bias is None else bias[2 * d :],
        required(get, f"{block}.c_proj.weight"),
        get(f"{block}.c_proj.bias"),
    )


def _separate(get: Get, layer: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    block = f"layers.{layer}.self_attn"
    return (
        required(get, f"{block}.v_proj.weight").T,
        get(f"{block}.v_proj.bias"),
        required(get, f"{block}.o_proj.weight").T,
        get(f"{block}.o_proj.bias"),
    )


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
    "values": _separate,
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
            values=_fused,
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


def family_of(model_type: str, where: str) -> Family:
    """The family of a ``model_type``; raises :class:`atlas.errors.BadModel` for one that no test proves."""
    if model_type not in FAMILIES:
        raise BadModel(
            f"{where} is of the family {model_type!r}, but norms and sites are proven only for "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]
