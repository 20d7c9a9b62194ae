"""A real model in which only one path is left open: denominators of norms, attention and MLPs held at their values.

Nothing of :mod:`ingest` is used here but what a site means, so that predictions and measurements share no code. A
change is put where a source writes, by a hook on the library's own module; what a target reads is taken from the module
that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from atlas.model import ReadSite, WriteSite
from ingest.transcoder import Transcoder
from tests.unit.ingest.anatomy import ANATOMY

_OPEN: dict[str, Any] = {"head": 0, "pattern": torch.empty(0)}


def _one_head(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> tuple:
    """Attention in which one head attends, by a pattern that is given; called with the library's own values."""
    _, n_heads, length, _ = query.shape
    pattern = torch.zeros(n_heads, length, length, dtype=value.dtype)
    pattern[_OPEN["head"]] = _OPEN["pattern"]
    values = value.repeat_interleave(n_heads // value.shape[1], dim=1)
    return (pattern @ values).transpose(1, 2).contiguous(), None


AttentionInterface.register("one_head", _one_head)


@dataclass
class Values:
    """What one run of the model saw; every tensor is [batch, position, d_model]."""

    sigma: dict[str, Tensor] = field(default_factory=dict)
    """denominator of each norm, by its name, [batch, position, 1]"""
    norm_in: dict[str, Tensor] = field(default_factory=dict)
    norm_out: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    mlp_in: dict[int, Tensor] = field(default_factory=dict)
    mlp_out: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """before a soft cap"""


class Frozen:
    """One model on one text, run once as it is and then with changes along direct paths only."""

    def __init__(self, model: nn.Module, ids: Tensor, family: str | None = None) -> None:
        self.model, self.ids = model, ids
        self.anatomy = ANATOMY[family or model.config.model_type]
        self.base, self.blocks = self.anatomy.of(model), self.anatomy.blocks_of(model)
        self.layer_norm = self.anatomy.layer_norm
        self.open_at: int | None = None
        """the layer whose attention is not held (:func:`one_head`)"""
        self.clean = self._run(1, lambda values: self._recorders(values, held=None))

    @property
    def embedding(self) -> nn.Module:
        """Token ids to what they add to the stream, the library's scale included."""
        return self.model.get_input_embeddings()

    def mlp_norm(self, layer: int) -> str | None:
        return f"{layer}.{self.anatomy.mlp_norm}" if self.anatomy.mlp_norm else None

    def post_mlp_norm(self, layer: int) -> str | None:
        return f"{layer}.{self.anatomy.post_mlp}" if self.anatomy.post_mlp else None

    def post_attention_norm(self, layer: int) -> str | None:
        return f"{layer}.{self.anatomy.post_attention}" if self.anatomy.post_attention else None

    def changed(
        self, change: Tensor, position: int, *, layer: int | None = None, site: WriteSite | None = None
    ) -> Values:
        """Run with ``change`` [batch, d_model] added at ``position``, to the embedding or at a write site."""
        return self._run(len(change), self._changing(change, position, layer, site))

    def carried(
        self,
        change: Tensor,
        position: int,
        to: int,
        head: tuple[int, int],
        *,
        layer: int | None = None,
        site: WriteSite | None = None,
    ) -> Values:
        """As :meth:`changed`, with one head open: from ``to`` it attends to ``position`` alone; no other head adds.

        Compare with the same of no change: what the head carries of the clean stream is in both.
        """
        with one_head(self, head, position, to):
            return self._run(len(change), self._changing(change, position, layer, site))

    def carried_by(
        self, pattern: Tensor, change: Tensor, head: tuple[int, int], *, layer: int, site: WriteSite
    ) -> Values:
        """As :meth:`carried`, of changes at every position, [batch, position, d_model], where the head attends by
        ``pattern`` [to, from]."""
        with attends(self, head, pattern):
            return self._run(len(change), self._changing(change, slice(None), layer, site))

    def _changing(
        self, change: Tensor, position: int | slice, layer: int | None, site: WriteSite | None
    ) -> Callable[[Values], list[tuple[nn.Module, Callable]]]:
        put = torch.zeros(len(change), self.ids.shape[1], change.shape[-1], dtype=change.dtype)
        put[:, position] = change
        if site is WriteSite.MLP_RAW_CENTRED:
            put = put - put.mean(-1, keepdim=True)
        at_norm = self.post_mlp_norm(layer) if layer is not None and site is WriteSite.MLP_POST_NORM else None

        def hooks(values: Values) -> list[tuple[nn.Module, Callable]]:
            found = self._recorders(values, held=self.clean)
            if layer is None:
                found.append((self.embedding, lambda module, inputs, output: output + put))
            elif at_norm is not None:
                norm = self.blocks[layer].get_submodule(self.anatomy.post_mlp or "")
                found.append((norm, lambda module, inputs, output: output + put))
            else:
                found.append((self.blocks[layer].mlp, lambda module, inputs, output: output + put))
            return found

        return hooks

    def site(self, values: Values, layer: int, read: ReadSite) -> Tensor:
        """What a transcoder of ``layer`` reads in a run, with the clean run's denominators."""
        norm = self.mlp_norm(layer)
        stream = values.norm_in[norm] if norm else values.mlp_in[layer]
        centred = stream - stream.mean(-1, keepdim=True)
        match read:
            case ReadSite.RESID_MID:
                return stream
            case ReadSite.RESID_MID_CENTRED:
                return centred
            case ReadSite.NORM_PRE_GAIN:
                return (centred if self.layer_norm else stream) / self.clean.sigma[norm or ""]
            case ReadSite.NORM_POST_GAIN:
                return values.mlp_in[layer]

    def pre_activations(self, values: Values, transcoder: Transcoder) -> Tensor:
        return self.site(values, transcoder.layer, transcoder.read) @ transcoder.w_enc.T + transcoder.b_enc

    def read_sigma(self, layer: int, read: ReadSite, position: int) -> Tensor:
        """What the norm before an MLP divides by, 1 where a transcoder reads the stream itself."""
        normalised = read in (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN)
        return self.clean.sigma[self.mlp_norm(layer) or ""][0, position] if normalised else _one()

    def write_sigma(self, layer: int, write: WriteSite, position: int) -> Tensor:
        """What a norm behind an MLP divides by, where a transcoder writes before it."""
        name = self.post_mlp_norm(layer)
        if name is None or write is WriteSite.MLP_POST_NORM:
            return _one()
        return self.clean.sigma[name][0, position]

    def head_sigma(self, layer: int, source: int, target: int) -> Tensor:
        """What the norms around a layer's attention divide by: before it at the source, behind it at the target."""
        before = self.anatomy.attention_norm
        found = self.clean.sigma[f"{layer}.{before}"][0, source] if before else _one()
        behind = self.post_attention_norm(layer)
        return found * (self.clean.sigma[behind][0, target] if behind else _one())

    def final_sigma(self, position: int) -> Tensor:
        return self.clean.sigma["final"][0, position]

    def added(self, layer: int) -> Tensor:
        """What an MLP adds to the stream, behind a norm after it where there is one [position, d_model]."""
        name = self.post_mlp_norm(layer)
        return (self.clean.norm_out[name] if name else self.clean.mlp_out[layer])[0]

    def arriving(self, layer: int, write: WriteSite, out: Tensor) -> Tensor:
        """What enters the stream of vectors [position, d_model] at a layer's write site, all denominators held."""
        name = self.post_mlp_norm(layer)
        if write is WriteSite.MLP_RAW_CENTRED:
            return out - out.mean(-1, keepdim=True)
        if name is None or write is WriteSite.MLP_POST_NORM:
            return out
        gain = self.blocks[layer].get_submodule(self.anatomy.post_mlp or "").weight.detach()
        return out / self.clean.sigma[name][0] * (1 + gain if self.anatomy.one_more else gain)

    def norms(self) -> Iterator[tuple[str, nn.Module]]:
        for layer, block in enumerate(self.blocks):
            for name in self.anatomy.norms:
                yield f"{layer}.{name}", block.get_submodule(name)
        yield "final", self.base.get_submodule(self.anatomy.final)

    def _recorders(self, values: Values, held: Values | None) -> list[tuple[nn.Module, Callable]]:
        found = [(module, self._norm(name, values, held)) for name, module in self.norms()]
        for layer, block in enumerate(self.blocks):
            attention = block.get_submodule(self.anatomy.attention)
            found.append((attention, self._attention(layer, values, None if layer == self.open_at else held)))
            found.append((block.mlp, self._mlp(layer, values, held)))

        def logits(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            values.logits = output

        return [*found, (self.model.get_output_embeddings(), logits)]

    def _norm(self, name: str, values: Values, held: Values | None) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            x = inputs[0]
            centred = x - x.mean(-1, keepdim=True) if self.layer_norm else x
            eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", None) or 1e-5
            sigma = (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() if held is None else held.sigma[name]
            gain = getattr(module, "weight", torch.ones(()))  # OLMo's norms have none
            result = centred / sigma * (1 + gain if self.anatomy.one_more else gain)
            if getattr(module, "bias", None) is not None:
                result = result + module.bias
            if held is None:
                torch.testing.assert_close(result, output, rtol=1e-4, atol=1e-5)  # the library's own, were it not held
            values.sigma[name], values.norm_in[name], values.norm_out[name] = sigma, x, result
            return result

        return hook

    def _attention(self, layer: int, values: Values, held: Values | None) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: tuple) -> tuple | None:
            if held is None:
                values.attention[layer] = output[0]
                return None
            return (held.attention[layer].expand_as(output[0]), *output[1:])

        return hook

    def _mlp(self, layer: int, values: Values, held: Values | None) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
            values.mlp_in[layer] = inputs[0]
            if held is None:
                values.mlp_out[layer] = output
                return None
            return held.mlp_out[layer].expand_as(output)

        return hook

    @torch.no_grad()
    def _run(self, batch: int, hooks: Callable[[Values], list[tuple[nn.Module, Callable]]]) -> Values:
        values = Values()
        with _hooked(hooks(values)):
            self.model(self.ids.expand(batch, -1), use_cache=False)
        return values


def _one() -> Tensor:
    return torch.ones(1, dtype=torch.float64)


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def one_head(frozen: Frozen, head: tuple[int, int], source: int, target: int) -> Iterator[None]:
    """One head (layer, number) open: from ``target`` it attends to ``source`` alone; no other of its layer adds."""
    pattern = torch.zeros(2 * frozen.ids.shape[1:])
    pattern[target, source] = 1
    with attends(frozen, head, pattern):
        yield


@contextmanager
def attends(frozen: Frozen, head: tuple[int, int], pattern: Tensor) -> Iterator[None]:
    """One head (layer, number) open, which attends by ``pattern`` [to, from]; no other of its layer adds."""
    frozen.model.set_attn_implementation("one_head")
    _OPEN.update(head=head[1], pattern=pattern)
    frozen.open_at = head[0]
    try:
        yield
    finally:
        frozen.open_at = None
        frozen.model.set_attn_implementation("eager")
