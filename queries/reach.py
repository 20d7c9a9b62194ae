"""What one node reaches: every feature that a path leads to, by its best path or by all of them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.errors import BadSetting
from queries import routes
from queries.answers import choice, count, rows, smallest
from queries.catalog import records
from queries.held import Held, envelope, held, one_set
from queries.neighbours import LAST_LAYER, SIGNS, layer_range
from queries.pathsearch import SCORES, Measure, PathSearch
from queries.resolve import Key, Node, resolve
from queries.routes import Place

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = {
    "rank": "int",
    "key": "text",
    "layer": "int",
    "label": "text",
    "score": "double",
    "score_kind": "text",
    "sign": "text",
}
BY = ("best", "total")


def reach(
    graph: Store,
    key: Key,
    *,
    k: int = 20,
    by: str = "best",
    score: str = "product",
    max_hops: int | None = None,
    avoid: Place | Iterable[Place] | None = None,
    sign: str = "both",
    min: float | None = None,
    layer: str | int | None = None,
    set: str | None = None,
) -> pd.DataFrame:
    """The ``k`` features that a feature or a token reaches most, over all paths of kept connections, exactly.

    ``by="best"``: a feature counts by its best path alone, scored as :func:`queries.paths` scores it (``score``:
    product, share or bottleneck). ``by="total"``: by the sum of the products of all paths that lead to it, signs kept
    (so what raises it and what holds it down cancel); by product or share. ``sign``: only features that are raised
    (``+``) or held down (``-``): by their best path of that sign, or in total. ``max_hops``: by paths of at most so
    many connections. ``avoid``: not through these features or layers. ``min``: only over connections of this abs(z) or
    more. ``layer``: only features of these layers, ``"2"`` or ``"0-3"``. ``set``: where a short key belongs, and for a
    token whose features are meant.

    Columns ``rank, key, layer, label, score`` (signed), ``score_kind, sign``, by abs(score), ties by layer and index.
    ``attrs["reached"]`` is how many features any path leads to. Which paths lead to one is asked with
    :func:`queries.paths`. Raises BadKey, Ambiguous, BadSetting.
    """
    count("k", k)
    choice("by", by, BY)
    choice("score", score, tuple(SCORES))
    parity = SIGNS[choice("sign", sign, tuple(SIGNS))]
    most = None if max_hops is None else count("max_hops", max_hops)
    if by == "total" and score == "bottleneck":
        raise BadSetting("there is no total of bottlenecks; ask by best, or by product or share")
    least, layers = smallest("min", min), layer_range(layer)
    node = resolve(graph, key, set=set)
    own = _own(node, held(graph), set)
    route = routes.read(graph, own, None, avoid)
    search = PathSearch(graph, own.key, Measure(score, least=least), node, route)
    gather = np.add if by == "total" else np.maximum
    scores = _signed(search.from_start(gather, most), by, parity)
    reached = np.flatnonzero(scores)
    inside = reached[_in_layers(search, reached, layers)]
    order = inside[np.argsort(-np.abs(scores[inside]), kind="stable")[:k]]
    found = []
    for rank, number in enumerate(order.tolist(), start=1):
        about = records(graph, "label", key=search.key(number))[0]
        value = float(scores[number])
        found.append(
            (rank, search.key(number), about["layer"], about["label"], value, score, "+" if value > 0 else "-")
        )
    frame = rows(found, COLUMNS)
    frame.attrs = envelope([own], SCORES[score], False, float("inf"))
    said = f"{by} {score}" + (" of all paths" if by == "total" else " path")
    frame.attrs |= {"score": said, "by": by, "reached": len(reached)}
    frame.attrs["note"] = (
        f"of {len(reached):,} features reached over the connections that are kept"
        if len(frame)
        else f"{node.key} reaches no such feature over the connections that are kept"
    )
    return frame


def _own(node: Node, sets: list[Held], set: str | None) -> Held:
    if node.type == "Feature":
        return node.sets(sets)[0]
    own = node.sets(sets)
    return own[0] if len(own) == 1 and set is None else one_set(own, set, None, f"{node.key} reaches features of")


def _signed(reached: np.ndarray, by: str, sign: int) -> np.ndarray:
    """One signed number a node from what its paths with even and odd numbers of negative connections come to."""
    raised, held_down = reached
    if by == "total":
        total = raised - held_down
        return total if sign == 0 else np.where(np.sign(total) == sign, total, 0)
    if sign:
        return raised if sign > 0 else -held_down
    return np.where(raised >= held_down, raised, -held_down)


def _in_layers(search: PathSearch, reached: np.ndarray, layers: tuple[int, int]) -> np.ndarray:
    first, last = layers
    if (first, last) == (0, LAST_LAYER):
        return np.ones(len(reached), bool)
    number = np.asarray(search.layers)[np.searchsorted(search.first, reached, side="right") - 1]
    return (number >= first) & (number <= last)
