"""The frozen model of :mod:`tests.unit.ingest.frozen`, in which a set's skips stand beside the MLPs, and a source may
write at several layers at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from atlas.model import WriteSite
from ingest.transcoder import TranscoderSource
from tests.unit.ingest.frozen import Frozen, Values, one_head


class Replaced(Frozen):
    """A frozen model whose changes run through the skips of ``source``, where ``through_skips``.

    The clean run is that of ``frozen``: a set beside the MLPs changes nothing of it.
    """

    def __init__(self, frozen: Frozen, source: TranscoderSource, through_skips: bool) -> None:
        vars(self).update(vars(frozen))
        self.source = source
        self.skips = {layer: source.load(layer).w_skip for layer in source.info.layers} if through_skips else {}

    def change(
        self,
        embedding: Tensor | None,
        writes: Mapping[int, Tensor],
        position: int,
        head: tuple[int, int] | None = None,
        to: int = 0,
    ) -> Values:
        """Run with changes [batch, d_model] at a position: of the embedding, and at the write site of some layers.

        With ``head`` (layer, number), that one is open and attends from ``to`` to the position alone.
        """
        given = [change for change in (embedding, *writes.values()) if change is not None]
        batch, d_model = given[0].shape
        info = self.source.info

        def put(change: Tensor) -> Tensor:
            placed = torch.zeros(batch, self.ids.shape[1], d_model, dtype=change.dtype)
            placed[:, position] = change
            return placed

        def hooks(values: Values) -> list[tuple[nn.Module, Callable]]:
            found = self._recorders(values, held=self.clean)
            if embedding is not None:
                found.append((self.embedding, lambda module, inputs, output: output + put(embedding)))
            for layer in range(len(self.blocks)):
                behind = info.write is WriteSite.MLP_POST_NORM
                name = self.anatomy.post_mlp if behind else "mlp"
                module = self.blocks[layer].get_submodule(name or "")
                found.append((module, self._adding(layer, values, put(writes[layer]) if layer in writes else None)))
            return found

        with one_head(self, head, position, to) if head else nullcontext():
            return self._run(batch, hooks)

    def _adding(self, layer: int, values: Values, change: Tensor | None) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            added = torch.zeros_like(output) if change is None else change
            w_skip = self.skips.get(layer)
            if w_skip is not None:
                read = self.source.info.read
                moved = self.site(values, layer, read) - self.site(self.clean, layer, read)
                added = added + moved @ w_skip.T
            if self.source.info.write is WriteSite.MLP_RAW_CENTRED:
                added = added - added.mean(-1, keepdim=True)
            return output + added

        return hook
