"""Everything about one node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from queries import cuts
from queries.answers import EVIDENCE, NEIGHBOURS, choice, count, from_records
from queries.catalog import records
from queries.evidence import summary
from queries.held import Held, envelope, held, one_or_list
from queries.neighbours import BY, Filter, around, size
from queries.resolve import Key, Node, resolve

if TYPE_CHECKING:
    from atlas.stores import Store

_STATISTICS = (
    "bias",
    "threshold",
    "constant",
    "norm_enc",
    "norm_dec",
    "l1_in",
    "l1_out",
    "mean_tokens",
    "std_tokens",
    "mean_logits",
    "std_logits",
)


def card(
    graph: Store, key: Key, *, set: str | None = None, k: int = 4, by: str = "z", live: bool = False
) -> dict[str, Any]:
    """Everything about a feature or a token, as a dict.

    ``key, type, label``, for a feature ``model, set, layer, layers`` (of the model), ``idx, features`` (of its layer),
    ``label_source``, ``descriptions`` (each with text, method, explainer, scores, created), ``statistics`` (properties
    of the node, in the units of :data:`atlas.schema.NODES`), ``evidence`` (what it does on the observed text,
    :func:`queries.evidence.summary`, or None) and ``page`` (its address on Neuronpedia, or None); for a token
    ``vocabulary, token_id, models``. Where the build has heads, a feature has ``heads`` (those that can move it most,
    each with key and norm) and, where positions are learned, ``positions`` (the 16 that move it most, with weight).
    ``inputs`` and ``outputs`` are frames with the columns of :func:`queries.inputs` (with those of evidence where a
    text was observed): the ``k`` strongest tokens by abs(z), then the ``k`` strongest features; ``by``, ``live``: in
    another order, and only what is active together, as for :func:`queries.inputs`; ``observation`` then names the text.
    ``complete`` says that nothing that was cut belongs among them; ``cut``, ``weight``, ``run`` as in every answer.
    Raises BadKey, Ambiguous, BadSetting.
    """
    asked = Filter(k=count("k", k), by=choice("by", by, BY), live=live)
    node = resolve(graph, key, set=set)
    sets = node.sets(held(graph))
    for one in sets if asked.evidence else ():
        cuts.require_observed(one.key, one.observation)
    found: dict[str, Any] = {"key": node.key, "type": node.type, "label": node.label}
    found |= _feature(graph, node, sets[0]) if node.type == "Feature" else _token(node, sets)
    whole, bounds = True, []
    columns = NEIGHBOURS | EVIDENCE if any(one.observation for one in sets) else NEIGHBOURS
    for direction in ("inputs", "outputs"):
        parts: list[dict[str, Any]] = []
        for of in ("tokens", "features"):
            part, bound = around(graph, node, direction, replace(asked, of=of), sets)
            whole &= cuts.complete([size(row, by) for row in part], k, 0.0, bound)
            bounds.append(bound)
            parts += part
        found[direction] = from_records(parts, columns)
    if asked.evidence:
        found["observation"] = one_or_list([one.observation for one in sets])
    return found | envelope(sets, by, whole, max(bounds))


def _feature(graph: Store, node: Node, own: Held) -> dict[str, Any]:
    properties = node.properties
    (last,) = records(graph, "layer_size", model=own.model, set=node.set, layer=node.layer)
    return {
        "model": own.model,
        "set": node.set,
        "layer": node.layer,
        "layers": own.model_layers,
        "idx": int(properties["idx"]),
        "features": int(last["features"]),
        "label_source": str(properties["label_source"]),
        "descriptions": records(graph, "descriptions", key=node.key),
        "statistics": {name: float(properties[name]) for name in _STATISTICS},
        "evidence": summary(graph, node, own),
        **_through(graph, node),
        "page": _page(own.neuronpedia_id, node, int(properties["idx"])),
    }


def _through(graph: Store, node: Node) -> dict[str, Any]:
    """What attention heads and learned positions can do to a feature; empty where the build has no heads."""
    found = records(graph, "feature_heads", key=node.key)[0]

    def pairs(names: str, numbers: str, as_: tuple[str, str]) -> list[dict[str, Any]]:
        return [
            {as_[0]: name, as_[1]: float(number)}
            for name, number in zip(_listed(found[names]), _listed(found[numbers]), strict=True)
        ]

    heads = pairs("head_keys", "head_norms", ("head", "norm"))
    positions = pairs("place", "place_weights", ("position", "weight"))
    return ({"heads": heads} if heads else {}) | ({"positions": positions} if positions else {})


def _listed(value: Any) -> list[Any]:
    return value or []


def _token(node: Node, sets: list[Held]) -> dict[str, Any]:
    return {
        "vocabulary": node.properties["vocabulary"],
        "token_id": int(node.properties["token_id"]),
        "models": list(dict.fromkeys(one.model for one in sets)),
    }


def _page(neuronpedia_id: str, node: Node, idx: int) -> str | None:
    """The feature's page on Neuronpedia: MODEL/LAYER-SOURCE/INDEX, where the set has a name there."""
    if not neuronpedia_id:
        return None
    model, _, source = neuronpedia_id.rpartition("/")
    return f"https://www.neuronpedia.org/{model or node.properties['model']}/{node.layer}-{source}/{idx}"
