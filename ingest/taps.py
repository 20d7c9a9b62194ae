"""Every site of some layers of a running model: what transcoders and autoencoders could have been trained to read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from atlas.model import ReadSite, WriteSite

if TYPE_CHECKING:
    from ingest.evidence.capture import Runner

_ATTENTION = ("self_attn", "attn", "attention")
_OUT = ("o_proj", "c_proj", "dense", "out_proj")


@dataclass
class Seen:
    """What one layer held at the counted positions, [positions, width]."""

    runner: Runner
    resid_pre: Tensor = field(default_factory=lambda: torch.empty(0))
    resid_mid: Tensor = field(default_factory=lambda: torch.empty(0))
    """as the norm before the MLP is given it"""
    resid_post: Tensor = field(default_factory=lambda: torch.empty(0))
    normed: Tensor = field(default_factory=lambda: torch.empty(0))
    mlp: Tensor = field(default_factory=lambda: torch.empty(0))
    mlp_post: Tensor | None = None
    attention: Tensor | None = None
    z: Tensor | None = None

    def read(self, site: ReadSite) -> Tensor | None:
        """What is read at a site; None where this model has no such."""
        weights = self.runner.weights
        match site:
            case ReadSite.RESID_PRE:
                return self.resid_pre
            case ReadSite.RESID_POST:
                return self.resid_post
            case ReadSite.ATTN_Z:
                return self.z
            case ReadSite.ATTN_RAW:
                return self.attention
            case ReadSite.ATTN_POST_NORM:
                return self.resid_mid - self.resid_pre if weights.has_post_mlp_norm and not weights.parallel else None
            case ReadSite.MLP_RAW:
                return self.mlp
            case ReadSite.MLP_POST_NORM:
                return self.mlp_post
        return self.runner.read(site, self.resid_mid, self.normed)

    def write(self, site: WriteSite) -> Tensor | None:
        """What is written at a site, which for autoencoders is what is read there."""
        if site is WriteSite.MLP_RAW_CENTRED:
            return self.mlp - self.mlp.mean(dim=-1, keepdim=True)
        return self.read(ReadSite(str(site)))


@dataclass
class Taps:
    """Hooks on the modules of some layers."""

    runner: Runner
    layers: list[int]

    def run(self, ids: np.ndarray, counted: np.ndarray) -> dict[int, Seen]:
        """Run windows of ids once; keep what ``counted`` marks, in float32."""
        mask = torch.from_numpy(counted).to(self.runner.device)
        found = {layer: Seen(self.runner) for layer in self.layers}

        def keep(seen: Seen, name: str, value: Any) -> None:
            tensor = value[0] if isinstance(value, tuple) else value
            if tensor.ndim > 3:  # TransformerLens keeps heads apart
                tensor = tensor.flatten(2)
            setattr(seen, name, tensor[mask].float())

        with ExitStack() as stack:
            for layer, seen in found.items():
                for module, before, after in self._modules(layer):
                    stack.enter_context(_listening(module, seen, before, after, keep))
            self.runner.run(ids)
        return found

    def _modules(self, layer: int) -> list[tuple[nn.Module, str | None, str | None]]:
        """Modules, and what is kept of what goes in and comes out."""
        sites = self.runner.layers[layer]
        block = self._block(sites.mlp)
        found: list[tuple[nn.Module, str | None, str | None]] = [
            (block, "resid_pre", "resid_post"),
            (sites.norm, "resid_mid", "normed" if sites.norm is not sites.mlp else None),
            (sites.mlp, None, "mlp"),
        ]
        if sites.norm is sites.mlp:
            found.append((sites.mlp, "normed", None))
        if sites.post is not None:
            found.append((sites.post, None, "mlp_post"))
        attention = next((child for name, child in block.named_children() if name in _ATTENTION), None)
        if attention is not None:
            found.append((attention, None, "attention"))
            children = dict(attention.named_children())
            if "hook_z" in children:
                found.append((children["hook_z"], None, "z"))
            else:
                out = next((children[name] for name in _OUT if name in children), None)
                found += [(out, "z", None)] if out is not None else []
        return found

    def _block(self, mlp: nn.Module) -> nn.Module:
        for module in self.runner.model.modules():
            if any(child is mlp for child in module.children()):
                return module
        raise AssertionError("an MLP stands in no block")


def _listening(module: nn.Module, seen: Seen, before: str | None, after: str | None, keep: Callable) -> Any:
    """Hooks on one module, as a context."""
    stack = ExitStack()
    if before:

        def going_in(module: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
            keep(seen, before, inputs[0] if inputs else named["hidden_states"])

        stack.callback(module.register_forward_pre_hook(going_in, with_kwargs=True).remove)
    if after:
        stack.callback(module.register_forward_hook(lambda module, inputs, output: keep(seen, after, output)).remove)
    return stack
