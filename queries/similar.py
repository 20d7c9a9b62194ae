"""Features alike: those that read or write the same, or of which the same is said, within a set and across models."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.errors import BadKey, BadSetting
from queries import cosines, cuts, meaning
from queries.answers import choice, count, rows
from queries.catalog import records
from queries.encoder import Encoder
from queries.held import Held, envelope, held, of_model, one_or_list, one_set
from queries.labels import called
from queries.meaning import Progress
from queries.neighbours import BY, LAST_LAYER, Filter, around, column
from queries.present_text import quoted
from queries.resolve import Key, Node, resolve

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = {"key": "text", "layer": "int", "label": "text", "text": "text", "score": "float", "matched_by": "text"}
PROBES = 24
"""The node's strongest neighbours through which candidates are found."""
_ALL = 1_000_000
_PER_PROBE = 500
Profile = dict[str, tuple[float, str]]
"""z, or another number, and label of every kept neighbour, by key."""


def similar(
    graph: Store,
    key: Key,
    *,
    by: str = "inputs",
    model: str | None = None,
    set: str | None = None,
    k: int = 20,
    of: str = "z",
    live: bool = False,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Features that are like a feature, the most alike first.

    ``by``: ``inputs`` (tokens and earlier features that they read) or ``outputs`` (logits and later features). The
    score is the cosine of the z of all kept connections: 1 is the same profile, 0 nothing in common. Features of one
    set are compared by tokens and features, those of different sets or models by the tokens that they share.
    ``of``: the cosine of another number of these connections instead of z: weight, share, or, where a text was
    observed, drive, TWERA or coactivation (how often both ends are active). ``live``: only of connections whose ends
    are active together on that text, which ``attrs["observation"]`` names; only features of sets that were observed.
    ``model``, ``set``: only their features; without either, all that share the vocabulary.
    Looked at are the features that share one of the 24 strongest neighbours, the 3 ``k`` of most overlap there.
    ``description``: what is said of them, their labels included; the score is the largest cosine between the vectors
    of a text of one and a text of the other (see :func:`queries.search` by meaning; ``encoder``, ``progress`` too).
    All features are looked at, whatever their vocabulary.
    ``encoder``, ``decoder``: the vectors with which they read from the stream, or write into it, over all features of
    all sets of the same model; see :mod:`queries.cosines` for what that takes.

    Columns ``key, layer, label, text`` (the strongest of what they share; empty for vectors), ``score``, and
    ``matched_by`` (= ``by``).
    Raises BadKey for a token, Ambiguous, BadSetting, and BadBuild where vectors are asked for and absent.
    """
    choice("by", by, ("inputs", "outputs", "description", *cosines.VECTORS))
    count("k", k)
    asked = Filter(k=_ALL, by=choice("of", of, BY), live=live)
    if by not in ("inputs", "outputs") and (of != "z" or live):
        raise BadSetting(
            f"{by} is no matter of connections, so it is not of {of} and not live; ask by inputs or outputs"
        )
    node = resolve(graph, key, set=set if model is None else None)
    if node.type != "Feature":
        raise BadKey(f"{node.key} is a token; features are compared, `atlas outputs {node.key}` lists those it excites")
    sets = held(graph)
    if by in cosines.VECTORS:
        wanted = [one_set(sets, set, model, "the features are of")] if set is not None else sets
        return cosines.alike(graph, node, wanted if model is None else of_model(wanted, model), by, k)
    own = node.sets(sets)[0]
    scope = [one for one in sets if by == "description" or one.vocabulary == own.vocabulary]
    if set is not None:
        chosen = one_set(sets, set, model, "the features are of")
        scope = [one for one in scope if one == chosen]
    elif model is not None:
        scope = [one for one in of_model(sets, model) if one in scope]
    if asked.evidence:
        for one in (own, *(scope if set is not None else ())):
            cuts.require_observed(one.key, one.observation)
        scope = [one for one in scope if one.observation]
    if by == "description":
        return _said_alike(graph, node, own, scope, k, meaning.chosen(encoder), progress)
    mine = _profile(graph, node, by, sets, asked)
    ranked = []
    for other in _candidates(graph, node, mine, by, [one.key for one in scope], asked)[: 3 * k]:
        candidate = resolve(graph, other)
        theirs = _profile(graph, candidate, by, sets, asked)
        score, shared = _cosine(mine, theirs, tokens_only=candidate.set != node.set)
        if score > 0:
            ranked.append((candidate.key, candidate.layer, candidate.label, shared, score, by))
    ranked.sort(key=lambda row: (-row[4], row[0]))
    frame = rows(ranked[:k], COLUMNS)
    frame.attrs = envelope(scope, of, False, math.inf)
    if asked.evidence:
        frame.attrs["observation"] = one_or_list([one.observation for one in scope])
    probes = f"one of its {PROBES} strongest {by}"
    note = f"among the features that share {probes}" if len(frame) else f"no feature shares {probes}"
    frame.attrs |= {"score": f"cosine of {of}", "by": by, "note": note}
    return frame


def _said_alike(
    graph: Store, node: Node, own: Held, scope: list[Held], k: int, encoder: Encoder, progress: Progress | None
) -> pd.DataFrame:
    said = meaning.kept(graph, own, encoder, progress)
    best: dict[str, meaning.Near] = {}
    for at in said.rows["text"][said.rows["key"] == node.key]:
        vector = said.vectors[int(at)].astype(np.float32)
        near = meaning.nearest(graph, vector, scope, k + 1, encoder, layers=(0, LAST_LAYER), progress=progress)
        for one in near:
            if one.key != node.key and (one.key not in best or best[one.key].score < one.score):
                best[one.key] = one
    order = sorted(best.values(), key=lambda one: (-one.score, one.key))[:k]
    about = called(graph, (one.key for one in order))
    found = [(one.key, one.layer, about[one.key].label, one.text, one.score, "description") for one in order]
    frame = rows(found, COLUMNS)
    frame.attrs = envelope(scope, "cosine", True, 0.0)
    note = f"by {encoder.name}" if found else f"nothing is said of {node.key}, or of any other feature here"
    frame.attrs |= {"score": "cosine of what is said", "by": "description", "note": note}
    return frame


def _profile(graph: Store, node: Node, by: str, sets: list[Held], asked: Filter) -> Profile:
    found, _ = around(graph, node, by, asked, node.sets(sets))
    return {
        row["key"]: (float(row[column(asked.by)]), quoted(row["label"]) if row["type"] == "Token" else row["label"])
        for row in found
    }


def _candidates(graph: Store, node: Node, mine: Profile, by: str, scope: list[str], asked: Filter) -> list[str]:
    """Features that share a strong neighbour, by the overlap through these neighbours."""
    overlap: dict[str, float] = defaultdict(float)
    order = {"by": asked.by, "live": int(asked.live), "limit": _PER_PROBE}
    for neighbour, (size, _) in list(mine.items())[:PROBES]:
        if neighbour.startswith("tok:"):
            query = "token_features" if by == "inputs" else "promoting_features"
            places = [{"set": set_key} for set_key in scope]
        else:
            query = "outputs" if by == "inputs" else "inputs"
            places = [{}] if node.set in scope else []
        for parameters in places:
            for row in records(graph, query, key=neighbour, **order, **parameters):
                overlap[row["key"]] += size * row[column(asked.by)]
    overlap.pop(node.key, None)
    return sorted((key for key, dot in overlap.items() if dot > 0), key=lambda key: (-overlap[key], key))


def _cosine(mine: Profile, theirs: Profile, *, tokens_only: bool) -> tuple[float, str]:
    """Cosine of two profiles, and the three strongest of what both have."""
    if tokens_only:
        mine, theirs = ({key: at for key, at in one.items() if key.startswith("tok:")} for one in (mine, theirs))
    products = {key: mine[key][0] * theirs[key][0] for key in mine.keys() & theirs.keys()}
    lengths = [math.sqrt(sum(z * z for z, _ in one.values())) for one in (mine, theirs)]
    if not products or 0 in lengths:
        return 0.0, ""
    strongest = sorted(products, key=lambda key: (-products[key], key))[:3]
    return sum(products[key] for key in sorted(products)) / (lengths[0] * lengths[1]), ", ".join(
        mine[key][1] for key in strongest if products[key] > 0
    )
