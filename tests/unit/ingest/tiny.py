"""A build of the tiny model, and all its weights sorted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from atlas.staging import Build
from ingest import Keep, Rank, build, share
from ingest.folding import Vectors
from ingest.sources.memory import InMemory
from ingest.weights import open_model
from tests.unit.ingest import models

KEEP = Keep(per_layer=2, z=3, tokens=2, features_per_token=4)
KINDS = ("ACTIVATES", "FEEDS", "PROMOTES")


def make(home: Path, *, family: str = "gpt2", keep: Keep = KEEP, **options) -> Build:
    transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
    model = (models.model(family), models.tokenizer())
    return build(model=model, transcoders=transcoders, name="tiny/tc", keep=keep, home=home, **options)


def share_of(rank: Rank, home: Path, **options) -> Build | None:
    """A rank's share of :func:`make`."""
    transcoders = {layer: models.transcoder(layer) for layer in range(models.N_LAYERS)}
    model = (models.model("gpt2"), models.tokenizer())
    return share(rank=rank, model=model, transcoders=transcoders, name="tiny/tc", keep=KEEP, home=home, **options)


def write_both(folder: Path) -> tuple[str, str]:
    """The places of a model and of its transcoders, as files."""
    models.model("llama").save_pretrained(folder / "model")
    models.tokenizer().save_pretrained(folder / "model")
    models.write_circuit_tracer(folder / "set", [models.transcoder(layer) for layer in range(models.N_LAYERS)])
    return str(folder / "model"), str(folder / "set")


class Dense:
    """Every weight of the tiny model, and what is kept of it, the slow way."""

    def __init__(self, keep: Keep) -> None:
        source = InMemory({layer: models.transcoder(layer) for layer in range(models.N_LAYERS)})
        vectors = Vectors(open_model((models.model("gpt2"), models.tokenizer())), source)
        of = {
            name: [getattr(vectors, name)(layer).double().numpy() for layer in range(3)] for name in ("reads", "writes")
        }
        tokens, logits = vectors.token_writes().double().numpy(), vectors.logit_reads().double().numpy()
        reads, writes = np.concatenate(of["reads"]), np.concatenate(of["writes"])
        self.layer = np.repeat(np.arange(3), models.N_FEATURES)
        before = self.layer[:, None] < self.layer[None, :]
        self.weights = {
            "ACTIVATES": tokens @ reads.T,
            "FEEDS": np.where(before, writes @ reads.T, 0),
            "PROMOTES": writes @ logits.T,
        }
        into_logits = np.abs(tokens @ logits.T).sum(axis=0) + np.abs(self.weights["PROMOTES"]).sum(axis=0)
        into_features = sum(np.abs(self.weights[kind]).sum(axis=0) for kind in ("ACTIVATES", "FEEDS"))
        self.total = {"ACTIVATES": into_features, "FEEDS": into_features, "PROMOTES": into_logits}
        self.stored = {kind: weights.astype(np.float32) for kind, weights in self.weights.items()}
        self.z = {kind: self._z(kind) for kind in self.weights}
        self.kept = {"FEEDS": self._feeds(keep)}
        self.kept["ACTIVATES"] = self._tokens(self.stored["ACTIVATES"], keep)
        self.kept["PROMOTES"] = self._tokens(self.stored["PROMOTES"].T, keep).T

    def _z(self, kind: str) -> np.ndarray:
        weights, stored = self.weights[kind], self.stored[kind].astype(float)
        if kind == "PROMOTES":
            return (stored - weights.mean(axis=1, keepdims=True)) / weights.std(axis=1, keepdims=True)
        if kind == "ACTIVATES":
            return (stored - weights.mean(axis=0)) / weights.std(axis=0)
        z = np.zeros_like(weights)
        for source in range(3):
            rows, later = self.layer == source, self.layer > source
            part = weights[np.ix_(rows, later)]
            z[np.ix_(rows, later)] = (stored[np.ix_(rows, later)] - part.mean(axis=0)) / part.std(axis=0)
        return z

    def _feeds(self, keep: Keep) -> np.ndarray:
        size, far = np.abs(self.stored["FEEDS"]), np.abs(self.z["FEEDS"])
        kept = np.zeros(size.shape, bool)
        for layer in range(3):
            inside = self.layer == layer
            kept |= strongest(np.where(inside[:, None], size, 0), keep.per_layer)
            kept |= strongest(np.where(inside[None, :], size, 0).T, keep.per_layer).T
        return kept | strongest(far, keep.z) | strongest(far.T, keep.z).T

    def _tokens(self, weights: np.ndarray, keep: Keep) -> np.ndarray:
        """``weights`` [n_vocab, n_features]."""
        kept = strongest(weights.clip(min=0), keep.tokens) | strongest((-weights).clip(min=0), keep.tokens)
        return kept | strongest(np.abs(weights).T, keep.features_per_token).T


def strongest(scores: np.ndarray, n: int) -> np.ndarray:
    """The ``n`` largest positive entries of each column."""
    order = np.argsort(-scores, axis=0, kind="stable")
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, order[:n], True, axis=0)
    return kept & (scores > 0)


def edges(build: Build, kind: str) -> dict[tuple[int, int], tuple[float, float, float]]:
    found = {}
    for table in build.edges(kind):
        rows = zip(*(table[name].to_pylist() for name in ("source", "target", "weight", "z", "share")), strict=True)
        found |= {(source, target): rest for source, target, *rest in rows}
    return found
