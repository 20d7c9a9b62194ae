"""Attention heads as pairs of maps: what a head reads of the stream, what it writes into it, low rank on both sides.

With attention and norms held still, a head that attends to one position alone carries what is written there to where
it attends from: a row ``u`` of the stream becomes ``u @ reads @ writes``, where ``reads = D W_V`` and
``writes = W_O D'``, with D the gain of the norm before attention (and for LayerNorm the taking off of the mean) and D'
the gain of a norm behind it. So an edge through a head is ``(u @ reads) @ (writes @ e)``: two thin matrices and one
product of length d_head (Elhage et al. 2021, https://transformer-circuits.pub/2021/framework; Dunefsky, Chlenski and
Nanda 2024, https://arxiv.org/abs/2406.11944). Left out are the denominators of both norms and the attention itself;
biases are part of every feature's constant (:meth:`ingest.folding.Vectors.constant`).
``tests/unit/ingest/test_heads.py`` proves it by intervening on a model of every family.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ingest.families import Norm
from ingest.weights import ModelWeights


@dataclass(frozen=True)
class Head:
    """One head; ``u @ reads @ writes`` is what it carries at attention 1."""

    layer: int
    number: int
    group: int
    """heads of one group share their values"""
    reads: Float[Tensor, "d_model d_head"]
    writes: Float[Tensor, "d_head d_model"]

    def norm(self) -> float:
        """Length (Frobenius) of the whole map, without forming it."""
        inner = (self.reads.T.double() @ self.reads.double()) @ (self.writes.double() @ self.writes.T.double())
        return float(inner.trace().clamp(min=0).sqrt())

    def carried(self, written: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_head"]:
        """What the head takes of what is written before it."""
        return written @ self.reads

    def pulled(self, read: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_head"]:
        """What of the head's values is read behind it."""
        return read @ self.writes.T

    def pullback_norms(self, pulled: Float[Tensor, "n d_head"]) -> Float[Tensor, " n"]:
        """How strongly the head can move each reader: the length of its read vector pulled back through the OV map."""
        gram = self.reads.T @ self.reads
        return ((pulled @ gram) * pulled).sum(dim=1).clamp(min=0).sqrt()


def heads(
    model: ModelWeights, layer: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[Head]:
    """The heads of one layer. Raises :class:`atlas.errors.BadModel` where a model clips its values."""
    attention = model.attention(layer)
    reads, writes = (matrix.to(device, dtype) for matrix in (attention.w_v, attention.w_o))
    if attention.gain is not None:
        reads = reads * attention.gain.to(device, dtype)[:, None]
        if model.norm is Norm.LAYER:
            reads = reads - reads.mean(dim=0)
    if attention.post_gain is not None:
        writes = writes * attention.post_gain.to(device, dtype)
    values, outs = reads.chunk(attention.n_values, dim=1), writes.chunk(attention.n_heads, dim=0)
    share = attention.n_heads // attention.n_values
    return [
        Head(layer, number, number // share, values[number // share].contiguous(), outs[number].contiguous())
        for number in range(attention.n_heads)
    ]


def first_target(model: ModelWeights, layer: int) -> int:
    """The first layer whose MLP reads what the heads of ``layer`` write."""
    return layer + model.parallel
