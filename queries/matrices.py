"""Connections between two layers as a sparse matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import BadKey, BadSetting
from queries.answers import choice, count, smallest
from queries.counted import Counted, numbers
from queries.held import held, one_set
from queries.neighbours import BY
from queries.resolve import spans

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from atlas.stores import Store


def matrix(
    graph: Store,
    set_key: str,
    source_layer: int,
    target_layer: int,
    *,
    of: str = "weight",
    live: bool = False,
    min: float | None = None,
) -> csr_array:
    """The kept connections from one layer's features to another's, as a sparse array.

    Shape [features of ``target_layer``, features of ``source_layer``]: a row is a feature that reads, so that
    ``matrix @ activations`` is what the source layer adds to the target's pre-activations, up to what was cut and the
    norm's denominators. ``of``: weight, z or share, or, where a text was observed, drive, TWERA or coactivation (how
    often both ends are active), by which a connection counts only where it is defined and not 0; float32, of
    coactivation int64. ``live``: only connections whose ends are active together on that text. ``min``: only those of
    this size of ``of``. ``set_key``: ``MODEL/SET``, or a part that is enough.
    Raises BadKey for a set or layer that is not here, BadSetting where the layers are in the wrong order or nothing was
    observed.
    """
    from scipy.sparse import csr_array

    counted = Counted(choice("of", of, BY), smallest("min", min), live)
    count("source_layer", source_layer, 0)
    count("target_layer", target_layer, 0)
    own = one_set(held(graph), set_key, None, "the layers are of")
    adjacency = graph.adjacency(own.key)
    layers = list(adjacency.layers)
    for layer in (source_layer, target_layer):
        if layer not in layers:
            raise BadKey(f"{own.key} has no layer {layer}; it has the layers {spans(layers)}")
    if source_layer >= target_layer:
        raise BadSetting(
            f"layer {source_layer} does not feed layer {target_layer}; features connect to later layers only"
        )
    first = np.concatenate([[0], np.cumsum(adjacency.features_per_layer)])
    source, target = layers.index(source_layer), layers.index(target_layer)
    begin, stop = int(first[target]), int(first[target + 1])
    offsets = adjacency.offsets[begin : stop + 1]
    span = slice(int(offsets[0]), int(offsets[-1]))
    sources = np.asarray(adjacency.source[span])
    inside = (sources >= first[source]) & (sources < first[source + 1]) & (counted.sizes(own, adjacency, span) >= 0)
    values = numbers(adjacency, own.key, evidence=counted.evidence)[of][span]
    before = np.concatenate([[0], np.cumsum(inside)])
    return csr_array(
        (values[inside], sources[inside] - first[source], before[offsets - offsets[0]]),
        shape=(stop - begin, int(first[source + 1] - first[source])),
    )
