"""A family read off TransformerLens' map of parts: what embeds, normalises and attends in some fifty architectures.

The bridge keeps such a map for every architecture it wraps. No model is loaded for it: the config alone decides. What
a part does is not taken on trust: :data:`ingest.families.PROVEN` names the families that interventions have proven, and
what the map leaves out or calls by another's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from atlas.errors import BadModel
from ingest.families import Family, Get, Norm, Values, joint, separate


def family(config: Any, beside: dict[str, Any]) -> Family:
    """The family of a transformers config; ``beside`` overrules the map. Raises :class:`atlas.errors.BadModel`."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
    described = build_bridge_config_from_hf(config, architecture, config.model_type, torch.float32)
    try:
        parts = ArchitectureAdapterFactory.select_architecture_adapter(described).component_mapping
    except ValueError as error:
        raise BadModel(f"this version of transformer-lens does not know {architecture} ({error})") from error
    assert parts is not None
    blocks = parts["blocks"]
    prefix = _name(parts, "blocks").rpartition(".")[0] + "."

    def of_block(part: str) -> str | None:
        found = blocks.submodules.get(part)
        return None if found is None else f"{blocks.name}.{{}}.{found.name}".removeprefix(prefix)

    layer_norm = described.normalization_type == "LN"
    attention = blocks.submodules["attn"]
    made: dict[str, Any] = {
        "prefix": prefix,
        "norm": Norm.LAYER if layer_norm else Norm.RMS,
        "embedding": f"{parts['embed'].name}.weight".removeprefix(prefix),
        "positions": f"{parts['pos_embed'].name}.weight".removeprefix(prefix) if "pos_embed" in parts else None,
        "attention_norm": of_block("ln1"),
        "mlp_norm": of_block("ln2") or of_block("ln1"),
        "post_attention_norm": of_block("ln1_post"),
        "post_mlp_norm": of_block("ln2_post"),
        "final_norm": _name(parts, "ln_final").removeprefix(prefix),
        "mlp": of_block("mlp"),
        "attention": of_block("attn"),
        "values": _values(of_block("attn") or "", attention.submodules, layer_norm),
        "parallel": bool(described.parallel_attn_mlp),
        "gain_offset": 1.0 if getattr(described, "rmsnorm_uses_offset", False) else 0.0,
    }
    return Family(config.model_type, **made | beside)


def _name(parts: Mapping[str, Any], part: str) -> str:
    """Where a part of the map is found."""
    if parts[part].name is None:
        raise BadModel(f"this version of transformer-lens does not say where a model's {part} are found")
    return parts[part].name


def _values(attention: str, parts: dict[str, Any], by_head: bool) -> Callable[[Get, int, Any], Values]:
    """The joint matrices of LayerNorm models (GPT-NeoX) go head after head, the later ones kind after kind."""
    out = f"{attention}.{parts['o'].name}"
    if "qkv" in parts:
        return joint(f"{attention}.{parts['qkv'].name}", out, by_head=by_head)
    return separate(f"{attention}.{parts['v'].name}", out)
