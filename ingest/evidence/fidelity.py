"""Whether a set of transcoders fits its model: explained variance and L0, layer by layer, before anything is counted.

A set that is read at the wrong site or with the wrong norm still gives numbers; it explains nothing of what the MLP
writes. A layer that explains less than nothing is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.model import WriteSite
from ingest.evidence.capture import Runner, listening
from ingest.evidence.corpus import Corpus
from ingest.transcoder import TranscoderSource, predictions

POSITIONS = 8192


@dataclass(frozen=True)
class Fidelity:
    """One layer on a sample of the text."""

    layer: int
    explained: float
    """``1 - sum |y - y_hat|^2 / sum |y - mean(y)|^2`` of what the MLP writes"""
    l0: float
    """features active at a position, on average"""
    positions: int


def fidelity(
    runner: Runner, source: TranscoderSource, corpus: Corpus, bos: int | None, pad: int | None, unlike: int = 1
) -> list[Fidelity]:
    """Each layer's figures on windows spread evenly over the text, :data:`POSITIONS` positions or so."""
    info = source.info
    kept: dict[int, tuple[list[Tensor], list[Tensor]]] = {layer: ([], []) for layer in info.layers}
    mask = torch.empty(0)

    def reads(layer: int) -> Callable:
        def hook(x: Tensor, normed: Tensor) -> None:
            kept[layer][0].append(runner.read(info.read, x[mask], normed[mask]))

        return hook

    def writes(layer: int) -> Callable:
        def hook(_: Tensor, y: Tensor) -> None:
            y = y[mask]
            kept[layer][1].append(y - y.mean(-1, keepdim=True) if info.write is WriteSite.MLP_RAW_CENTRED else y)

        return hook

    hooks = []
    for layer in info.layers:
        sites = runner.layers[layer]
        hooks.append((sites.norm, reads(layer)))
        behind = sites.post if info.write is WriteSite.MLP_POST_NORM and sites.post is not None else sites.mlp
        hooks.append((behind, writes(layer)))
    wanted = max(1, POSITIONS // corpus.longest)
    chosen = np.unique(np.linspace(0, len(corpus) - 1, min(wanted, len(corpus))).round().astype(int))
    with listening(hooks):
        for window in chosen.tolist():
            ids = corpus.windows(window, window + 1)
            mask = torch.from_numpy(corpus.counted(ids, bos, pad, unlike)).to(runner.device)
            runner.run(ids)
    read = {layer: torch.cat(kept[layer][0]) for layer in info.layers}
    return [
        _figures(layer, torch.cat(kept[layer][1]), activations, predicted)
        for layer, activations, predicted in predictions(source, read)
    ]


def _figures(layer: int, y: Tensor, activations: Tensor, predicted: Tensor) -> Fidelity:
    lost = (y - predicted).double().square().sum()
    whole = (y - y.mean(0)).double().square().sum()
    explained = float(1 - lost / whole) if float(whole) > 0 else float("nan")
    return Fidelity(layer, explained, float((activations != 0).double().sum() / max(len(y), 1)), len(y))
