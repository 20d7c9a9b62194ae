"""What several nodes have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from atlas.errors import BadKey
from queries.answers import choice, count, typed
from queries.catalog import ask
from queries.neighbours import Filter, around, envelope, sets_of
from queries.resolve import Key, resolve_all

if TYPE_CHECKING:
    from atlas.stores import Store

_ALL = 1_000_000


def common(
    graph: Store, keys: Iterable[Key], *, of: str = "inputs", k: int = 20, set: str | None = None
) -> pd.DataFrame:
    """The nodes that all of several nodes read (``of="inputs"``) or write to (``of="outputs"``).

    Columns ``key, type, layer, label``, then the weight of each asked node under its canonical key, then ``score``: the
    smallest abs(z) of these connections, so that a node counts as much as its weakest tie. Ordered by score, ties by
    key. Nodes of several models meet in the tokens they share.
    ``attrs["complete"]`` says that nothing the build cut away belongs among the rows.
    Raises BadKey for fewer than two different nodes, Ambiguous, BadSetting.
    """
    choice("of", of, ("inputs", "outputs"))
    count("k", k)
    nodes, _ = resolve_all(graph, keys, set=set)
    if len(nodes) < 2:
        raise BadKey(f"common needs two different nodes or more, found {nodes[0].key} alone")
    sets = ask(graph, "sets")
    shared: pd.DataFrame | None = None
    bounds = []
    for node in nodes:
        found, bound = around(graph, node, of, Filter(k=_ALL), sets_of(node, sets))
        bounds.append(bound)
        found = found.set_index("key")
        mine = found[["weight"]].rename(columns={"weight": node.key}).assign(score=found["z"].abs())
        if shared is None:
            shared = found[["type", "layer", "label"]].join(mine)
        else:
            both = shared.join(mine.rename(columns={"score": "tie"}), how="inner")
            shared = both.assign(score=both[["score", "tie"]].min(axis=1)).drop(columns="tie")
    assert shared is not None
    columns = {"key": "text", "type": "text", "layer": "int", "label": "text"}
    columns |= {node.key: "float" for node in nodes} | {"score": "float"}
    answer = typed(shared.reset_index().sort_values(["score", "key"], ascending=[False, True]), columns)
    whole = max(bounds) <= 0 or (len(answer) >= k and answer["score"].iloc[k - 1] > max(bounds))
    answer = answer.head(k)
    answer.attrs = envelope(
        pd.concat([sets_of(node, sets) for node in nodes]).drop_duplicates("set_key"), "z", bool(whole), max(bounds)
    )
    if answer.empty:
        answer.attrs["note"] = f"these {len(nodes)} nodes share no {of.removesuffix('s')} that is kept"
    elif not whole:
        answer.attrs["note"] = "shared among what is kept; weaker ties were cut"
    return answer
