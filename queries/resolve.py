"""From what a person types to a node of this atlas.

:func:`atlas.model.parse` knows every way of writing a key; here each becomes one canonical key that exists, or an error
that names the nearest that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import Ambiguous, BadKey
from atlas.model import FeatureKey, HeadKey, SaeLensKey, ShortKey, TokenKey, TokenText, parse
from queries.catalog import records
from queries.held import EMPTY, HERE, Held, as_text, held, nearest, of_model, one_set, shown

if TYPE_CHECKING:
    from atlas.stores import Store

Key = str | FeatureKey | TokenKey
"""What every question takes for a node: any text that :func:`atlas.model.parse` reads, or the parsed key."""

_LAYER_OF_SAE = re.compile(r"(?:layer|layers|blocks|l|h)[._]?(\d+)(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Node:
    """A node that is in the atlas, with all its properties."""

    key: str
    type: str
    """Feature or Token"""
    layer: int | None
    label: str
    """for a token, its text"""
    properties: dict[str, Any]

    @property
    def set(self) -> str:
        """The feature's set, such as ``gpt2-small/tc-24k``."""
        return self.properties["set_key"]

    def sets(self, held: Sequence[Held]) -> list[Held]:
        """Those that the node's connections belong to: a feature's own set, or all that know the token."""
        if self.type == "Feature":
            return [one for one in held if one.key == self.set]
        return [one for one in held if one.vocabulary == self.properties["vocabulary"]]


def resolve(graph: Store, key: Key, *, set: str | None = None, model: str | None = None) -> Node:
    """The node a key names. ``set`` (``MODEL/SET``, or a part of it that is enough) is where short keys belong;
    ``model`` says which vocabulary a token's text is looked up in.

    Raises BadKey, with the nearest that exists, and Ambiguous, with the candidates.
    """
    reference = parse(as_text(key)) if not isinstance(key, FeatureKey | TokenKey) else key
    match reference:
        case FeatureKey():
            return _feature(graph, reference)
        case TokenKey():
            return _token(graph, reference)
        case HeadKey():
            raise BadKey(f"{key!s} is an attention head; this atlas has features and tokens")
        case ShortKey():
            home = one_set(held(graph), set, model, f"{key!s} is a feature of")
            owner, _, name = home.key.partition("/")
            return _feature(graph, FeatureKey(owner, reference.layer, name, reference.idx))
        case SaeLensKey():
            return _feature(graph, _saelens(graph, reference))
        case TokenText():
            return _token_by_text(graph, reference.text, set, model)


def resolve_all(graph: Store, keys: Key | Iterable[Key], *, set: str | None = None) -> tuple[list[Node], bool]:
    """Every node of one key or of many, and whether it was many. A key given twice counts once."""
    if isinstance(keys, str | FeatureKey | TokenKey):
        return [resolve(graph, keys, set=set)], False
    if not isinstance(keys, Iterable):
        raise BadKey(f"{shown(keys)} is no key and no list of keys")
    found: dict[str, Node] = {}
    for key in keys:
        node = resolve(graph, key, set=set)
        found.setdefault(node.key, node)
    if not found:
        raise BadKey("the list of keys is empty; give one key or more")
    return list(found.values()), True


def _feature(graph: Store, key: FeatureKey) -> Node:
    found = records(graph, "feature", key=str(key))
    if not found:
        raise BadKey(_why_no_feature(graph, key))
    properties = found[0]
    return Node(str(key), "Feature", int(properties["layer"]), str(properties["label"]), properties)


def _token(graph: Store, key: TokenKey) -> Node:
    found = records(graph, "token", key=str(key))
    if not found:
        vocabularies = [one.vocabulary for one in held(graph)]
        if key.vocabulary not in vocabularies:
            near = nearest(key.vocabulary, vocabularies)
            raise BadKey(f"{key} is not in this atlas: it has no vocabulary {key.vocabulary!r}{near}{HERE}")
        raise BadKey(f"{key} is not in this atlas: the vocabulary {key.vocabulary!r} has no token {key.token_id}")
    return _token_node(found[0])


