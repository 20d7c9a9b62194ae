"""What one node reaches: every feature that a path leads to, by its best path or by all of them together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.errors import BadSetting
from queries import cuts, routes
from queries.answers import choice, count, rows, smallest
from queries.held import Held, envelope, held, one_set
from queries.labels import called
from queries.neighbours import LAST_LAYER, SIGNS, layer_range
from queries.pathsearch import PathSearch, measured
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


def reach(
    graph: Store,
    key: Key,
    *,
    k: int = 20,
    total: bool = False,
    score: str = "product",
    by: str | None = None,
    live: bool = False,
    max_hops: int | None = None,
    avoid: Place | Iterable[Place] | None = None,
    sign: str = "both",
    min: float | None = None,
    layer: str | int | None = None,
    set: str | None = None,
) -> pd.DataFrame:
    """The ``k`` features that a feature or a token reaches most, over all paths of kept connections, exactly.

    A feature counts by its best path alone, scored as :func:`queries.paths` scores it (``score``: product, share or
    bottleneck); with ``total`` by the sum of the products of all paths that lead to it, signs kept (so what raises it
    and what holds it down cancel); by product or share. ``by``: of what the product or the bottleneck is instead of
    weight or z: any of these, share, or, where a text was observed, drive, TWERA or coactivation (how often both ends
    are active). ``live``: only over connections whose ends are active together on that text, which
    ``attrs["observation"]`` names. ``min``: only over connections of this abs(z) or more; with ``by``, of this size.
    ``sign``: only features that are raised (``+``) or held down (``-``): by their best path of that sign, or in total.
    ``max_hops``: by paths of at most so many connections. ``avoid``: not through these features or layers.
    ``layer``: only features of these layers, ``"2"`` or ``"0-3"``. ``set``: where a short key belongs, and for a
    token whose features are meant.

    Columns ``rank, key, layer, label, score`` (signed), ``score_kind, sign``, by abs(score), ties by layer and index.
    ``attrs["reached"]`` is how many features any path leads to. Which paths lead to one is asked with
    :func:`queries.paths`. Raises BadKey, Ambiguous, BadSetting.
    """
    count("k", k)
    parity = SIGNS[choice("sign", sign, tuple(SIGNS))]
    most = None if max_hops is None else count("max_hops", max_hops)
    if total and score == "bottleneck":
        raise BadSetting("there is no total of bottlenecks; ask for it by product or share")
    measure, layers = measured(score, by, smallest("min", min), live), layer_range(layer)
    node = resolve(graph, key, set=set)
    own = _own(node, held(graph), set)
    if measure.evidence:
        cuts.require_observed(own.key, own.observation)
    route = routes.read(graph, own, None, avoid)
    search = PathSearch(graph, own.key, measure, node, route)
    gather = np.add if total else np.maximum
    scores = _signed(search.from_start(gather, most), total, parity)
    reached = np.flatnonzero(scores)
    inside = reached[_in_layers(search, reached, layers)]
    order = inside[np.argsort(-np.abs(scores[inside]), kind="stable")[:k]]
    found = []
    values = scores[order].tolist()
    about = called(graph, map(search.key, order.tolist()))
    for rank, ((key, node_called), value) in enumerate(zip(about.items(), values, strict=True), start=1):
        found.append((rank, key, node_called.layer, node_called.label, value, score, "+" if value > 0 else "-"))
    frame = rows(found, COLUMNS)
    frame.attrs = envelope([own], measure.number, False, cuts.UNKNOWN)
    if measure.evidence:
        frame.attrs["observation"] = own.observation
    said = (f"total {score} of all paths" if total else f"best {score} path") + (f", of {by}" if by else "")
    frame.attrs |= {"score": said, "total": total, "reached": len(reached)}
    over = "over the connections that are kept" + (" and join what is active together" if live else "")
    frame.attrs["note"] = (
        f"of {len(reached):,} features reached {over}" if len(frame) else f"{node.key} reaches no such feature {over}"
    )
    return frame


def _own(node: Node, sets: list[Held], set: str | None) -> Held:
    if node.type == "Feature":
        return node.sets(sets)[0]
    own = node.sets(sets)
    return own[0] if len(own) == 1 and set is None else one_set(own, set, None, f"{node.key} reaches features of")


def _signed(reached: np.ndarray, total: bool, sign: int) -> np.ndarray:
    """One signed number a node from what its paths with even and odd numbers of negative connections come to."""
    raised, held_down = reached
    if total:
        both = raised - held_down
        return both if sign == 0 else np.where(np.sign(both) == sign, both, 0)
    if sign:
        return raised if sign > 0 else -held_down
    return np.where(raised >= held_down, raised, -held_down)


def _in_layers(search: PathSearch, reached: np.ndarray, layers: tuple[int, int]) -> np.ndarray:
    first, last = layers
    if (first, last) == (0, LAST_LAYER):
        return np.ones(len(reached), bool)
    number = np.asarray(search.layers)[np.searchsorted(search.first, reached, side="right") - 1]
    return (number >= first) & (number <= last)
