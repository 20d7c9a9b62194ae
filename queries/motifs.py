"""Small shapes that features make, how often, and how often chance alone would make them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from queries.answers import choice, count, rows, smallest
from queries.counted import Counted, numbers
from queries.held import Held, held, one_set
from queries.instances import strongest
from queries.labels import called
from queries.neighbours import BY, SIGNS
from queries.rewired import ROUNDS, rewire
from queries.shapes import SHAPES, Links, counts

if TYPE_CHECKING:
    from atlas.stores import Progress, Store
    from atlas.stores.adjacency import Adjacency

COLUMNS = {"shape": "text", "count": "int", "expected": "double", "z": "double", "p": "double"}
INSTANCES = {
    "rank": "int",
    "score": "double",
    "sign": "text",
    "keys": "texts",
    "labels": "texts",
    "weights": "floats",
    "z": "floats",
}
HUBS = {
    "key": "text",
    "layer": "int",
    "label": "text",
    "readers": "int",
    "sources": "int",
    "through": "int",
    "z": "double",
}
_SCORES = ("product", "bottleneck")


def motifs(
    graph: Store,
    set: str | None = None,
    *,
    shape: str | None = None,
    signs: bool = False,
    samples: int = 20,
    rounds: int = ROUNDS,
    seed: int = 0,
    by: str = "z",
    live: bool = False,
    min: float | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How often features make a shape, and how often they would by chance.

    ``shape``, of features A, B, C, D of a set: ``chain`` (A → B → C, while A does not feed C itself), ``fan-in``
    (A → C ← B, A and B not connected), ``fan-out`` (B ← A → C, B and C not connected), ``feed-forward-loop``
    (A → B → C and A → C), ``bi-fan`` (A and B each feed both C and D, whatever else joins them); all five where none is
    named. ``signs``: also by the sign of the product of all weights, ``coherent`` (positive) or ``incoherent``, and
    feed-forward loops by their eight kinds (Mangan and Alon 2003). Counted are the connections that are kept, exactly.
    ``live``: only those whose ends are active together on the observed text. ``min``: only those of this size, of
    abs(z) or of what ``by`` names: weight, share, or, where a text was observed, drive, TWERA or coactivation (how
    often both ends are active); by these three a connection counts only where they are defined and not 0. What does
    not count is in no shape and does not join the outer features of one. ``attrs["observation"]`` names the text.

    Chance is the same set with the connections that count rewired at random, so that each feature keeps how many others
    of each layer it reads and feeds, positively and negatively (:mod:`queries.rewired`); ``samples`` times, from
    ``seed``, with ``rounds`` rounds of swaps before each. ``expected`` is their mean, ``z`` the count's distance from
    it in their deviations (missing where they do not differ), ``p`` the part of them, the count itself included, that
    lies as far from the mean: never below 1 / (samples + 1). ``samples=0`` only counts. Given those numbers of
    connections, chains, fan-ins and fan-outs are what loops leave over, so their z says the same as the loops', turned
    round.

    Time grows with the sum over features of (what it reads) times (what reads it), once for each sample; memory is
    about 30 B a connection and 200 MB. Columns ``shape, count, expected, z, p``. Raises BadKey, Ambiguous, BadSetting.
    """
    shapes = SHAPES if shape is None else (choice("shape", shape, SHAPES),)
    count("samples", samples, 0)
    count("rounds", rounds)
    count("seed", seed, 0)
    counted = Counted(choice("by", by, BY), smallest("min", min), live)
    own, adjacency = _of(graph, set)
    links, groups = _grouped(_links(adjacency, counted.sizes(own, adjacency) >= 0), adjacency)
    names = [name for name in _order(shapes) if signs or " " not in name]
    actual = counts(links, shapes)
    rng = np.random.default_rng(seed)
    drawn, moved = [], []
    for sample in range(samples):
        if progress:
            progress("rewiring and counting", sample, samples)
        moved.append(rewire(links.source, links.target, groups, rng, rounds))
        drawn.append(counts(links, shapes))
    if progress and samples:
        progress("rewiring and counting", samples, samples)
    frame = rows(((name, actual[name], *_against(actual[name], [d[name] for d in drawn])) for name in names), COLUMNS)
    note = f"{len(links.source):,} {counted.said}"
    if samples:
        note += f"; expected over {samples:,} rewirings that keep each feature's readers and sources by layer and sign"
    frame.attrs = counted.rests_on(own, note)
    frame.attrs |= {"score": "shape", "samples": samples, "rounds": rounds, "seed": seed}
    frame.attrs["swapped"] = float(np.mean(moved)) if moved else None
    return frame


