"""What is said of a toy build: a run of descriptions, and WeightLens' records as the original writes them."""

from __future__ import annotations

from typing import Any

from atlas import descriptions
from atlas.descriptions.staging import Staging, scores, texts
from atlas.provenance import Run
from tests.toy import Toy


def say(made: Toy, method: str, said: dict[int, str], about: str = "") -> descriptions.Descriptions:
    staging = Staging(
        made.build, method, Run({"build": made.run}, {"method": method, "about": about, "said": str(said)})
    )
    rows = [(feature, text, scores(confidence=0.5)) for feature, text in sorted(said.items())]
    table = texts(rows, "a test")
    return staging.finish(table, table.select(["feature"]), {})


def record(
    toy: Toy, layer: int, idx: int, said: list[str] | None = None, tokens: tuple[int, ...] = (1, 2)
) -> dict[str, Any]:
    texts = [toy.nodes["Token"][token]["text"] for token in tokens]
    return {
        "feature": {"layer": layer, "feature_idx": idx},
        "embedding": {
            "top_positive_tokens": texts,
            "top_negative_tokens": [],
            "positive_tokens_activation": [2.5 + i for i in range(len(tokens))],
            "top_positive_token_ids": list(tokens),
            "top_positive_tokens_contribution": [22.875 for _ in tokens],
            "top_negative_tokens_ids": [],
            "top_negative_tokens_contribution": [],
            "top_positive_tokens_relative_contribution": [3.524e-05 for _ in tokens],
            "top_negative_tokens_relative_contribution": [],
        },
        "output_logits": {"top_positive_tokens": [" the", "é\u0000"], "top_negative_tokens": []},
        "feature_to_feature_contributions": [
            {"from_layer": 0, "from_feature_idx": 3, "contribution": 0.7266, "relative_contribution": 3.3e-07}
        ],
        "total_input_invariant_detected_contribution": 7.05e-05,
        "total_input_invariant_contribution": 2185000.0,
        "description_soft": said,
        "description": said,
        "validation": said is not None,
        "validation_soft": 0.0 if said is None else 1.0,
    }
