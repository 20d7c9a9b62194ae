"""What a hook name denotes: the one place where a published name becomes a site.

The same name means different tensors in different tools, so only names whose tensor was compared with that of the
transformers module are known; every other name is refused. In TransformerLens (since February 2025)::

    hook_resid_mid            the residual stream entering the norm before the MLP
    hook_mlp_in               a copy of it, un-normalised; but SAELens writes this name for Gemma 3 transcoders, which
                              read the norm's output: there only its hf_hook_name counts
    ln2.hook_normalized       (x - mean) / std or x / rms, before gain and bias
    mlp.hook_in               what the MLP module is given: after gain and bias, unless the norms were folded
    mlp.hook_out              what the MLP module returns
    hook_mlp_out              the same, except behind the post-MLP norm where the model has one (Gemma 2 and 3)

Transformers' own names: ``pre_feedforward_layernorm.output`` and ``post_feedforward_layernorm.output``.

Autoencoders read and write one tensor of more kinds::

    hook_resid_pre, hook_resid_mid, hook_resid_post     the stream entering the block, between, leaving it
    attn.hook_z                                         the heads' values side by side, before W_O
    hook_attn_out                                       what attention adds, behind a norm after it where there is one
    mlp.hook_out, hook_mlp_out                          as above

and in transformers' names ``output`` of the block, ``self_attn.o_proj.input``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.errors import BadTranscoder
from atlas.model import ReadSite, WriteSite

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

_READS = {
    "hook_resid_mid": ReadSite.RESID_MID,
    "hook_mlp_in": ReadSite.RESID_MID,
    "ln2.hook_normalized": ReadSite.NORM_PRE_GAIN,
    "mlp.hook_in": ReadSite.NORM_POST_GAIN,
    "pre_feedforward_layernorm.output": ReadSite.NORM_POST_GAIN,
}
_WRITES = {
    "mlp.hook_out": WriteSite.MLP_RAW,
    "hook_mlp_out": None,  # which of two depends on the model
    "post_feedforward_layernorm.output": WriteSite.MLP_POST_NORM,
}
_AUTOENCODERS: dict[str, tuple[ReadSite, ReadSite]] = {
    # in models without norms behind attention and MLP, and in models with them
    "hook_resid_pre": (ReadSite.RESID_PRE, ReadSite.RESID_PRE),
    "hook_resid_mid": (ReadSite.RESID_MID, ReadSite.RESID_MID),
    "hook_resid_post": (ReadSite.RESID_POST, ReadSite.RESID_POST),
    "output": (ReadSite.RESID_POST, ReadSite.RESID_POST),
    "attn.hook_z": (ReadSite.ATTN_Z, ReadSite.ATTN_Z),
    "self_attn.o_proj.input": (ReadSite.ATTN_Z, ReadSite.ATTN_Z),
    "hook_attn_out": (ReadSite.ATTN_RAW, ReadSite.ATTN_POST_NORM),
    "mlp.hook_out": (ReadSite.MLP_RAW, ReadSite.MLP_RAW),
    "hook_mlp_out": (ReadSite.MLP_RAW, ReadSite.MLP_POST_NORM),
    "post_feedforward_layernorm.output": (ReadSite.MLP_POST_NORM, ReadSite.MLP_POST_NORM),
}
_LAYER = re.compile(r"^(?:blocks|model\.layers|layers|model\.language_model\.layers)\.(\d+)\.")
_POST_NORM = re.compile(r"gemma-?[23]", re.IGNORECASE)
_GEMMA_3 = re.compile(r"gemma-?3", re.IGNORECASE)


@dataclass(frozen=True)
class Stated:
    """What a set's config says of where it reads and writes."""

    read_hook: str
    write_hook: str
    where: str
    """the set, for messages"""
    model_name: str | None = None
    hf_read_hook: str | None = None
    """transformers' names, which win where they are given"""
    hf_write_hook: str | None = None
    folded: bool = False
    """the norms' gains were folded into the MLP while it was trained (TransformerLens' fold_ln)"""
    centred: bool = False
    """what is written into the stream was centred (TransformerLens' center_writing_weights)"""


