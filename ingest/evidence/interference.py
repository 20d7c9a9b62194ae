"""How many of the strongest weights join features that never fire together, and how far orders by weight and by
evidence agree. Over live targets and all live earlier features, kept or not.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from ingest.evidence.counting import Sums
from ingest.evidence.relations import Relations

STRONGEST = 32
"""of a target's weights: which share never fires together"""
TOP = 20
"""of a target's sources, by each order: how many two orders have in common"""
ORDERS = ("weight", "z", "drive", "twera")


class Interference:
    """Figures gathered block by block."""

    def __init__(self, relations: Relations) -> None:
        self.relations = relations
        self.never: dict[int, list[float]] = {}
        self.common: dict[tuple[str, str], list[float]] = {pair: [] for pair in combinations(ORDERS, 2)}
        self.negative: dict[str, list[float]] = {order: [] for order in ORDERS}

    def add(self, sums: Sums, sample: int = 8) -> None:
        """Every ``sample``-th live target of a block."""
        relations, first = self.relations, self.relations.shape.first
        for t in range(1, len(first) - 1):
            live = [row for row in sums.rows if first[t] <= row < first[t + 1] and relations.live[row]]
            rows = np.asarray([row for row in live if row % sample == 0])
            if not len(rows):
                continue
            alive = np.nonzero(relations.live[: first[t]])[0]
            weights = relations.weights_into(t, rows)
            z = np.empty_like(weights)
            for s in range(t):
                span = slice(int(first[s]), int(first[s + 1]))
                part = weights[:, span]
                z[:, span] = (part - part.mean(1, keepdims=True)) / np.maximum(part.std(1, keepdims=True), 1e-30)
            strength = (relations.mean_active * relations.inv_out)[: first[t]]
            for at, row in enumerate(rows.tolist()):
                n_both = sums.pairs(alive, np.full(len(alive), row))[0]
                weight = weights[at, alive]
                scores = {
                    "weight": weight,
                    "z": z[at, alive],
                    "drive": weight * strength[alive],
                    "twera": weight * sums.products(row)[alive],
                }
                order = {name: np.argsort(-np.abs(score), kind="stable") for name, score in scores.items()}
                self.never.setdefault(t, []).append(float((n_both[order["weight"][:STRONGEST]] == 0).mean()))
                top = {name: found[:TOP] for name, found in order.items()}
                for a, b in self.common:
                    self.common[a, b].append(len(np.intersect1d(top[a], top[b])) / min(TOP, len(alive)))
                for name, found in top.items():
                    self.negative[name].append(float((weight[found] < 0).mean()))

    def figures(self) -> dict[str, Any]:
        """Means over targets: ``never_together`` by layer of the target and over ``all``, ``common``, ``negative``."""
        layers = self.relations.vectors.layers
        never = {str(layers[t]): float(np.mean(found)) for t, found in sorted(self.never.items())}
        every = [share for found in self.never.values() for share in found]
        return {
            "targets": len(every),
            "never_together": never | ({"all": float(np.mean(every))} if every else {}),
            "common": {f"{a} and {b}": float(np.mean(found)) for (a, b), found in self.common.items() if found},
            "negative": {name: float(np.mean(found)) for name, found in self.negative.items() if found},
        }
