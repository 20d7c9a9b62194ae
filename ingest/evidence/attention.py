"""Attention patterns as a model computes them, a layer at a time while it runs, and the norms around its attention.

A pattern A [windows, heads, from, to] is what stands behind the softmax: scores capped, masked to a sliding window,
turned by position, heads that share keys side by side, whatever the family does. transformers tells it where attention
is computed eagerly, which is asked for as long as a run lasts; TransformerLens' bridge and HookedTransformer have a
hook for it. A pattern is handed over when its layer has run and kept by nobody here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from atlas.errors import BadModel
from ingest.evidence.capture import Runner, listening

_KIND = "_attn_implementation_internal"


@dataclass(frozen=True)
class Sites:
    """The modules of one layer that are listened to."""

    attention: nn.Module
    norm: nn.Module | None
    """before attention; None where it reads the stream itself"""
    post: nn.Module | None
    """behind it"""


class Attention:
    """A model's heads at work. Raises :class:`atlas.errors.BadModel` where modules are not found."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        family, root = runner.family, runner.root

        def found(name: str | None, layer: int) -> nn.Module | None:
            return None if name is None else root.get_submodule(name.format(layer))

        try:
            self.layers = [
                Sites(
                    attention=root.get_submodule(family.attention.format(layer)),
                    norm=found(family.attention_norm, layer),
                    post=found(family.post_attention_norm, layer),
                )
                for layer in range(runner.weights.n_layers)
            ]
        except AttributeError as error:
            raise BadModel(f"{runner.weights.name} is loaded without a module that its family has: {error}") from error

    def run(
        self,
        ids: Int[np.ndarray, "windows length"],
        counted: Bool[np.ndarray, "windows length"],
        layers: list[int],
        see: Callable[[int, Float[Tensor, "windows heads length length"]], None],
        scaled: Callable[[str, int, Float[np.ndarray, " n_counted"]], None],
    ) -> None:
        """One forward pass. ``see`` is called with each of ``layers`` and its pattern, ``scaled`` with ``in`` or
        ``out``, the layer and 1 / sigma of the norm before its attention or behind it at the counted positions, in
        order, float64; without such a norm it is not called."""
        mask: Bool[Tensor, "windows length"] = torch.from_numpy(counted).to(self.runner.device)
        hooks: list[tuple[nn.Module, Callable]] = []

        def at_norm(name: str, layer: int) -> Callable:
            def hook(x: Tensor, _: Any) -> None:
                scaled(name, layer, (1 / self.runner.sigma(x[mask])).double().flatten().cpu().numpy())

            return hook

        def at_pattern(layer: int) -> Callable:
            def hook(_: Any, output: Any) -> None:
                pattern = output if isinstance(output, Tensor) else output[1]
                if not isinstance(pattern, Tensor) or pattern.dim() != 4:
                    raise BadModel(
                        f"{self.runner.weights.name} does not tell what its heads attend to (layer {layer}), even "
                        "where attention is computed eagerly; observe with --no-heads"
                    )
                see(layer, pattern)

            return hook

        for layer in layers:
            sites = self.layers[layer]
            # TransformerLens' models have the pattern in a module of its own
            hooks.append((getattr(sites.attention, "hook_pattern", sites.attention), at_pattern(layer)))
            for name, norm in (("in", sites.norm), ("out", sites.post)):
                if norm is not None:
                    hooks.append((norm, at_norm(name, layer)))
        with eager(self.runner.model), listening(hooks):
            self.runner.run(ids)


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Attention computed so that its pattern is told, for the length of a ``with``; then as it was before."""
    configs = {
        id(config): config for part in model.modules() if hasattr(config := getattr(part, "config", None), _KIND)
    }
    before = {key: getattr(config, _KIND) for key, config in configs.items()}
    try:
        for config in configs.values():
            setattr(config, _KIND, "eager")
        yield
    finally:
        for key, config in configs.items():
            setattr(config, _KIND, before[key])
