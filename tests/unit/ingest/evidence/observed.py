"""A tiny random model with a staged build of it, and a text of random ids; and the dense truth about that text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import ingest
from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence.corpus import Request
from ingest.evidence.relations import ALWAYS_ON, LIVE_DENSITY, LIVE_FIRES
from ingest.evidence.subject import Subject, open_subject
from ingest.folding import Vectors
from tests.unit.ingest import models

KEEP = ingest.Keep(per_layer=2, z=2, tokens=2, features_per_token=2)
N_WINDOWS, LENGTH = 40, 15
STRONGEST = 3
"""how many of each target's sources by drive and by TWERA an atlas for questions keeps"""
EDGES = """
MATCH (a:Feature)-[e:FEEDS]->(b:Feature)
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.z AS z, e.share AS share,
  e.drive_active AS drive, e.twera AS twera,
  e.n_both AS coactivation
"""


def subject(
    home: Path,
    family: str = "gpt2",
    *,
    activation: Activation = Activation.RELU,
    read: ReadSite,
    write: WriteSite,
    heads: int = 0,
) -> Subject:
    """A model in float64, its transcoders and a build of them that keeps little; edges through heads if asked for.

    In float64 another batch rounds no activation differently that is kept in float32: what is compared are the sums.
    """
    pair = models.model(family, dtype=torch.float64), models.tokenizer()
    source = models.transcoders(read, write, activation=activation, dtype=torch.float64)
    layers = {layer: source.load(layer) for layer in source.info.layers}
    keep = replace(KEEP, heads=heads)
    build = ingest.build(model=pair, transcoders=layers, name="tiny/tc-test", keep=keep, device="cpu", home=home)
    return open_subject(build, pair, layers)


