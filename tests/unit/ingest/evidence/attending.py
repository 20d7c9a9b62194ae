"""The dense truth about a text and the heads of a tiny model: the library's own patterns, one window at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.evidence.corpus import Request
from ingest.evidence.subject import Subject
from tests.unit.ingest import models
from tests.unit.ingest.evidence.observed import Dense

FAMILIES = {
    "gpt2": ("transformer", "h", "ln_1", None),
    "llama": ("model", "layers", "input_layernorm", None),
    "gemma2": ("model", "layers", "input_layernorm", "post_attention_layernorm"),
}


@dataclass(frozen=True)
class Heads:
    """At the counted positions of a text, N of them, in the order of :class:`Dense`."""

    pattern: np.ndarray
    """[layer, head, N, N]: what each position attends to; nothing between windows"""
    inverse_in: np.ndarray
    """[layer, N]: 1 / sigma before attention"""
    inverse_out: np.ndarray
    """behind it; ones where there is no norm"""


def attending(subject: Subject, request: Request) -> Heads:
    """By the library's ``output_attentions`` and its own hidden states; nothing of ingest.evidence."""
    model, family = subject.runner.model, subject.weights.family
    base, blocks, before, behind = FAMILIES[family]
    norms: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    for layer, block in enumerate(getattr(getattr(model, base), blocks)):
        for name, part in (("in", before), ("out", behind)):
            if part:
                keep = lambda _, x, y, at=(name, layer): norms.update({at: x[0]})  # noqa: E731
                handles.append(getattr(block, part).register_forward_hook(keep))
    kept = model.config._attn_implementation
    model.set_attn_implementation("eager")
    patterns, inverse = [], {"in": [], "out": []}
    for row in np.load(str(request.ids)):
        row = row[row >= 0]
        with torch.no_grad():
            found = getattr(model, base)(torch.tensor(row)[None], output_attentions=True).attentions
        at = np.nonzero(row != 0)[0]
        patterns.append(np.stack([a[0].double().numpy() for a in found])[:, :, at][:, :, :, at])
        for name, sums in inverse.items():
            ones = np.ones(len(at))
            layers = range(models.N_LAYERS)
            sums.append([_inverse(subject, norms[name, n][0, at]) if (name, n) in norms else ones for n in layers])
    model.set_attn_implementation(kept)
    for handle in handles:
        handle.remove()
    n = sum(one.shape[2] for one in patterns)
    whole = np.zeros((*patterns[0].shape[:2], n, n))
    start = 0
    for one in patterns:
        end = start + one.shape[2]
        whole[:, :, start:end, start:end] = one
        start = end
    return Heads(whole, *(np.concatenate([np.array(some) for some in inverse[name]], axis=1) for name in inverse))


def _inverse(subject: Subject, x: torch.Tensor) -> np.ndarray:
    if subject.weights.family == "gpt2":
        x = x - x.mean(-1, keepdim=True)
    return (1 / (x.pow(2).mean(-1) + subject.weights.eps).sqrt()).double().numpy()


def statistics(
    truth: Dense, heads: Heads, kind: str, edge: dict[str, float], layer: int, head: int
) -> dict[str, float | None]:
    """Evidence of one edge through a head, one line a statistic."""
    n, i, j, weight = len(truth.a), int(edge["source"]), int(edge["target"]), edge["weight"]
    source = (truth.token == i).astype(float) if kind == "ACTIVATES_VIA" else truth.a[:, i]
    pattern = heads.pattern[layer, head]
    brought, mass = pattern @ source, pattern @ (source > 0)
    scale = heads.inverse_in[layer].mean() * heads.inverse_out[layer].mean()
    scale *= 1.0 if kind == "ACTIVATES_VIA" else truth.inverse_out[truth.layer[i]]
    scale *= truth.inverse_final if kind == "PROMOTES_VIA" else truth.inverse_in[truth.layer[j]]
    said = dict.fromkeys(("attended", "lift", "era", "twera"))
    said["drive_active"] = weight * source[source > 0].mean() * scale if source.any() else None
    said["drive_mean"] = weight * brought.mean() * scale
    if kind != "PROMOTES_VIA":
        a_j = truth.a[:, j]
        attended = (mass * (a_j > 0)).sum()
        said["attended"] = attended
        said["lift"] = n * attended / (mass.sum() * (a_j > 0).sum()) if mass.sum() and a_j.any() else None
        said["era"] = weight * (brought * (a_j > 0)).mean()
        said["twera"] = weight * (brought * a_j).mean() / a_j.mean() if a_j.any() else None
    return said