def motif_instances(
    graph: Store,
    set: str | None = None,
    *,
    shape: str,
    k: int = 10,
    score: str = "product",
    sign: str = "both",
    by: str = "z",
    live: bool = False,
    min: float | None = None,
) -> pd.DataFrame:
    """The ``k`` strongest instances of a shape (:func:`motifs`), exactly, over the connections that are kept.

    ``score``: the ``product`` of the abs(z) of all its connections, or their ``bottleneck``, the smallest; of the size
    of what ``by`` names instead, which then has a column of its own. ``by``, ``live``, ``min``: which connections
    count, as for :func:`motifs`. ``sign``: only those whose weights multiply to a positive (``+``, coherent) or
    negative (``-``) number. ``attrs["observation"]`` names the text.

    Columns ``rank, score, sign``, and as lists ``keys`` (A, B, C, D), ``labels``, ``weights`` and ``z`` of the
    connections: A → B, B → C for a chain; A → C, B → C for a fan-in; A → B, A → C for a fan-out; A → B, B → C, A → C
    for a loop; A → C, A → D, B → C, B → D for a bi-fan. Equal scores are ordered by layer and index of A, then B, and
    so on.
    Memory: about 60 B a connection. Raises BadKey, Ambiguous, BadSetting.
    """
    choice("shape", shape, SHAPES)
    count("k", k)
    choice("score", score, _SCORES)
    wanted = SIGNS[choice("sign", sign, tuple(SIGNS))]
    counted = Counted(choice("by", by, BY), smallest("min", min), live)
    own, adjacency = _of(graph, set)
    size = counted.sizes(own, adjacency)
    kept = np.flatnonzero(size >= 0)
    strength = size[kept].astype(np.float64)
    found = strongest(_links(adjacency, size >= 0), strength, shape, k, product=score == "product", sign=wanted)
    listed = {"weights": "weight", "z": "z"} | ({} if by in ("weight", "z") else {by: by})
    by_name = numbers(adjacency, own.key, evidence=counted.evidence)
    made = []
    for rank, one in enumerate(found, start=1):
        at = kept[list(one.connections)]
        keys = [_key(adjacency, own.key, number) for number in one.features]
        negative = bool((by_name["weight"][at] < 0).sum() % 2)
        of_connections = [by_name[name][at].tolist() for name in listed.values()]
        made.append((rank, one.score, "-" if negative else "+", keys, *of_connections))
    about = called(graph, (key for row in made for key in row[3]))
    made = [(*row[:4], [about[key].label for key in row[3]], *row[4:]) for row in made]
    frame = rows(made, INSTANCES | dict.fromkeys(listed, "floats"))
    note = f"the strongest {shape} by {score} of {counted.number}, exact over the {counted.said}"
    frame.attrs = counted.rests_on(own, note if made else f"no {shape} among the {counted.said}")
    frame.attrs |= {"score": f"{score} of {counted.number}", "shape": shape}
    return frame


def hubs(
    graph: Store,
    set: str | None = None,
    *,
    by: str = "readers",
    of: str | None = None,
    k: int = 20,
    live: bool = False,
    min: float | None = None,
) -> pd.DataFrame:
    """The features with the most connections that are kept, or with the strongest.

    ``by``: ``readers`` (later features that read it), ``sources`` (earlier ones that it reads) or ``through``, their
    product: how many ways of two steps run through it. ``of``: instead of how many, the sum of the sizes of this number
    over the same connections (for ``through``, the product of both sums), in a column ``sum``: z, weight, share, or,
    where a text was observed, drive, TWERA or coactivation. ``z``: how many deviations it lies above the mean of its
    own layer in what it is ordered by. ``min``: only connections of this abs(z) or more, or of this size of ``of``;
    ``live``: only those whose ends are active together on the observed text, which ``attrs["observation"]`` names.
    Columns ``key, layer, label, readers, sources, through, z``; ties by layer and index. Raises BadKey, BadSetting.
    """
    choice("by", by, ("readers", "sources", "through"))
    count("k", k)
    counted = Counted(choice("of", of, BY) if of is not None else "z", smallest("min", min), live)
    own, adjacency = _of(graph, set)
    sizes = counted.sizes(own, adjacency)
    links = _links(adjacency, sizes >= 0)
    of_each = _through(links, None)
    size = (of_each if of is None else _through(links, sizes[sizes >= 0]))[by].astype(np.float64)
    layer = _layer_of(adjacency)
    features = np.bincount(layer)
    mean = np.bincount(layer, size) / features
    deviation = np.sqrt(np.maximum(np.bincount(layer, size**2) / features - mean**2, 0))
    z = np.divide(size - mean[layer], deviation[layer], out=np.full(len(size), np.nan), where=deviation[layer] > 0)
    best = [at for at in np.argsort(-size, kind="stable")[:k].tolist() if size[at] > 0]
    about = called(graph, (_key(adjacency, own.key, at) for at in best))
    made = []
    for at, (key, named) in zip(best, about.items(), strict=True):
        numbered = (int(of_each[name][at]) for name in ("readers", "sources", "through"))
        summed = () if of is None else (float(size[at]),)
        made.append((key, named.layer, named.label, *numbered, *summed, float(z[at])))
    names = list(HUBS)[:-1] + ([] if of is None else ["sum"]) + ["z"]
    frame = rows(made, {name: HUBS.get(name, "double") for name in names})
    frame.attrs = counted.rests_on(own, f"{len(links.source):,} {counted.said}; z within the layer")
    frame.attrs |= {"score": by if of is None else f"{by}, their {counted.number} summed"}
    return frame


