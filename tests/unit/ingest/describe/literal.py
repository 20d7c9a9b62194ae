"""WeightLens by the text of its paper's public description, one feature and one forward pass at a time, float32
throughout.

Nothing here is shared with :mod:`ingest.describe`: one loop a step, so that a reader can hold it against the steps
A to F. Scores come with a margin (distance of z from its threshold), so that comparisons can leave out what
rounding decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

NOTHING = object()


class Literal:
    """``activation(ids, layer, feature) -> list of floats`` runs the model on exactly these ids and reads one
    feature."""

    def __init__(self, embedding, unembedding, layers, tokenizer, activation, name, token_z=5.5, feature_z=4.0) -> None:
        self.embedding, self.unembedding, self.layers = embedding, unembedding, layers  # layers: [(w_enc, w_dec)]
        self.tokenizer, self.activation, self.name = tokenizer, activation, name
        self.token_z, self.feature_z = token_z, feature_z
        self.margin: dict[tuple[int, int], float] = {}
        self.done: dict[tuple[int, int], dict[str, Any]] = {}
        self.passes = 0

    def feature(self, layer: int, idx: int) -> dict[str, Any]:
        if (layer, idx) not in self.done:
            self.done[layer, idx] = self._feature(layer, idx)
        return self.done[layer, idx]

    def outliers(self, scores, k, threshold, largest, owner):
        values, indices = torch.topk(scores, k, largest=largest)
        z = (values - values.mean()) / values.std()
        out = z > threshold if largest else z < -threshold
        gap = float((z.abs() - threshold).abs().min())
        self.margin[owner] = min(self.margin.get(owner, 9.0), gap)
        return indices[out].tolist(), values[out].tolist()

    def run(self, ids, layer, idx):
        self.passes += 1
        return self.activation(ids, layer, idx)

    def together(self, strings, layer, idx):
        ids = [self.tokenizer(text).input_ids[-1] for text in strings]
        start = [2] if "gemma" in self.name else [] if "gpt" in self.name else [128000]
        return self.run(start + ids, layer, idx)[len(start) :]

    def _feature(self, layer: int, idx: int) -> dict[str, Any]:
        w_enc, w_dec = self.layers[layer]
        e, u, owner = w_enc[idx], w_dec[idx], (layer, idx)
        scores = self.embedding @ e
        top, top_by = self.outliers(scores, 1000, self.token_z, True, owner)
        low, low_by = self.outliers(scores, 1000, self.token_z, False, owner)
        acts = [self.run([2, token], layer, idx)[-1] for token in top]
        logits = self.unembedding @ u
        promoted, _ = self.outliers(logits, 1000, self.token_z, True, owner)
        suppressed, _ = self.outliers(logits, 1000, self.token_z, False, owner)
        total = float(scores.abs().sum())
        kept = []
        for earlier in range(layer):
            c = self.layers[earlier][1] @ e
            total += float(c.abs().sum())
            kept += [(earlier, i, s) for i, s in zip(*self.outliers(c, 100, self.feature_z, True, owner), strict=True)]
        kept.sort(key=lambda entry: abs(entry[2]) / total, reverse=True)
        decode = self.tokenizer.decode
        soft = [decode(t).rstrip("\0") for t, a in zip(top, acts, strict=True) if a > 0]
        firm = list(soft)
        for earlier, i, _ in kept:
            if "gpt" in self.name and earlier != 0:
                continue
            said = self.feature(earlier, i)["description"]
            if said is None:
                continue
            soft += said
            firm += [text for text, a in zip(said, self.together(said, layer, idx), strict=True) if a > 0]
        validation = False
        if firm:
            firm, soft = sorted(set(firm)), sorted(set(soft))
            validation = sum(self.together(firm, layer, idx)) > 0
        share = 0.0
        if soft:
            fired = self.together(soft, layer, idx)
            share = sum(a > 0 for a in fired) / len(fired)

        def relative32(by: list[float]) -> list[float]:
            return (torch.tensor(by, dtype=torch.float32).abs() / total).tolist()

        rels = [abs(s) / total for _, _, s in kept]
        return {
            "feature": {"layer": layer, "feature_idx": idx},
            "embedding": {
                "top_positive_tokens": [decode(t) for t in top],
                "top_negative_tokens": [decode(t) for t in low],
                "positive_tokens_activation": acts,
                "top_positive_token_ids": top,
                "top_positive_tokens_contribution": top_by,
                "top_negative_tokens_ids": low,
                "top_negative_tokens_contribution": low_by,
                "top_positive_tokens_relative_contribution": relative32(top_by),
                "top_negative_tokens_relative_contribution": relative32(low_by),
            },
            "output_logits": {
                "top_positive_tokens": [decode(t) for t in promoted],
                "top_negative_tokens": [decode(t) for t in suppressed],
            },
            "feature_to_feature_contributions": [
                {"from_layer": la, "from_feature_idx": i, "contribution": s, "relative_contribution": r}
                for (la, i, s), r in zip(kept, rels, strict=True)
            ],
            "total_input_invariant_detected_contribution": sum(relative32(top_by)) + sum(rels),
            "total_input_invariant_contribution": total,
            "description_soft": soft or None,
            "description": firm or None,
            "validation": validation,
            "validation_soft": share,
        }


def differences(found: Any, expected: Any, path: str = "") -> list[str]:
    """Where two records differ: structure and words exactly, numbers by 1e-5 of their size."""
    if isinstance(expected, dict):
        if list(found) != list(expected):
            return [f"{path}: names {list(found)} != {list(expected)}"]
        return [d for name in expected for d in differences(found[name], expected[name], f"{path}/{name}")]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{path}: {len(found)} entries, expected {len(expected)}"]
        return [
            d for i, (a, b) in enumerate(zip(found, expected, strict=True)) for d in differences(a, b, f"{path}/{i}")
        ]
    if isinstance(expected, float):
        # Another batch shape rounds a sum of terms of size 1 to 1e-6; activations near their threshold are such sums.
        close = np.isclose(found, expected, rtol=1e-5, atol=2e-6 if "activation" in path else 0)
        return [] if close and isinstance(found, float) else [f"{path}: {found!r} != {expected!r}"]
    return [] if type(found) is type(expected) and found == expected else [f"{path}: {found!r} != {expected!r}"]
