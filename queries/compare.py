"""Two models, or two sets of one: which features stand for each other, and what only one of them has."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.errors import BadKey, BadSetting
from atlas.matches import Matches, matches
from atlas.provenance import Run
from queries.alike import Best, best
from queries.answers import choice, count, rows
from queries.catalog import ask
from queries.held import Held, envelope, held, one_set
from queries.profiles import BLOCKS, Numbered, both, numbered

if TYPE_CHECKING:
    from atlas.stores import Progress, Store

COLUMNS = {
    "key_a": "text",
    "key_b": "text",
    "score": "double",
    "null_p": "double",
    "mutual": "flag",
    "label_a": "text",
    "label_b": "text",
}


def compare(
    graph: Store,
    a: str,
    b: str,
    *,
    by: str = "tokens",
    p: float = 0.01,
    only: str | None = None,
    k: int | None = None,
) -> pd.DataFrame:
    """Every feature of one set with its best counterpart in another, of the same model or of another.

    ``a``, ``b``: sets, or models that have one. ``by``: ``tokens`` (the tokens a feature reads and the logits it
    writes), ``inputs`` or ``outputs`` (one of the two), ``description`` (the words said of it), ``all`` (tokens, and
    words where both features have some). ``score`` is the mean of the cosines of z in each of these, over all that the
    builds kept: 1 is the same profile. Two vocabularies meet in the tokens whose text only one token of each has.
    ``null_p``: how often chance would let a feature's best score stand out so far from its others, when nothing in the
    other set stands for it (:mod:`queries.alike`): even over 0 to 1 if the tail of those others, from the fourth on, is
    exponential; too large where it is lighter, too small where it is heavier. On sets of random directions it was
    right or a little too large (``python -m tests.bench.figures_null``). Up to three features of the other set may
    stand for one.
    ``mutual``: each is the other's best.

    Rows are the features of ``a``, the best score first, ties by layer and index; ``k``: only so many. ``only="a"``:
    those of ``a`` without a counterpart (``null_p`` above ``p``), the least alike first, each with the nearest there
    is; ``only="b"`` likewise. Columns ``key_a, key_b, score, null_p, mutual, label_a, label_b``.
    ``attrs`` count: ``matched`` (mutual and ``null_p`` at most ``p``), ``only_a``, ``only_b``, ``shared_tokens``.
    Memory: about 100 B a connection with a token, 300 B a feature, and 300 MB. Raises BadKey, Ambiguous, BadSetting.
    """
    choice("by", by, tuple(BLOCKS))
    if only is not None:
        choice("only", only, ("a", "b"))
    limit = None if k is None else count("k", k)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p <= 1:
        raise BadSetting(f"p is {ascii(p)[:40]}; give a number above 0, and 1 at most")
    left, right = two_sets(graph, a, b)
    one, other = numbered(graph, left), numbered(graph, right)
    mine, theirs, shared = both(graph, one, other, by)
    forth, back = best(mine, theirs), best(theirs, mine)
    mutual = _mutual(forth, back)
    listed = (forth, mutual) if only != "b" else (back, _mutual(back, forth))
    frame, total = _rows(graph, one, other, *listed, only=only, p=float(p), k=limit)
    settings = {"by": by}
    run = Run({"a": {"set": left.key, "run": left.run}, "b": {"set": right.key, "run": right.run}}, settings)
    matched = int((mutual & (forth.null_p <= p)).sum())
    only_a, only_b = int((forth.null_p > p).sum()), int((back.null_p > p).sum())
    frame.attrs = envelope([left, right], "z", False, math.inf)
    frame.attrs |= settings | {
        "score": "score",
        "p": float(p),
        "only": only,
        "compared_by": run.id,
        "shared_tokens": shared,
    }
    frame.attrs |= {"matched": matched, "only_a": only_a, "only_b": only_b}
    frame.attrs["note"] = (
        f"{matched:,} matched one to one, {only_a:,} of {one.n:,} only in {left.key}, "
        f"{only_b:,} of {other.n:,} only in {right.key} (null_p {'above' if only else 'up to'} {p:g})"
    )
    if total > len(frame):
        frame.attrs["note"] += f"; the first {len(frame):,} of {total:,}"
    return frame


def first(found: pd.DataFrame, k: int) -> pd.DataFrame:
    """The first rows of a comparison."""
    part = found.head(k).copy()
    part.attrs = {**found.attrs}
    if len(found) > k:
        part.attrs["note"] += f"; the first {k:,} of {len(found):,}"
    return part


def matches_of(found: pd.DataFrame) -> Matches:
    """What of a comparison is worth keeping: its mutual rows of ``null_p`` at most ``p``, for :meth:`Store.match`.

    Raises BadSetting for a frame that :func:`compare` did not make, or that lists what only one has.
    """
    if not {"compared_by", "set", "run"} <= found.attrs.keys():
        raise BadSetting("these rows are no comparison of two sets; give what queries.compare returned")
    if found.attrs["only"]:
        raise BadSetting("these rows are what only one set has; give what queries.compare returns without only")
    left, right = found.attrs["set"]
    runs = found.attrs["run"] if isinstance(found.attrs["run"], list) else [found.attrs["run"]] * 2
    settings = {"by": found.attrs["by"]}
    run = Run({"a": {"set": left, "run": runs[0]}, "b": {"set": right, "run": runs[1]}}, settings)
    kept = found[found["mutual"] & (found["null_p"] <= found.attrs["p"])]
    pairs = zip(kept["key_a"], kept["key_b"], kept["score"], kept["null_p"], strict=True)
    return matches({left: runs[0], right: runs[1]}, settings["by"], run, pairs)


def keep(found: pd.DataFrame, store: str | Path | None = None, progress: Progress | None = None) -> int:
    """Keep what a comparison found as MATCHES in an atlas, in place of what the same method found before.

    ``found``: all rows of :func:`compare`, without ``k`` and ``only``. ``store``: a folder or an address; the usual one
    if not said. Returns how many matches there are. Raises BadKey where a set is no longer there as it was compared.
    """
    from atlas.stores import open_store

    made = matches_of(found)
    with open_store(store, read_only=False) as graph:
        graph.match(made, progress)
    return len(made.table)


def two_sets(graph: Store, a: str, b: str) -> tuple[Held, Held]:
    """Two different sets by their keys, or by models that have one each. Raises BadKey, Ambiguous."""
    sets = held(graph)
    left, right = (one_set(sets, name, None, "compare") for name in (a, b))
    if left.key == right.key:
        raise BadKey(f"{left.key} is both; a comparison needs two different sets")
    return left, right


def _mutual(forth: Best, back: Best) -> np.ndarray:
    there = forth.partner >= 0
    return there & (back.partner[np.where(there, forth.partner, 0)] == np.arange(len(forth.partner)))


def _rows(
    graph: Store,
    one: Numbered,
    other: Numbered,
    found: Best,
    mutual: np.ndarray,
    *,
    only: str | None,
    p: float,
    k: int | None,
) -> tuple[pd.DataFrame, int]:
    """The rows that are asked for, in order, and how many there would be without ``k``."""
    order = np.argsort(found.score if only else -found.score, kind="stable")
    order = order[found.null_p[order] > p] if only else order
    total = len(order)
    mine, theirs = (other, one) if only == "b" else (one, other)
    labels = [_labels(graph, side) for side in (mine, theirs)] if total else [{}, {}]
    made = []
    for at in order[:k].tolist():
        partner = int(found.partner[at])
        key, best_key = mine.key(at), theirs.key(partner) if partner >= 0 else ""
        label, best_label = labels[0][key], labels[1].get(best_key, "")
        ends = (best_key, key) if only == "b" else (key, best_key)
        names = (best_label, label) if only == "b" else (label, best_label)
        made.append((*ends, float(found.score[at]), float(found.null_p[at]), bool(mutual[at]), *names))
    return rows(made, COLUMNS), total


def _labels(graph: Store, one: Numbered) -> dict[str, str]:
    model, _, name = one.own.key.partition("/")
    found: dict[str, str] = {}
    for layer in one.layers:
        listed = ask(graph, "layer_labels", model=one.own.model, set=one.own.key, layer=layer)
        texts = zip(listed["idx"].tolist(), listed["label"].tolist(), strict=True)
        found |= {f"{model}/{layer}-{name}/{idx}": str(label) for idx, label in texts}
    return found
