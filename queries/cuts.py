"""What may be missing from an answer: the largest value that was cut away, in the unit of the answer's order.

A build keeps the strongest connections of every feature and token and stores, on the feature, the largest that it left
out (the ``cut_…`` properties of :data:`atlas.schema.NODES`). Every function here turns those into one number, the
**bound**: nothing left out has a larger size than it. 0 says that nothing was left out; infinity that the cuts imply
nothing for this order. An answer is complete when its last row lies above the bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atlas.errors import BadSetting

UNKNOWN = math.inf
EVIDENCE = ("drive", "twera", "coactivation")
"""orders that need an observed text"""
AMONG_LIVE = "of sources that are live: active at 10 positions or more, and at more than one in 10,000"
"""what by drive and TWERA is meant by complete: of sources that hardly ever fire, none was looked for"""
_SLACK = 1 + 1e-6
"""What is derived from stored float32 statistics is rounded up by this factor."""


def kept(stored: str) -> dict[str, Any]:
    """What a set kept, from its property ``cut``; nothing known where it cannot be read."""
    try:
        found = json.loads(stored)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def features(
    properties: Mapping[str, Any], side: str, by: str, positions: Sequence[int], cut: Mapping[str, Any]
) -> float:
    """Bound on a feature's FEEDS connections, ``side`` in or out, with the layers at ``positions`` of its set."""
    by_layer = _numbers(properties[f"cuts_{side}_by_layer"])
    largest = max((by_layer[at] if at < len(by_layer) else UNKNOWN for at in positions), default=0.0)
    if largest == 0 or by == "weight":
        return largest
    if by == "z":
        return _min_z(_number(properties[f"cut_{side}_z"]), cut)
    # A share is of the target: one denominator for what comes in, another for each feature it goes out to.
    return _over(largest, properties["l1_in"]) if side == "in" else UNKNOWN


def tokens(properties: Mapping[str, Any], side: str, by: str, sign: int, cut: Mapping[str, Any]) -> float:
    """Bound on a feature's tokens (``side`` in: ACTIVATES) or logits (out: PROMOTES), of one sign (1, -1) or both (0).

    Shares of logits are of many targets, so nothing is known of them.
    """
    kind = "token" if side == "in" else "logit"
    positive = _number(properties[f"cut_{kind}_pos"]) if sign >= 0 else 0.0
    negative = _number(properties[f"cut_{kind}_neg"]) if sign <= 0 else 0.0
    largest = max(positive, negative)
    if largest == 0 or by == "weight":
        return largest
    if by == "z":
        mean, deviation = _number(properties[f"mean_{kind}s"]), _number(properties[f"std_{kind}s"])
        # Weights left out lie in [-negative, positive]; so far from the mean can they be.
        return _min_z(_over(max(abs(positive - mean), abs(-negative - mean)), deviation), cut)
    return _over(largest, properties["l1_in"]) if side == "in" else UNKNOWN


def features_of_token(
    strongest: Sequence[Mapping[str, Any]], by: str, one_target: bool, cut: Mapping[str, Any]
) -> float:
    """Bound on the features of one set that a token excites, or that promote it (``one_target``).

    ``strongest``: its kept connections with the set, the strongest by weight first, at least as many as the build
    keeps for each token.
    """
    count = cut.get("features_per_token")
    if not isinstance(count, int) or count < 1:
        return _min_z(UNKNOWN, cut) if by == "z" else UNKNOWN
    if len(strongest) < count:
        return 0.0
    last = strongest[count - 1]
    # As strong as the last that must be there is strong enough: hence the next number below.
    if by == "weight":
        return float(np.nextafter(np.float32(abs(last["weight"])), np.float32(0)))
    if by == "share" and one_target:
        return float(np.nextafter(np.float32(last["share"]), np.float32(0)))
    return _min_z(UNKNOWN, cut) if by == "z" else UNKNOWN


def by_evidence(sizes: Sequence[float], found: int) -> float:
    """Bound on live sources of a live target by drive or TWERA: an observation finds the strongest of them exactly.

    ``sizes``: of the stored connections, the strongest first; ``found``: how many were looked for.
    """
    return 0.0 if len(sizes) < found else float(np.nextafter(np.float32(sizes[found - 1]), np.float32(0)))


def require_observed(set_key: str, observation: Mapping[str, Any], *, heads: bool = False) -> None:
    """Raises BadSetting where no text was observed for a set; with ``heads``, where none was with its heads."""
    if not observation:
        raise BadSetting(
            f"nothing was observed for {set_key}, so there is no drive, TWERA or coactivation; "
            f"run `atlas observe {set_key} --text FILE` first"
        )
    if heads and not observation.get("heads"):
        raise BadSetting(
            f"the observation {observation.get('name', '')!r} of {set_key} says nothing of attention heads: the "
            f"set was built without them (`atlas ingest --heads`), or observed without (`atlas observe {set_key}`)"
        )


def complete(sizes: Sequence[float], k: int, smallest: float, bound: float) -> bool:
    """Whether nothing left out belongs among these rows: sizes descending, at most ``k``, all ``smallest`` or more."""
    return bound <= 0 or smallest > bound or (len(sizes) >= k and sizes[-1] > bound)


def _min_z(bound: float, cut: Mapping[str, Any]) -> float:
    """A build with ``min_z`` keeps everything of that abs(z) or more, whatever else it cuts."""
    least = cut.get("min_z")
    return min(bound, float(least)) if isinstance(least, int | float) and least > 0 else bound


def _over(size: float, whole: Any) -> float:
    denominator = _number(whole)
    return size / denominator * _SLACK if 0 < denominator < UNKNOWN else UNKNOWN


def _number(value: Any) -> float:
    number = float(value) if value is not None else math.nan
    return UNKNOWN if math.isnan(number) else number


def _numbers(values: Any) -> list[float]:
    return [_number(value) for value in values] if isinstance(values, list | tuple | np.ndarray) else []
