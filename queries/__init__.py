"""From the graph to an answer.

Every question takes a store opened by :func:`atlas.open` and returns a DataFrame with typed columns; its ``attrs`` say
what the rows rest on (:mod:`queries.answers`)::

    import atlas, queries

    with atlas.open() as graph:
        queries.search(graph, "rabbit")
        queries.inputs(graph, "bunny/2-tc-1k/17", k=20, by="weight")
        queries.circuit(graph, "bunny/3-tc-1k/80").edges

What is there: :func:`models`, :func:`sets`. Nodes: :func:`search`, :func:`similar`, :func:`card`, :func:`resolve`.
Neighbours: :func:`inputs`, :func:`outputs`, :func:`common`, :func:`matrix`. Further: :func:`circuit`, :func:`paths`,
:func:`reach`. Shapes: :func:`motifs`, :func:`motif_instances`, :func:`hubs`. Across sets: :func:`compare`,
:func:`keep`, :func:`matches_of`, :func:`translate`.
Evidence: :func:`examples`, :func:`fired`, :func:`fired_edges`, :func:`run_of`. In Cypher: :func:`catalog`,
:func:`query`, :func:`query_text`, :func:`cypher`. Ahead of search by meaning: :func:`index`.

Wherever a node is asked for, any text that :func:`atlas.model.parse` reads will do, or a FeatureKey or TokenKey.
"""

from queries.cards import card
from queries.catalog import catalog, cypher, query, query_text
from queries.circuits import Circuit, circuit
from queries.compare import compare, keep, matches_of
from queries.contents import models, sets
from queries.evidence import examples, fired, fired_edges, run_of
from queries.indexed import index
from queries.matrices import matrix
from queries.motifs import hubs, motif_instances, motifs
from queries.neighbours import inputs, outputs
from queries.paths import paths
from queries.reach import reach
from queries.resolve import Node, resolve
from queries.search import search
from queries.shared import common
from queries.similar import similar
from queries.translate import Translation, translate

__all__ = [
    "Circuit",
    "Node",
    "Translation",
    "card",
    "catalog",
    "circuit",
    "common",
    "compare",
    "cypher",
    "examples",
    "fired",
    "fired_edges",
    "hubs",
    "index",
    "inputs",
    "keep",
    "matches_of",
    "matrix",
    "models",
    "motif_instances",
    "motifs",
    "outputs",
    "paths",
    "query",
    "query_text",
    "reach",
    "resolve",
    "run_of",
    "search",
    "sets",
    "similar",
    "translate",
]