def _through(links: Links, sizes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Of each feature how many connections leave it and enter it, or their sizes together; and the product of both."""
    ends = {"readers": links.source, "sources": links.target}
    found = {name: np.bincount(end, sizes, minlength=links.n_features) for name, end in ends.items()}
    return found | {"through": found["readers"] * found["sources"]}


def _of(graph: Store, set: str | None) -> tuple[Held, Adjacency]:
    own = one_set(held(graph), set, None, "the shapes are of")
    return own, graph.adjacency(own.key)


def _links(adjacency: Adjacency, counted: np.ndarray) -> Links:
    """Those of the set's connections that count, ordered by target, then source."""
    target = np.repeat(np.arange(len(adjacency.offsets) - 1, dtype=np.int32), np.diff(adjacency.offsets))
    source, negative = np.array(adjacency.source), np.asarray(adjacency.weight) < 0
    if not counted.all():
        source, target, negative = source[counted], target[counted], negative[counted]
    return Links(source, target, negative, len(adjacency.offsets) - 1)


def _grouped(links: Links, adjacency: Adjacency) -> tuple[Links, np.ndarray]:
    """The connections by pair of layers and sign, and where each of these groups begins."""
    layer, n = _layer_of(adjacency).astype(np.int32), len(adjacency.layers)
    group = (layer[links.source] * n + layer[links.target]) * 2 + links.negative
    if 2 * n * n < 1 << 16:
        group = group.astype(np.uint16)  # which sorts in a tenth of the time
    order = np.argsort(group, kind="stable")
    begins = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=2 * n * n))])
    return Links(links.source[order], links.target[order], links.negative[order], links.n_features), begins


def _layer_of(adjacency: Adjacency) -> np.ndarray:
    """Place of each feature's layer among the set's."""
    return np.repeat(np.arange(len(adjacency.layers)), adjacency.features_per_layer)


def _order(shapes: tuple[str, ...]) -> list[str]:
    """Names of all counts, as they are listed."""
    from queries.shapes import KINDS

    found = []
    for shape in shapes:
        found += [shape, f"{shape} coherent", f"{shape} incoherent"]
        if shape == "feed-forward-loop":
            found += [f"{shape} {kind}" for kind in KINDS.values()]
    return found


def _against(actual: int, drawn: list[int]) -> tuple[float, float, float]:
    """Expected, z and p of a count, from those of the rewired graphs."""
    if not drawn:
        return math.nan, math.nan, math.nan
    # differences of whole numbers first: counts may have more digits than a float
    away = np.array([float(n - drawn[0]) for n in drawn])
    mean = float(away.mean())
    distance = float(actual - drawn[0]) - mean
    deviation = float(away.std(ddof=1)) if len(drawn) > 1 else 0.0
    as_far = int((np.abs(away - mean) >= abs(distance) * (1 - 1e-12)).sum())
    return drawn[0] + mean, distance / deviation if deviation > 0 else math.nan, (1 + as_far) / (1 + len(drawn))


def _key(adjacency: Adjacency, set_key: str, number: int) -> str:
    first = np.concatenate([[0], np.cumsum(adjacency.features_per_layer)])
    at = int(np.searchsorted(first, number, side="right")) - 1
    model, _, name = set_key.partition("/")
    return f"{model}/{adjacency.layers[at]}-{name}/{number - int(first[at])}"