def text(value: object) -> str | None:
    """What a config says in words; anything else says nothing."""
    return value if isinstance(value, str) and value else None


def layer_of(hook: str) -> int | None:
    """The layer that a full hook name carries: 3 of ``blocks.3.mlp.hook_in``."""
    match = _LAYER.match(hook)
    return int(match[1]) if match else None


def sites(stated: Stated, model: ModelWeights | None = None) -> tuple[ReadSite, WriteSite]:
    """Where a set reads and writes.

    ``hook_mlp_out`` lies behind a norm in some models: the model decides where it is given, else its name in the
    config. Raises :class:`atlas.errors.BadTranscoder` for a name that is not known, and where neither is there.
    """
    return _read(stated), _write(stated, model)


def sae_site(stated: Stated, model: ModelWeights | None = None) -> tuple[ReadSite, WriteSite]:
    """Where an autoencoder reads, which is where it writes; raises as :func:`sites` does."""
    hook = _bare(stated.hf_read_hook or stated.read_hook)
    if hook not in _AUTOENCODERS:
        raise BadTranscoder(
            f"{stated.where} reads at {hook[:80]!r}, which is no known site of an autoencoder; known are "
            f"{', '.join(_AUTOENCODERS)}"
        )
    raw, behind = _AUTOENCODERS[hook]
    if raw is not behind and model is None and not stated.model_name:
        raise BadTranscoder(
            f"{stated.where} reads at {hook}, which lies behind a norm in Gemma and not elsewhere, and its config "
            "names no model; open it together with its model"
        )
    site = behind if _has_post_norms(stated, model) else raw
    return site, WriteSite(str(site))


def _has_post_norms(stated: Stated, model: ModelWeights | None) -> bool:
    return model.has_post_mlp_norm if model else bool(_POST_NORM.search(stated.model_name or ""))


def _read(stated: Stated) -> ReadSite:
    hook = _bare(stated.hf_read_hook or stated.read_hook)
    if hook == "hook_mlp_in" and _GEMMA_3.search(stated.model_name or ""):
        raise BadTranscoder(
            f"{stated.where} names hook_mlp_in for {stated.model_name}; for Gemma 3 that name is used for two tensors, "
            "so its config must give hf_hook_name"
        )
    if hook not in _READS:
        raise _unknown("reads", hook, _READS, stated.where)
    site = _READS[hook]
    if site is ReadSite.NORM_POST_GAIN and stated.folded:
        return ReadSite.NORM_PRE_GAIN
    if site is ReadSite.RESID_MID and stated.centred:
        return ReadSite.RESID_MID_CENTRED
    return site


def _write(stated: Stated, model: ModelWeights | None) -> WriteSite:
    hook = _bare(stated.hf_write_hook or stated.write_hook)
    if hook not in _WRITES:
        raise _unknown("writes", hook, _WRITES, stated.where)
    site = _WRITES[hook]
    if site is None:
        if model is None and not stated.model_name:
            raise BadTranscoder(
                f"{stated.where} writes at hook_mlp_out, which lies behind a norm in Gemma and not elsewhere, and its "
                "config names no model; open it together with its model"
            )
        site = WriteSite.MLP_POST_NORM if _has_post_norms(stated, model) else WriteSite.MLP_RAW
    if site is WriteSite.MLP_RAW and stated.centred:
        return WriteSite.MLP_RAW_CENTRED
    return site


def _bare(hook: str) -> str:
    return _LAYER.sub("", hook)


def _unknown(does: str, hook: str, known: dict, where: str) -> BadTranscoder:
    return BadTranscoder(
        f"{where} {does} at {hook[:80]!r}, which is no known site of a transcoder; known are {', '.join(known)}"
    )
