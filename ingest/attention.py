"""Attention's part in an edge: what heads read and write whatever they attend to, and the constants they add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadModel
from ingest.families import Family, Get, n_heads_of, required


@dataclass(frozen=True)
class Attention:
    """What one block's heads read and write, whatever they attend to; gains as they multiply."""

    gain: Float[Tensor, " d_model"] | None
    """of the norm before it; None where it reads the stream itself"""
    w_v: Float[Tensor, "d_model n_values"]
    w_o: Float[Tensor, "n_heads_d_head d_model"]
    post_gain: Float[Tensor, " d_model"] | None
    n_heads: int
    n_values: int
    """heads that have values of their own; each serves ``n_heads / n_values`` heads"""


def attention(family: Family, config: Any, get: Get, layer: int, d_model: int, where: str) -> Attention:
    """One layer's heads. Raises :class:`atlas.errors.BadModel` where the model clips values: no edge is constant."""
    if getattr(config, "clip_qkv", None) is not None:
        raise BadModel(f"{where} clips its values at {config.clip_qkv}, so no edge through its heads is a constant")
    w_v, _, w_o, _ = family.values(get, layer, config)
    n_heads, n_values = n_heads_of(config)
    return Attention(
        gain=gain_of(family, get, family.attention_norm, layer, d_model),
        w_v=w_v,
        w_o=w_o,
        post_gain=gain_of(family, get, family.post_attention_norm, layer, d_model),
        n_heads=n_heads,
        n_values=n_values,
    )


def constant(family: Family, config: Any, get: Get, layer: int) -> Float[Tensor, " d_model"]:
    """``b_O + (b_V + b_norm W_V) W_O``: what a layer adds whatever it attends to, before a norm behind it."""
    w_v, b_v, w_o, b_o = family.values(get, layer, config)
    norm_bias = get(f"{family.attention_norm.format(layer)}.bias") if family.attention_norm else None
    value = torch.zeros(w_v.shape[1]) if b_v is None else b_v
    if norm_bias is not None:
        value = value + norm_bias @ w_v
    groups = w_o.shape[0] // w_v.shape[1]  # query heads that share one value head
    if groups > 1:
        value = value.view(n_heads_of(config)[1], -1).repeat_interleave(groups, dim=0).flatten()
    constant = value @ w_o
    return constant if b_o is None else constant + b_o


def gain_of(family: Family, get: Get, name: str | None, layer: int | None, d_model: int) -> Tensor | None:
    """A norm's gain as it multiplies: ones where the family's norms only divide, None where there is no norm."""
    if name is None:
        return None
    if not family.gains:
        return torch.ones(d_model)
    return required(get, f"{name.format(layer)}.weight") + family.gain_offset
