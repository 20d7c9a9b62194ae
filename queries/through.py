"""Connections through attention heads: which are asked for, and how a head is named.

A connection through a head is stored at attention 1, and the norms around attention are left out of it; so its weight
is not to be compared with those that pass by no head, and no answer mixes the two unless asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atlas.errors import BadSetting
from queries.catalog import records

if TYPE_CHECKING:
    from atlas.stores import Store

HEADS = "heads"
_ONE = re.compile(r"(?:[^/\s]+/)?L(\d{1,4})H(\d{1,4})", re.ASCII)
_QUERIES = {
    ("Feature", "inputs"): {"features": "inputs_via", "tokens": "input_tokens_via"},
    ("Feature", "outputs"): {"features": "outputs_via", "tokens": "output_tokens_via"},
    ("Token", "inputs"): {"features": "promoting_features_via"},
    ("Token", "outputs"): {"features": "token_features_via"},
}
TOKENS = {"inputs": "predicting_tokens", "outputs": "predicted_tokens"}
"""the direct path between tokens, by direction"""


def one_head(text: str) -> tuple[int, int] | None:
    """Layer and number of a head such as ``L5H3`` (also with its model before it); None where it is no head."""
    found = _ONE.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def wanted(via: str | None) -> tuple[int, int] | None:
    """Whether paths and circuits may pass through heads: None for not; (-1, 0) for any; else one head."""
    if via is None:
        return None
    head = (-1, 0) if via == HEADS else one_head(via)
    if head is None:
        raise BadSetting(f"via is {ascii(via)[:40]}; write heads for any, or one head such as L5H3")
    return head


def refuse_evidence(via: str | None, evidence: bool) -> None:
    """Raises BadSetting where paths through heads are to be ranked by what was seen on a text: what a text says of a
    head is in the graph, but not in the arrays that paths are searched in."""
    if via is not None and evidence:
        raise BadSetting(
            "paths through heads go by z, weight or share, without live; `atlas inputs --of heads` by drive"
        )


def via(row: Mapping[str, Any]) -> str:
    """How a row's head is written."""
    return f"L{row['head_layer']}H{row['head']}"


def around(
    graph: Store,
    key: str,
    type_: str,
    direction: str,
    head: tuple[int, int],
    *,
    set: str = "",
    layers: tuple[int, int] | None = None,
    **order: Any,
) -> list[dict[str, Any]]:
    """Neighbours of one node through heads, not yet in order; ``order``: by, sign, min, limit, live.

    ``layers``: only features of these, and so no tokens.
    """
    found = []
    for kind, name in _QUERIES[type_, direction].items():
        given = {"key": key, "head_layer": head[0], "head_number": head[1], **order}
        if type_ == "Token":
            given["set"] = set
        if kind == "features" and layers:
            given |= {"first": layers[0], "last": layers[1]}
        elif kind == "tokens" and layers:
            continue
        fixed = {"type": "Feature"} if kind == "features" else {"type": "Token", "layer": None}
        for row in records(graph, name, **given):
            found.append(row | fixed | {"via": via(row)})
    return found
