"""From what a person types to a node of this atlas.

:func:`atlas.model.parse` knows every way of writing a key; here each becomes one canonical key that exists, or an error
that names the nearest that does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import Ambiguous, BadKey
from atlas.model import FeatureKey, HeadKey, SaeLensKey, ShortKey, TokenKey, TokenText, parse
from queries.catalog import ask, records

if TYPE_CHECKING:
    from atlas.stores import Store

Key = str | FeatureKey | TokenKey
"""What every question takes for a node: any text that :func:`atlas.model.parse` reads, or the parsed key."""

_LAYER_OF_SAE = re.compile(r"(?:layer|layers|blocks|l|h)[._]?(\d+)(?!\d)", re.IGNORECASE)
_HERE = "`atlas models` and `atlas sets` list what is here."


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


def resolve(graph: Store, key: Key, *, set: str | None = None, model: str | None = None) -> Node:
    """The node a key names. ``set`` (``MODEL/SET``, or a part of it that is enough) is where short keys belong;
    ``model`` says which vocabulary a token's text is looked up in.

    Raises BadKey, with the nearest that exists, and Ambiguous, with the candidates.
    """
    reference = parse(_text(key)) if not isinstance(key, FeatureKey | TokenKey) else key
    match reference:
        case FeatureKey():
            return _feature(graph, reference)
        case TokenKey():
            return _token(graph, reference)
        case HeadKey():
            raise BadKey(f"{key!s} is an attention head; this atlas has features and tokens")
        case ShortKey():
            home = one_set(graph, set, model, f"{key!s} is a feature of")
            owner, _, name = home.partition("/")
            return _feature(graph, FeatureKey(owner, reference.layer, name, reference.idx))
        case SaeLensKey():
            return _feature(graph, _saelens(graph, reference))
        case TokenText():
            return _token_by_text(graph, reference.text, set, model)


def resolve_all(graph: Store, keys: Key | Iterable[Key], *, set: str | None = None) -> tuple[list[Node], bool]:
    """Every node of one key or of many, and whether it was many. A key given twice counts once."""
    many = not isinstance(keys, str | FeatureKey | TokenKey)
    if many and not isinstance(keys, Iterable):
        raise BadKey(f"{_shown(keys)} is no key and no list of keys")
    found: dict[str, Node] = {}
    for key in keys if many else [keys]:  # type: ignore[union-attr]
        node = resolve(graph, key, set=set)
        found.setdefault(node.key, node)
    if not found:
        raise BadKey("the list of keys is empty; give one key or more")
    return list(found.values()), many


def one_set(graph: Store, set: str | None, model: str | None, what: str) -> str:
    """The key of the one set that is meant: ``set`` in full or in part, else the only one there is."""
    sets = ask(graph, "sets")
    if sets.empty:
        raise BadKey("the atlas is empty; `atlas ingest bunny` puts the bundled model into it")
    if set is not None:
        wanted = _text(set)
        full = sets["set_key"] == wanted
        chosen = sets[full if full.any() else sets["set_key"].str.endswith("/" + wanted) | (sets["model"] == wanted)]
        if chosen.empty:
            raise BadKey(f"there is no set {_shown(set)} in this atlas{_nearest(wanted, sets['set_key'])}{_HERE}")
    else:
        chosen = sets
    if model is not None:
        chosen = chosen[chosen["model"] == known_model(sets, model)]
    if len(chosen) != 1:
        names = ", ".join(chosen["set_key"].head(8))
        raise Ambiguous(
            f"{what} which set? There are {names}; name one with set (--set MODEL/SET) or write the full key"
        )
    return str(chosen["set_key"].iloc[0])


def known_model(sets: pd.DataFrame, model: str) -> str:
    """A model's name as it stands, once it is known to have a set here. Raises BadKey with the nearest."""
    wanted = _text(model)
    if wanted not in set(sets["model"]):
        raise BadKey(f"there is no model {_shown(model)} in this atlas{_nearest(wanted, sets['model'])}{_HERE}")
    return wanted


def _feature(graph: Store, key: FeatureKey) -> Node:
    found = records(graph, "feature", key=str(key))
    if not found:
        raise BadKey(_why_no_feature(graph, key))
    properties = found[0]
    return Node(str(key), "Feature", int(properties["layer"]), str(properties["label"]), properties)


def _token(graph: Store, key: TokenKey) -> Node:
    found = records(graph, "token", key=str(key))
    if not found:
        sets = ask(graph, "sets")
        if key.vocabulary not in set(sets["vocabulary"]):
            near = _nearest(key.vocabulary, sets["vocabulary"])
            raise BadKey(f"{key} is not in this atlas: it has no vocabulary {key.vocabulary!r}{near}{_HERE}")
        raise BadKey(f"{key} is not in this atlas: the vocabulary {key.vocabulary!r} has no token {key.token_id}")
    return _token_node(found[0])


