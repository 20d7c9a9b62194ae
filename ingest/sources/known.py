"""What is known of published repositories whose own config is missing or says too little.

A fact here was read off a model card or the loader of the people who published the set; a config in the repository wins
over it, setting by setting. Repositories are told by the last part of their name, so that a downloaded copy is
known too.
"""

from __future__ import annotations

import re
from typing import Any

_QWEN = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out", "activation": "relu"}
_KNOWN: tuple[tuple[str, dict[str, Any]], ...] = (
    # trained by mwhanna; the 14b set has no config.yaml (SAELens reads it like the others)
    (r"^qwen3-(?P<size>[\d.]+b)-transcoders(-lowl0)?$", {**_QWEN, "model_name": "Qwen/Qwen3-{size}"}),
    # the old layout of mntss, with W_dec [d_model, n_features]; read by WeightLens at resid_mid
    (
        r"^skip-transcoder-Llama-3\.2-1B-131k-nobos$",
        {
            "feature_input_hook": "hook_resid_mid",
            "feature_output_hook": "mlp.hook_out",
            "activation": "relu",
            "model_name": "meta-llama/Llama-3.2-1B",
        },
    ),
    # the features of gemma-scope-2b-pt-transcoders: the average L0 of all 26 layers is the same, so labels are shared
    (r"^gemma-scope-transcoders$", {"neuronpedia_set": "gemmascope-transcoder-16k"}),
    # TopK, which neither its weights nor circuit-tracer's own reader tell (the latter runs it as ReLU)
    (r"^crv-8b-instruct-transcoders$", {"activation": "topk", "k": 128}),
)
_TRAINING_LOGS = ("wandb-config.yaml", "wanb-config.yaml")
"""what mwhanna's sets carry beside or instead of a config; the second is a slip of the pen in some of them"""
ALIASES = {
    "gemma": "mwhanna/gemma-scope-transcoders",
    "llama": "mntss/transcoder-Llama-3.2-1B",
}
"""circuit-tracer's short names; they have moved between repositories, so a run records what they meant"""


def config(repo: str, names: list[str]) -> dict[str, Any]:
    """Settings as circuit-tracer's config.yaml has them; empty for a repository that nothing is known of."""
    for pattern, facts in _KNOWN:
        if match := re.match(pattern, repo.rpartition("/")[2], re.IGNORECASE):
            parts = {name: part.upper() for name, part in match.groupdict().items()}
            return {name: value.format(**parts) if isinstance(value, str) else value for name, value in facts.items()}
    if any(name in names for name in _TRAINING_LOGS):
        return dict(_QWEN)
    return {}
