"""Attention's part in an edge: what heads read and write whatever they attend to, and the constants they add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadModel
from ingest.families import Family, Get, Values, n_heads_of, required, row


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
    w_v, _, w_o, _ = _values(family, config, get, layer, d_model)
    n_heads, n_values = n_heads_of(config)
    return Attention(
        gain=gain_of(family, get, family.attention_norm, layer, d_model),
        w_v=w_v,
        w_o=w_o,
        post_gain=gain_of(family, get, family.post_attention_norm, layer, d_model),
        n_heads=n_heads,
        n_values=n_values,
    )


def constant(family: Family, config: Any, get: Get, layer: int, d_model: int) -> Float[Tensor, " d_model"]:
    """``b_O + (b_V + b_norm W_V) W_O``: what a layer adds whatever it attends to, before a norm behind it."""
    w_v, b_v, w_o, b_o = _values(family, config, get, layer, d_model)
    norm = family.attention_norm
    norm_bias = row(get, f"{norm.format(layer)}.bias", d_model) if norm else None
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
    stored = f"{name.format(layer)}.weight"
    required(get, stored)
    found = row(get, stored, d_model)
    assert found is not None
    return found + family.gain_offset


def _values(family: Family, config: Any, get: Get, layer: int, d_model: int) -> Values:
    """One layer's values and what they are written with; raises :class:`atlas.errors.BadModel` where they are not of
    the sizes that the config states."""
    n_heads, n_values = n_heads_of(config)
    found, fits, shapes = None, False, "other shapes"
    try:
        w_v, b_v, w_o, b_o = found = family.values(get, layer, config)
        shapes = f"W_V {tuple(w_v.shape)} and W_O {tuple(w_o.shape)}"
        n_written, own = w_o.shape[0], w_o.shape[0] // n_heads * n_values
        fits = n_values > 0 and n_heads % n_values == n_written % n_heads == 0
        fits &= w_v.shape == (d_model, own) and w_o.shape == (n_written, d_model)
        fits &= (b_v is None or b_v.shape == (own,)) and (b_o is None or b_o.shape == (d_model,))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError, TypeError):
        pass
    if found is None or not fits:
        raise BadModel(
            f"layer {layer}: its config states {n_heads} heads, {n_values} of them with values of their own, and a "
            f"width of {d_model}; its attention, biases included, does not go with that ({shapes})"
        )
    return found
