"""The sets that an atlas holds, and what an answer that rests on them says of itself."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from atlas.errors import Ambiguous, BadKey
from queries import cuts
from queries.answers import Envelope
from queries.catalog import records

if TYPE_CHECKING:
    from atlas.stores import Store

HERE = "`atlas models` and `atlas sets` list what is here."
EMPTY = "the atlas is empty; `atlas ingest bunny` puts the bundled model into it"


@dataclass(frozen=True)
class Held:
    """One set of transcoders in the atlas, with what belongs to its model."""

    key: str
    """such as ``gpt2-small/tc-24k``"""
    model: str
    kind: str
    read_site: str
    write_site: str
    layers: int
    """how many have a transcoder"""
    model_layers: int
    edges: int
    vocabulary: str
    saelens_release: str
    neuronpedia_id: str
    run: str
    cut: dict[str, Any]
    """what was kept"""
    observation: dict[str, Any]
    """the text that evidence rests on; empty where nothing was observed"""


def held(graph: Store, model: str | None = None) -> list[Held]:
    """All sets, by key; or those of one model. Raises BadKey, with the nearest, where the model has none here."""
    version = graph.version()
    known, found = _KNOWN.get(graph, (None, []))
    if known != version:
        found = [
            Held(
                key=row["set_key"],
                layers=int(row["layers"]),
                model_layers=int(row["model_layers"]),
                edges=int(row["edges"]),
                cut=cuts.kept(row["cut"]),
                observation=cuts.kept(row["observation"]),
                **{name: row[name] for name in _TEXTS},
            )
            for row in records(graph, "sets")
        ]
        _KNOWN[graph] = version, found
    return of_model(found, model) if model is not None else list(found)


_KNOWN: WeakKeyDictionary[Store, tuple[Hashable, list[Held]]] = WeakKeyDictionary()
"""what a store held, and its version then: on a server sets come and go"""
_TEXTS = ("model", "kind", "read_site", "write_site", "vocabulary", "saelens_release", "neuronpedia_id", "run")


def of_model(sets: Sequence[Held], model: str) -> list[Held]:
    """The sets of one model. Raises BadKey, with the nearest model, where it has none here."""
    wanted = as_text(model)
    own = [one for one in sets if one.model == wanted]
    if not own:
        raise BadKey(f"there is no model {shown(model)} in this atlas{nearest(wanted, (s.model for s in sets))}{HERE}")
    return own


def one_set(sets: Sequence[Held], set: str | None, model: str | None, what: str) -> Held:
    """The one set that is meant: ``set`` in full or in part, else the only one there is. ``what`` begins the error.

    Raises BadKey, with the nearest, and Ambiguous, with the candidates.
    """
    if not sets:
        raise BadKey(EMPTY)
    chosen = list(sets)
    if set is not None:
        wanted = as_text(set)
        chosen = [one for one in sets if one.key == wanted]
        chosen = chosen or [one for one in sets if one.key.endswith("/" + wanted) or one.model == wanted]
        if not chosen:
            near = nearest(wanted, (one.key for one in sets))
            raise BadKey(f"there is no set {shown(set)} in this atlas{near}{HERE}")
    if model is not None:
        of_model(sets, model)
        chosen = [one for one in chosen if one.model == model]
        if not chosen:
            raise BadKey(f"{shown(set)} is no set of {model}. {HERE}")
    if len(chosen) > 1:
        names = ", ".join(one.key for one in chosen[:8])
        raise Ambiguous(
            f"{what} which set? There are {names}; name one with set (--set MODEL/SET), or write it in full"
        )
    return chosen[0]


def envelope(sets: Sequence[Held], weight: str, whole: bool, bound: float) -> Envelope:
    """What an answer rests on. Where several sets are behind it, ``model``, ``set``, ``run`` and ``cut`` are lists."""
    return {
        "weight": weight,
        "cut": one_or_list([one.cut for one in sets]),
        "complete": whole,
        "bound": bound if bound < cuts.UNKNOWN else None,
        "model": one_or_list(list(dict.fromkeys(one.model for one in sets))),
        "set": one_or_list([one.key for one in sets]),
        "run": one_or_list(list(dict.fromkeys(one.run for one in sets))),
    }


def one_or_list(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def nearest(wanted: str, known: Iterable[str], always: bool = False) -> str:
    """``; did you mean ...? ``, or the names there are where nothing is near and ``always`` is asked."""
    names = sorted(set(known))
    if near := difflib.get_close_matches(wanted, names, n=1, cutoff=0.5):
        return f"; did you mean {near[0]!r}? "
    return f"; there is {', '.join(names[:5])}. " if always and names else ". "


def as_text(value: Any) -> str:
    """What was given, if it is text that can be stored and looked up."""
    if not isinstance(value, str):
        raise BadKey(f"{shown(value)} is no key; give text such as gpt2-small/4-tc-24k/1201")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadKey(f"{shown(value)} holds half a character (a lone surrogate), which no key has") from None
    return value


def shown(value: Any) -> str:
    """What was given, short and harmless in a line of text."""
    return ascii(value)[:80] if isinstance(value, str) else f"a {type(value).__name__}"