def _token_node(row: dict[str, Any]) -> Node:
    return Node(str(row["key"]), "Token", None, str(row["text"]), row)


def _why_no_feature(graph: Store, key: FeatureKey) -> str:
    """What of a key is not there: the model, the set, the layer or the index, with what is."""
    sets = ask(graph, "sets")
    missing = f"{key} is not in this atlas: "
    if sets.empty:
        return f"{missing}the atlas is empty; `atlas ingest bunny` puts the bundled model into it"
    if key.model not in set(sets["model"]):
        return f"{missing}there is no model {key.model!r}{_nearest(key.model, sets['model'])}{_HERE}"
    own = sets[sets["model"] == key.model]["set_key"]
    if key.set_key not in set(own):
        return f"{missing}there is no set {key.set_key!r}{_nearest(key.set_key, own, always=True)}{_HERE}"
    layers = ask(graph, "layers", set=key.set_key)
    here = layers[layers["layer"] == key.layer]
    if here.empty:
        return f"{missing}{key.set_key} has the layers {spans(layers['layer'])}"
    return f"{missing}layer {key.layer} of {key.set_key} has the features 0 to {here['features'].iloc[0] - 1:,}"


def _saelens(graph: Store, key: SaeLensKey) -> FeatureKey:
    sets = ask(graph, "sets")
    own = sets[sets["saelens_release"] == key.release]
    if own.empty:
        near = _nearest(key.release, sets["saelens_release"][sets["saelens_release"] != ""])
        raise BadKey(f"no set in this atlas is SAELens' release {key.release!r}{near}{_HERE}")
    layer = _LAYER_OF_SAE.search(key.sae_id) or re.fullmatch(r"(\d+)", key.sae_id)
    if layer is None:
        raise BadKey(
            f"SAELens' id {key.sae_id!r} names no layer; write {own['set_key'].iloc[0]} with its layer instead"
        )
    features = [
        FeatureKey(owner, int(layer[1]), name, key.idx)
        for owner, _, name in (str(set_key).partition("/") for set_key in own["set_key"])
    ]
    if len(features) > 1:
        raise Ambiguous(f"{key.release!r} is several sets here: {', '.join(map(str, features[:8]))}; give one of these")
    return features[0]


def _token_by_text(graph: Store, text: str, set: str | None, model: str | None) -> Node:
    text = _text(text)
    vocabularies = _vocabularies(graph, set, model)
    found = ask(graph, "tokens_by_text", text=text)
    own = found[found["vocabulary"].isin(vocabularies)] if vocabularies is not None else found
    if own.empty:
        raise BadKey(f"no token{' of that model' if len(found) else ''} says {text!r}{_near_tokens(graph, text)}")
    if len(own) > 1:
        names = ", ".join(own["key"].head(8))
        several = "several vocabularies have" if own["vocabulary"].nunique() > 1 else "several tokens say"
        raise Ambiguous(f"{several} {text!r}: {names}; give one of these keys, or name the model")
    return _token_node(own.iloc[0].to_dict())


def _vocabularies(graph: Store, set: str | None, model: str | None) -> list[str] | None:
    """Vocabularies of the model or set that was named; None where none was."""
    if set is None and model is None:
        return None
    sets = ask(graph, "sets")
    chosen = sets
    if set is not None:
        chosen = sets[sets["set_key"] == one_set(graph, set, model, "the token is of")]
    elif model is not None:
        chosen = sets[sets["model"] == known_model(sets, model)]
    return list(chosen["vocabulary"].unique())


def _near_tokens(graph: Store, text: str) -> str:
    """Tokens that say the same but for a leading space or capitals."""
    bare = text.strip()
    forms = dict.fromkeys(
        space + form for form in (bare, bare.lower(), bare.capitalize(), bare.upper()) if bare for space in (" ", "")
    )
    near = [form for form in forms if form != text and not ask(graph, "tokens_by_text", text=form).empty]
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


def _nearest(wanted: str, known: Iterable[str], always: bool = False) -> str:
    """``; did you mean ...? ``, or the names there are where nothing is near and ``always`` is asked."""
    names = sorted(map(str, set(known)))
    if near := difflib.get_close_matches(wanted, names, n=1, cutoff=0.5):
        return f"; did you mean {near[0]!r}? "
    return f"; there is {', '.join(names[:5])}. " if always and names else ". "


def _text(value: Any) -> str:
    """What was given, if it is text that can be stored and looked up."""
    if not isinstance(value, str):
        raise BadKey(f"{_shown(value)} is no key; give text such as gpt2-small/4-tc-24k/1201")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadKey(f"{_shown(value)} holds half a character (a lone surrogate), which no key has") from None
    return value


def _shown(value: Any) -> str:
    return ascii(value)[:80] if isinstance(value, str) else f"a {type(value).__name__}"
