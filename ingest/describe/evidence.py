"""Which tokens fire which features alone: every token once behind the model's own BOS, as a sparse table on disk.

One forward pass of ``[BOS, v]`` serves all features of all layers, so what takes a published method one pass a
candidate (WeightLens, arXiv 2510.14936) becomes a look-up, exact and independent of order. ::

    evidence-HASH/
      manifest.json              what it is of; written last
      LLL-NNNNNNNNN.parquet      one layer, tokens from the Nth tried on: columns token int32, feature int32 (in its
                                 layer), activation float32, sorted by (token, feature)

A part is written beside and renamed: whatever ends a run, the parts that are there stay, and the next run goes on
behind them. Layers are taken in groups whose encoders fit in memory; each group costs its own passes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from atlas.errors import BadModel
from atlas.stores import Progress
from ingest.describe.forward import on_device
from ingest.evidence.capture import Runner, listening
from ingest.parts import disk
from ingest.transcoder import Transcoder, TranscoderSource

_COLUMNS = pa.schema([("token", pa.int32()), ("feature", pa.int32()), ("activation", pa.float32())])
_PART = 8192
"""tokens of one file"""
_CELLS = 1 << 24
"""activations of one pass and layer, dense"""
_ENCODERS = 2 << 30
"""bytes of encoders held at once"""


@dataclass(frozen=True)
class Evidence:
    """A finished table."""

    path: Path
    layers: list[int]
    n_features: list[int]
    n_vocab: int
    tokens: np.ndarray
    """which tokens were tried, ascending"""
    passes: int
    """forward passes it took"""

    def layer(self, layer: int) -> csc_array:
        """Activations [n_vocab, n_features] of one layer; columns are features, tokens ascending within each."""
        parts = [pq.read_table(path) for path in sorted(self.path.glob(f"{layer:03}-*.parquet"))]
        table = pa.concat_tables(parts)
        columns = (table["activation"].to_numpy(), (table["token"].to_numpy(), table["feature"].to_numpy()))
        return csr_array(columns, shape=(self.n_vocab, self.n_features[self.layers.index(layer)])).tocsc()


def gather(
    runner: Runner,
    source: TranscoderSource,
    folder: Path,
    *,
    tokens: np.ndarray | None = None,
    prefix: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Run ``[prefix, v]`` for all tokens, or for ``tokens``, and keep what fires on ``v``; a finished table is opened.

    ``prefix`` is the model's own BOS where it is not given. Raises :class:`atlas.errors.BadModel` for a model whose
    tokenizer has none, and :class:`atlas.errors.NoSpace`.
    """
    weights, info = runner.weights, source.info
    prefix = weights.bos_id if prefix is None else prefix
    if prefix is None:
        raise BadModel(
            f"the tokenizer of {weights.name} names no BOS, and a token alone needs one before it; set bos_token in "
            "its tokenizer_config.json"
        )
    if not 0 <= prefix < weights.n_vocab:
        raise BadModel(f"the BOS of {weights.name} is {prefix}, but its embedding has {weights.n_vocab} rows")
    chosen = np.arange(weights.n_vocab) if tokens is None else np.unique(tokens)
    sizes = [info.n_features[layer] for layer in info.layers]
    groups = _groups(info.layers, [size * weights.d_model * 4 for size in sizes])
    passes, done = 0, 0
    for group in groups:
        encoders: list[Transcoder] = []
        step = max(1, _CELLS // max(info.n_features[layer] for layer in group))
        for start in range(0, len(chosen), _PART):
            span = chosen[start : start + _PART]
            batches = [span[first : first + step] for first in range(0, len(span), step)]
            passes += len(batches)
            paths = [folder / f"{layer:03}-{start:09}.parquet" for layer in group]
            if not all(_whole(path) for path in paths):
                encoders = encoders or [on_device(source.load(layer), runner) for layer in group]
                fired = [_fires(runner, source, encoders, batch, prefix) for batch in batches]
                for place, path in enumerate(paths):
                    _write(path, [batch[place] for batch in fired])
            done += len(span)
            if progress:
                progress("trying tokens alone", done, len(chosen) * len(groups))
    about = {"layers": info.layers, "n_features": sizes, "n_vocab": weights.n_vocab, "prefix": prefix, "passes": passes}
    _finish(folder, about)
    return Evidence(folder, info.layers, sizes, weights.n_vocab, chosen, passes)


def _fires(
    runner: Runner, source: TranscoderSource, encoders: list[Transcoder], batch: np.ndarray, prefix: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One pass: (token, feature, activation) of each layer of the group."""
    site = source.info.read
    found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def at(encoder: Transcoder) -> Callable:
        def hook(x: Tensor, normed: Tensor) -> None:
            activations = encoder.encode(runner.read(site, x[:, -1], normed[:, -1]))
            where = activations.nonzero()
            found[encoder.layer] = (
                batch[where[:, 0].cpu().numpy()].astype(np.int32),
                where[:, 1].cpu().numpy().astype(np.int32),
                activations[where[:, 0], where[:, 1]].float().cpu().numpy(),
            )

        return hook

    with listening([(runner.layers[encoder.layer].norm, at(encoder)) for encoder in encoders]):
        runner.run(np.stack([np.full_like(batch, prefix), batch], axis=1).astype(np.int64))
    return [found[encoder.layer] for encoder in encoders]


def _write(path: Path, batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    columns = [pa.array(np.concatenate([batch[column] for batch in batches])) for column in range(3)]
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    with disk(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=_COLUMNS), beside, compression="zstd", compression_level=1)
        beside.replace(path)


def _whole(path: Path) -> bool:
    try:
        return pq.read_metadata(path).num_columns == len(_COLUMNS)
    except (OSError, pa.ArrowException):
        return False


def _finish(folder: Path, about: dict[str, Any]) -> None:
    beside = folder / ".manifest.json"
    beside.write_text(json.dumps(about, sort_keys=True, indent=1) + "\n")
    beside.replace(folder / "manifest.json")


def _groups(layers: list[int], sizes: list[int]) -> list[list[int]]:
    """Layers in order, in groups whose encoders take at most :data:`_ENCODERS` bytes; a larger layer stands alone."""
    groups: list[list[int]] = []
    held = 0
    for layer, size in zip(layers, sizes, strict=True):
        if not groups or held + size > _ENCODERS:
            groups.append([])
            held = 0
        groups[-1].append(layer)
        held += size
    return groups
