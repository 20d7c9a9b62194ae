"""Every place at which a family's sets may read and write, and every kind of path: one list for all proofs of edges."""

from __future__ import annotations

from atlas.model import TRANSCODER_READS, ReadSite, WriteSite

R, W = ReadSite, WriteSite
LAYER_NORM = ("gpt2", "gpt_neox", "gpt_neox_serial", "phi", "olmo")
ONE_WRITE = ("llama", "qwen3", "mistral", "qwen2", "smollm3", "phi3", "gemma")
NORMS_BEHIND = ("gemma2", "gemma3_text", "gemma3")
ONLY_BEHIND = ("olmo2", "olmo3")
"""their MLP reads the stream itself"""
NOT_CENTRED = tuple(read for read in TRANSCODER_READS if read is not R.RESID_MID_CENTRED)
SITES = [
    *[(family, r, w) for family in LAYER_NORM for r in TRANSCODER_READS for w in (W.MLP_RAW, W.MLP_RAW_CENTRED)],
    *[(family, r, w) for family in NORMS_BEHIND for r in NOT_CENTRED for w in (W.MLP_RAW, W.MLP_POST_NORM)],
    *[(family, r, W.MLP_RAW) for family in ONE_WRITE for r in NOT_CENTRED],
    *[(family, R.RESID_MID, w) for family in ONLY_BEHIND for w in (W.MLP_RAW, W.MLP_POST_NORM)],
]
"""family, read and write of every transcoder that a family admits"""


def before_a_norm(family: str, write: WriteSite) -> bool:
    """Whether a norm stands between what is written and the stream."""
    return family in (*NORMS_BEHIND, *ONLY_BEHIND) and write is W.MLP_RAW


KINDS = ("cross-layer", "skips", "cross-layer with skips")
CASES = [
    (kind, family, read, write)
    for kind in KINDS
    for family, read, write in SITES
    if not (kind.startswith("cross-layer") and before_a_norm(family, write))
]
"""the same with paths that are not plain; writes at several layers, each before a norm of its own, do not add up"""
