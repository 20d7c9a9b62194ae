"""What is in the atlas: its models and their sets of transcoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from queries.answers import rows, typed
from queries.catalog import ask, records
from queries.held import EMPTY, held

if TYPE_CHECKING:
    from atlas.stores import Store

MODELS = {
    "model": "text",
    "layers": "int",
    "features": "int",
    "edges": "int",
    "tokenizer": "text",
    "revision": "text",
}
SETS = {
    "set": "text",
    "kind": "text",
    "sites": "text",
    "layers": "ints",
    "features_per_layer": "ints",
    "edges": "int",
    "run": "text",
}


def models(graph: Store) -> pd.DataFrame:
    """The models in the atlas: ``model, layers, features, edges, tokenizer, revision``, by name.

    ``features`` and ``edges`` count over all sets of the model, ``edges`` the weighted relationships that are kept.
    """
    found = typed(ask(graph, "models"), MODELS)
    found.attrs = {"complete": True}
    if found.empty:
        found.attrs["note"] = EMPTY
    return found


def sets(graph: Store, model: str | None = None) -> pd.DataFrame:
    """The sets of transcoders: ``set, kind, sites, layers, features_per_layer, edges, run``, by name.

    ``sites`` is where a set reads and where it writes; ``layers`` and ``features_per_layer`` are lists in the same
    order. ``model``: only its sets. Raises BadKey for a model that is not here.
    """
    answers = []
    for one in held(graph, model):
        layers = records(graph, "layers", set=one.key)
        counts = ([int(row[column]) for row in layers] for column in ("layer", "features"))
        answers.append((one.key, one.kind, f"{one.read_site} → {one.write_site}", *counts, one.edges, one.run))
    frame = rows(answers, SETS)
    frame.attrs = {"complete": True}
    if frame.empty:
        frame.attrs["note"] = EMPTY
    return frame
