"""What several nodes have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadKey
from queries import cuts
from queries.answers import choice, count, from_records, smallest
from queries.held import envelope, held, one_or_list
from queries.neighbours import BY, Filter, around, size
from queries.resolve import Key, resolve_all

if TYPE_CHECKING:
    from atlas.stores import Store

_ALL = 1_000_000


def common(
    graph: Store,
    keys: Iterable[Key],
    *,
    of: str = "inputs",
    k: int = 20,
    by: str = "z",
    live: bool = False,
    min: float | None = None,
    set: str | None = None,
) -> pd.DataFrame:
    """The nodes that all of several nodes read (``of="inputs"``) or write to (``of="outputs"``).

    Columns ``key, type, layer, label``, then the weight of each asked node under its canonical key, then ``score``: the
    smallest abs(z) of these connections, so that a node counts as much as its weakest tie. Ordered by score, ties by
    key. Nodes of several models meet in the tokens they share.
    ``by``: what the score is the smallest of instead: weight, share, or, where a text was observed, drive, TWERA or
    coactivation (how often both ends are active). ``min``: only scores of this or more. ``live``: only ties whose ends
    are active together on that text, into a logit those of features that fire; ``attrs["observation"]`` names the text.
    ``attrs["complete"]`` says that nothing the build cut away belongs among the rows.
    Raises BadKey for fewer than two different nodes, Ambiguous, BadSetting.
    """
    choice("of", of, ("inputs", "outputs"))
    count("k", k)
    nodes, _ = resolve_all(graph, keys, set=set)
    if len(nodes) < 2:
        raise BadKey(f"common needs two different nodes or more, found {nodes[0].key} alone")
    asked = Filter(k=_ALL, by=choice("by", by, BY), min=smallest("min", min), live=live)
    sets = held(graph)
    used = [one for one in sets if any(one in node.sets(sets) for node in nodes)]
    for one in used if asked.evidence else ():
        cuts.require_observed(one.key, one.observation)
    reads: list[dict[str, dict[str, Any]]] = []
    bounds = []
    for node in nodes:
        found, bound = around(graph, node, of, asked, node.sets(sets))
        reads.append({row["key"]: row for row in found})
        bounds.append(bound)
    shared = [
        {
            **row,
            **{node.key: read[key]["weight"] for node, read in zip(nodes, reads, strict=True)},
            "score": _weakest(size(read[key], by) for read in reads),
        }
        for key, row in reads[0].items()
        if all(key in read for read in reads)
    ]
    shared.sort(key=lambda row: (-row["score"], row["key"]))
    whole = cuts.complete([row["score"] for row in shared[:k]], k, asked.min, max(bounds))
    columns = {"key": "text", "type": "text", "layer": "int", "label": "text"}
    answer = from_records(shared[:k], columns | {node.key: "float" for node in nodes} | {"score": "float"})
    answer.attrs = envelope(used, by, whole, max(bounds))
    if asked.evidence:
        answer.attrs["observation"] = one_or_list([one.observation for one in used])
    if answer.empty:
        said = f" and passes min {asked.min:g}" if asked.min else ""
        said += " and active together with each" if live else ""
        answer.attrs["note"] = f"these {len(nodes)} nodes share no {of.removesuffix('s')} that is kept{said}"
    elif not whole:
        answer.attrs["note"] = "shared among what is kept; weaker ties were cut"
    return answer


def _weakest(sizes: Iterable[float]) -> float:
    """Apart, since ``min`` is an argument above."""
    return min(sizes)