def ids_file(folder: Path, seed: int = 0) -> Request:
    """Random windows that begin with BOS; some hold another BOS, some end in padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, models.N_VOCAB - 2, (N_WINDOWS, LENGTH))
    ids[:, 0] = 0
    ids[3, 7] = 0
    ids[5, 9:] = -1
    path = folder / f"windows-{seed}.npy"
    np.save(path, ids)
    return Request(ids=str(path))


@dataclass(frozen=True)
class Dense:
    """All activations of a text at its counted positions, and what follows from them by the book."""

    a: np.ndarray
    token: np.ndarray
    inverse_in: np.ndarray
    """E[1 / sigma] by layer"""
    inverse_out: np.ndarray
    inverse_final: float
    weights: np.ndarray
    """[n_features, n_features], source by target"""
    layer: np.ndarray

    @property
    def live(self) -> np.ndarray:
        n = (self.a > 0).sum(0)
        return (n >= LIVE_FIRES) & (n > LIVE_DENSITY * len(self.a))

    def edge(self, i: int, j: int, weight: float) -> dict[str, float]:
        """Evidence of one edge, one line a statistic."""
        a_i, a_j, n = self.a[:, i], self.a[:, j], len(self.a)
        scale = self.inverse_in[self.layer[j]] * self.inverse_out[self.layer[i]]
        both = ((a_i > 0) & (a_j > 0)).sum()
        return {
            "n_both": both,
            "lift": n * both / ((a_i > 0).sum() * (a_j > 0).sum()) if a_i.any() and a_j.any() else None,
            "drive_active": weight * a_i[a_i > 0].mean() * scale if a_i.any() else None,
            "drive_mean": weight * a_i.mean() * scale,
            "era": weight * (a_i * (a_j > 0)).mean(),
            "twera": weight * (a_i * a_j).mean() / a_j.mean() if a_j.any() else None,
        }

    def feature(self, j: int) -> dict[str, object]:
        a, n = self.a[:, j], len(self.a)
        fires = a[a > 0]
        return {
            "n_fires": len(fires),
            "density": len(fires) / n,
            "mean_active": fires.mean() if len(fires) else None,
            "mean": a.mean(),
            "max_active": fires.max() if len(fires) else None,
            "inv_sigma": self.inverse_in[self.layer[j]],
            "live": bool(self.live[j]),
            "always_on": len(fires) / n > ALWAYS_ON,
        }


def dense(subject: Subject, request: Request) -> Dense:
    """One window at a time, by the library's own hidden states and nothing of ingest.evidence."""
    model, info = subject.runner.model, subject.source.info
    ids = np.load(str(request.ids))
    norms, mlps = modules(model, subject.weights.family)
    caught: dict[str, torch.Tensor] = {}
    for layer, (norm, post) in enumerate(zip(norms, mlps, strict=True)):
        norm.register_forward_hook(lambda _, x, y, layer=layer: caught.update({f"x{layer}": x[0], f"n{layer}": y}))
        if post is not None:
            post.register_forward_hook(lambda _, x, y, layer=layer: caught.update({f"p{layer}": x[0]}))
    final = model.transformer.ln_f if subject.weights.family == "gpt2" else model.model.norm
    final.register_forward_hook(lambda _, x, y: caught.update({"final": x[0]}))
    layer_norm, eps = subject.weights.family == "gpt2", subject.weights.eps

    def sigma(x: torch.Tensor) -> torch.Tensor:
        return ((x.var(-1, unbiased=False) if layer_norm else x.pow(2).mean(-1)) + eps).sqrt()

    rows, tokens = [], []
    sums = {name: [] for name in ("in", "out", "final")}
    for row in ids:
        row = row[row >= 0]
        with torch.no_grad():
            model(torch.tensor(row)[None])
        at = row != 0
        parts, inverse_in, inverse_out = [], [], []
        for layer in info.layers:
            x, normed = caught[f"x{layer}"][0, at], caught[f"n{layer}"][0, at]
            s = sigma(x)
            read = {
                ReadSite.RESID_MID: x,
                ReadSite.NORM_POST_GAIN: normed,
                ReadSite.NORM_PRE_GAIN: (x - x.mean(-1, keepdim=True) * layer_norm) / s[:, None],
                ReadSite.RESID_MID_CENTRED: x - x.mean(-1, keepdim=True),
            }[info.read]
            parts.append(subject.source.load(layer).encode(read))
            normed_reader = info.read in (ReadSite.NORM_POST_GAIN, ReadSite.NORM_PRE_GAIN)
            inverse_in.append((1 / s).double() if normed_reader else torch.ones(len(s)).double())
            behind = f"p{layer}" in caught and info.write is not WriteSite.MLP_POST_NORM
            inverse_out.append(
                (1 / sigma(caught[f"p{layer}"][0, at])).double() if behind else torch.ones(len(s)).double()
            )
        rows.append(torch.cat(parts, 1).double().numpy())
        tokens.append(row[at])
        sums["in"].append(torch.stack(inverse_in, 1))
        sums["out"].append(torch.stack(inverse_out, 1))
        sums["final"].append((1 / sigma(caught["final"][0, at])).double())
    mean = {name: torch.cat(parts).mean(0).numpy() for name, parts in sums.items()}
    vectors = Vectors(subject.weights, subject.source, dtype=torch.float64)
    layer = np.repeat(np.arange(len(info.layers)), subject.shape_of)
    writes = torch.cat([vectors.writes(at) for at in info.layers])
    reads = torch.cat([vectors.reads(at) for at in info.layers])
    weights = (writes @ reads.T).numpy() * (layer[:, None] < layer[None, :])
    return Dense(
        np.concatenate(rows), np.concatenate(tokens), mean["in"], mean["out"], float(mean["final"]), weights, layer
    )


def modules(model: torch.nn.Module, family: str) -> tuple[list, list]:
    """Norms before and behind the MLPs."""
    if family == "gpt2":
        return [block.ln_2 for block in model.transformer.h], [None] * models.N_LAYERS
    if family == "gemma2":
        blocks = model.model.layers
        return [b.pre_feedforward_layernorm for b in blocks], [b.post_feedforward_layernorm for b in blocks]
    return [block.post_attention_layernorm for block in model.model.layers], [None] * models.N_LAYERS


def busiest(subject: Subject, truth: Dense) -> tuple[str, int]:
    """A feature of the last layer that fires often: its key and its row."""
    row = int(np.argmax((truth.a > 0).sum(0) * (truth.layer == 2)))
    return subject.build.keys("Feature")[row].as_py(), row


def signed_edges(table: pd.DataFrame, by: str) -> dict[tuple[str, str], float]:
    """What is defined of some connections, and not 0, with the signs of their weights."""
    sizes = {(e.source, e.target): float(np.copysign(abs(getattr(e, by)), e.weight)) for e in table.itertuples()}
    return {ends: size for ends, size in sizes.items() if abs(size) > 0}
