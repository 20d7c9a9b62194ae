"""Activations of chosen features on many short sequences, batched; every forward pass is counted.

Sequences of different lengths share a pass, the shorter padded behind their end, where a causal model cannot see
it. A pass ends at the layer that is asked about. Sums of another batch shape round differently, so a pre-activation
that lies within :data:`CLOSE` of its threshold is not decided by the batch: its sequence is run again, alone.
Decisions are therefore those of one pass a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ingest.evidence.capture import Runner, listening
from ingest.evidence.corpus import PADDING
from ingest.transcoder import Transcoder, TranscoderSource

CLOSE = 1e-4
"""distance from a threshold, relative to the size of the pre-activation or 1, below which a sequence is run alone"""
_POSITIONS = 4096
"""positions of one pass"""
_PAIRS = 1 << 18


class _Enough(Exception):
    """The layer that was asked about has been reached."""


@dataclass(frozen=True)
class Probes:
    """Single readings: activation of ``feature`` at ``position`` of sequence ``sequence``."""

    sequence: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    feature: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.sequence)


@dataclass
class Passes:
    """A model and a set of transcoders to read from it."""

    runner: Runner
    source: TranscoderSource
    count: int = 0
    """forward passes so far"""
    _held: Transcoder | None = field(default=None, repr=False)

    @property
    def context(self) -> int | None:
        """The longest sequence the model takes; None where positions are not learned."""
        positions = self.runner.weights.positions
        return None if positions is None else len(positions)

    def activations(self, layer: int, sequences: Sequence[Sequence[int]], probes: Probes) -> Float[np.ndarray, " n"]:
        """What each probe reads, float32; 0 where the feature does not fire."""
        encoder = self.encoder(layer)
        found = np.zeros(len(probes), np.float32)
        order = np.argsort(probes.sequence, kind="stable")
        starts = np.searchsorted(probes.sequence[order], np.arange(len(sequences) + 1))
        for batch in _batches(sequences):
            chosen = np.concatenate([order[starts[s] : starts[s + 1]] for s in batch] or [np.empty(0, np.int64)])
            if not len(chosen):
                continue
            row_of = {s: row for row, s in enumerate(batch)}
            rows = np.asarray([row_of[s] for s in probes.sequence[chosen].tolist()])
            values, margins = self._read(
                layer, encoder, [sequences[s] for s in batch], rows, probes.position[chosen], probes.feature[chosen]
            )
            if len(batch) > 1:
                self._settle(layer, encoder, sequences, probes, chosen[margins < CLOSE], found)
                values = np.where(margins < CLOSE, found[chosen], values)
            found[chosen] = values
        return found

    def encoder(self, layer: int) -> Transcoder:
        """One layer's encoder on the model's device; the last one asked for is kept."""
        if self._held is None or self._held.layer != layer:
            self._held = on_device(self.source.load(layer), self.runner)
        return self._held

    def _settle(
        self, layer: int, encoder: Transcoder, sequences: Sequence, probes: Probes, close: np.ndarray, found: np.ndarray
    ) -> None:
        """Read the close calls again, each sequence by itself."""
        for sequence in np.unique(probes.sequence[close]).tolist():
            mine = close[probes.sequence[close] == sequence]
            values, _ = self._read(
                layer,
                encoder,
                [sequences[sequence]],
                np.zeros(len(mine), np.int64),
                probes.position[mine],
                probes.feature[mine],
            )
            found[mine] = values

    def _read(
        self,
        layer: int,
        encoder: Transcoder,
        batch: list[Any],
        rows: np.ndarray,
        positions: np.ndarray,
        features: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Activations, and how far each pre-activation lies from its threshold, relative to its size or 1."""
        ids = np.full((len(batch), max(map(len, batch))), PADDING, np.int64)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = sequence
        places, place = np.unique(rows * ids.shape[1] + positions, return_inverse=True)
        x = self._inputs(layer, ids, places)
        values, margins = [], []
        for start in range(0, len(features), _PAIRS):
            span = slice(start, start + _PAIRS)
            at = torch.from_numpy(place[span]).to(x.device)
            value, margin = _pairs(encoder, x, at, torch.from_numpy(features[span].astype(np.int64)).to(x.device))
            values.append(value.float().cpu().numpy())
            margins.append(margin.float().cpu().numpy())
        return np.concatenate(values), np.concatenate(margins)

    def _inputs(self, layer: int, ids: np.ndarray, places: np.ndarray) -> Float[Tensor, "n_places d_in"]:
        """What the layer's transcoder reads at flat places of ``ids``."""
        site, runner = self.source.info.read, self.runner
        kept: list[Tensor] = []
        index = torch.from_numpy(places).to(runner.device)

        def hook(x: Tensor, normed: Tensor) -> None:
            kept.append(runner.read(site, x.flatten(0, 1)[index], normed.flatten(0, 1)[index]))
            raise _Enough

        self.count += 1
        with listening([(runner.layers[layer].norm, hook)]):
            try:
                runner.run(ids)
            except _Enough:
                return kept[0]
        raise AssertionError(f"the pass ended without reaching layer {layer}")


def on_device(transcoder: Transcoder, runner: Runner) -> Transcoder:
    """The encoder of a layer where the model is; its decoder, which is never read here, takes no memory."""
    small = transcoder.w_dec.new_zeros(1, 1).expand(transcoder.w_dec.shape)
    moved = {
        name: value.to(runner.device, runner.dtype)
        for name, value in vars(transcoder).items()
        if isinstance(value, Tensor) and name != "w_dec"
    }
    return replace(transcoder, w_dec=small, **moved)


def _pairs(
    encoder: Transcoder, x: Float[Tensor, "n_places d_in"], at: Int[Tensor, " n"], feature: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    if encoder.k is not None:  # which features are among the k largest takes all of them
        p = x @ encoder.w_enc.T + encoder.b_enc
        kth = p.topk(encoder.k, dim=-1).values[:, -1]
        value = encoder.encode(x)[at, feature]
        pre = p[at, feature]
        threshold = kth[at].clamp(min=0)
    else:
        pre = (x[at] * encoder.w_enc[feature]).sum(dim=-1) + encoder.b_enc[feature]
        threshold = torch.zeros_like(pre) if encoder.threshold is None else encoder.threshold[feature]
        value = torch.where(pre > threshold, pre, 0.0)
        value = torch.relu(value) if encoder.threshold is None else value
    return value, (pre - threshold).abs() / pre.abs().clamp(min=1)


def _batches(sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of sequences that share a pass: of like lengths, :data:`_POSITIONS` positions with their padding."""
    batch: list[int] = []
    for number in sorted(range(len(sequences)), key=lambda n: (len(sequences[n]), n)):
        if batch and (len(batch) + 1) * len(sequences[number]) > _POSITIONS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