def _token_node(row: dict[str, Any]) -> Node:
    return Node(str(row["key"]), "Token", None, str(row["text"]), row)


def _why_no_feature(graph: Store, key: FeatureKey) -> str:
    """What of a key is not there: the model, the set, the layer or the index, with what is."""
    sets = held(graph)
    missing = f"{key} is not in this atlas: "
    if not sets:
        return missing + EMPTY
    models = [one.model for one in sets]
    if key.model not in models:
        return f"{missing}there is no model {key.model!r}{nearest(key.model, models)}{HERE}"
    own = [one.key for one in sets if one.model == key.model]
    if key.set_key not in own:
        return f"{missing}there is no set {key.set_key!r}{nearest(key.set_key, own, always=True)}{HERE}"
    sizes = {row["layer"]: row["features"] for row in records(graph, "layers", set=key.set_key)}
    if key.layer not in sizes:
        return f"{missing}{key.set_key} has the layers {spans(sizes)}"
    return f"{missing}layer {key.layer} of {key.set_key} has the features 0 to {sizes[key.layer] - 1:,}"


def _saelens(graph: Store, key: SaeLensKey) -> FeatureKey:
    sets = held(graph)
    own = [one.key for one in sets if one.saelens_release == key.release]
    if not own:
        near = nearest(key.release, (one.saelens_release for one in sets if one.saelens_release))
        raise BadKey(f"no set in this atlas is SAELens' release {key.release!r}{near}{HERE}")
    layer = _LAYER_OF_SAE.search(key.sae_id) or re.fullmatch(r"(\d+)", key.sae_id)
    if layer is None:
        raise BadKey(f"SAELens' id {key.sae_id!r} names no layer; {own[0]} is the set: write the feature's own key")
    features = [
        FeatureKey(owner, int(layer[1]), name, key.idx)
        for owner, _, name in (set_key.partition("/") for set_key in own)
    ]
    if len(features) > 1:
        raise Ambiguous(f"{key.release!r} is several sets here: {', '.join(map(str, features[:8]))}; give one of these")
    return features[0]


def _token_by_text(graph: Store, text: str, set: str | None, model: str | None) -> Node:
    text = as_text(text)
    found = records(graph, "tokens_by_text", text=text)
    vocabularies = vocabularies_of(graph, set, model)
    own = found if vocabularies is None else [row for row in found if row["vocabulary"] in vocabularies]
    if not own:
        raise BadKey(f"no token{' of that model' if found else ''} says {text!r}{_near_tokens(graph, text)}")
    if len(own) > 1:
        names = ", ".join(row["key"] for row in own[:8])
        several = len({row["vocabulary"] for row in own}) > 1
        which = "several vocabularies have" if several else "several tokens say"
        raise Ambiguous(f"{which} {text!r}: {names}; give one of these keys" + (", or name the model" * several))
    return _token_node(own[0])


def vocabularies_of(graph: Store, set: str | None, model: str | None) -> list[str] | None:
    """Vocabularies of the model or set that was named; None where none was. Raises BadKey, Ambiguous."""
    if set is not None:
        return [one_set(held(graph), set, model, "the token is of").vocabulary]
    return None if model is None else [one.vocabulary for one in of_model(held(graph), model)]


def _near_tokens(graph: Store, text: str) -> str:
    """Tokens that say the same but for a leading space or capitals."""
    bare = text.strip()
    forms = dict.fromkeys(
        space + form for form in (bare, bare.lower(), bare.capitalize(), bare.upper()) if bare for space in (" ", "")
    )
    near = [form for form in forms if form != text and records(graph, "tokens_by_text", text=form)]
    return "; there is " + ", ".join(f"token:{form!r}" for form in near[:4]) if near else ""


def spans(layers: Iterable[int]) -> str:
    """Layers as a person writes them: ``0-3, 7``."""
    runs: list[list[int]] = []
    for layer in sorted(int(layer) for layer in layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
