"""Features by what a person types: words of their labels and descriptions, a token they read, or what is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadKey, BadSetting
from atlas.model import TokenKey, TokenText, parse
from atlas.words import Unit, forms, units
from queries import indexed, meaning
from queries.answers import choice, count, rows, smallest
from queries.catalog import records
from queries.encoder import Encoder
from queries.held import held, of_model, one_set
from queries.labels import called
from queries.meaning import Progress
from queries.neighbours import layer_range
from queries.resolve import resolve, vocabularies_of

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = {"key": "text", "layer": "int", "label": "text", "text": "text", "score": "float", "matched_by": "text"}
Row = tuple[Any, ...]
"""in the order of :data:`COLUMNS`"""
UNITS = {"text": "deviations", "token": "deviations", "meaning": "cosine", "all": "rank in both, 1 / (60 + rank)"}
"""How one may search, and the unit of the score."""
FUSED = 60
"""What is added to ranks before they are turned into scores; the constant of the paper."""

LABEL = 5.0
"""What the word at the head of a label counts for, in deviations: the z of a token that clearly stands out."""
WEAK = 0.25
"""How much of that counts where the label itself says it is not to be leaned on (``~ …``)."""
INNER = 0.8
"""How nearly a token says a word when no space goes before it: most such tokens continue another word."""
PART = 0.6
"""How much of a word a token must hold to stand for it where no token says it."""
_TOKENS = 12
_LEAST_MATCHES = 500


@dataclass
class _Evidence:
    """What speaks for which feature, before the features of tokens are looked up."""

    labels: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    """feature to what matched, by what (label or description), and how well (0 to 1)"""
    tokens: dict[str, tuple[str, float]] = field(default_factory=dict)
    """token to its text and how nearly it says what was asked (0 to 1)"""
    kind: str = "token"
    """token, or part where no token says the word"""


def search(
    graph: Store,
    text: str,
    *,
    by: str = "text",
    model: str | None = None,
    set: str | None = None,
    layer: str | int | None = None,
    min: float | None = None,
    k: int = 20,
    encoder: Encoder | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Features for words or phrases, the best first.

    What is typed is text, never a query language: every word must be found, as the beginning of a word at least or in
    another form ("rabbits" finds "rabbit"), in any case and without accents; words in double quotes next to each other.
    ``by="text"``: two kinds of evidence are added. *Token*: the z of the feature's connection from a token that says
    the word, times how nearly it says it (1 in any case after a space, 0.8 without one, 6/7 for "rabbits" where
    "rabbit" is asked); the best such token counts. *Label*: 5 where the word heads the feature's label, 5/2 in second
    place, 5/3 in third, a quarter of that in a weak label (``~ …``); in a description, 5 times the score of the match,
    best match = 1. So the features that read the word most exclusively come first, those that only mention it last.
    Where no token says the word, the tokens that hold most of it stand for it ("abbit"), and ``attrs["note"]`` says so.
    ``by="token"``: only the features that a token excites, by z; ``text`` is the token's text, or its key.
    ``by="meaning"``: by the cosine between what is asked and the nearest of a feature's label and descriptions, as
    vectors of a sentence encoder (:mod:`queries.encoder`; ``encoder``: another one). Vectors are made when a set is
    first asked so, which takes minutes for hundreds of thousands of features (``progress``: called with what is done),
    and kept beside the atlas; a server's vector index is asked instead where :func:`queries.index` has filled it, and
    ``attrs["matched_through"]`` says which it was. ``by="all"``: both rankings in one. A feature counts 1 / (60 + its
    rank) in each of the two, by text and by meaning (reciprocal rank fusion, Cormack, Clarke and Büttcher 2009,
    https://doi.org/10.1145/1571941.1572114) where it is among the first 4 ``k`` of it, 100 at least; so what either
    puts on top comes near the top, and what both do comes first.
    ``model``, ``set``, ``layer`` (``"2"`` or ``"0-3"``): only their features. ``min``: only scores of so much or more.

    Columns ``key, layer, label, text`` (what matched), ``score`` (its unit is ``attrs["score"]``: deviations, cosine,
    or rank), ``matched_by`` (token, part, label, description, meaning, or several of them). ``attrs["complete"]`` is
    False where more matched than were looked at. Raises BadKey, BadSetting.
    """
    choice("by", by, tuple(UNITS))
    count("k", k)
    if not isinstance(text, str) or not _encodes(text):
        raise BadSetting(f"what to search for is {ascii(text)[:40]}; give text")
    scope = _Scope(graph, model, set, layer)
    least = smallest("min", min)
    note, through, whole = "", "", True
    if not text.strip():
        found, note = [], "nothing to search for: the text is blank"
    elif by == "token":
        found, whole = _by_token(graph, text, k, scope), False
        note = "of the connections that are kept" if found else f"no feature reads {text!r} among what is kept"
    elif by == "text":
        found, whole, note = _by_text(graph, text, k, scope)
    else:
        means = meaning.chosen(encoder)
        found, through = _by_meaning(graph, text, k if by == "meaning" else _fused(k), scope, means, progress)
        note = f"by {means.name}" + (f", through the {through}" if through == indexed.INDEX else "")
        if by == "all":
            said, whole, _ = _by_text(graph, text, _fused(k), scope)
            found = _both(said, found)[:k]
    if min is not None and found:
        found = [row for row in found if row[4] >= least]
        note = note if found else f"nothing scores {least:g} or more"
    frame = rows(found, COLUMNS)
    frame.attrs = {"score": UNITS[by], "by": by, "complete": whole}
    if through:
        frame.attrs["matched_through"] = through
    if scope.where:
        frame.attrs |= {"model": model, "set": scope.set}
    if note:
        frame.attrs["note"] = note
    return frame


def _by_text(graph: Store, text: str, k: int, scope: _Scope) -> tuple[list[Row], bool, str]:
    """Rows, whether every match was looked at, and what to tell the reader."""
    limit = max(_LEAST_MATCHES, 20 * k) * scope.share
    hits = graph.fulltext(text, limit=limit)
    said = _evidence(hits, text)
    note = "" if said.tokens else _add_parts(graph, said, text, vocabularies_of(graph, scope.set, scope.model))
    found, whole = _rank(graph, said, k, scope), len(hits) < limit
    if not found:
        note = f"nothing says {text!r}{scope.where}"
    elif not whole:
        note = f"the best of the first {limit:,} matches"
    return found, whole, note


def _by_token(graph: Store, text: str, k: int, scope: _Scope) -> list[Row]:
    said = {key: (shown, 1.0) for key, shown in _tokens_that_say(graph, text, scope.model, scope.set)}
    return _rank(graph, _Evidence(tokens=said), k, scope)


def _by_meaning(
    graph: Store, text: str, k: int, scope: _Scope, encoder: Encoder, progress: Progress | None
) -> tuple[list[Row], str]:
    """Rows, and whose vectors they were found through."""
    asked = meaning.unit(encoder, [text])[0]
    found, through = indexed.nearest(graph, asked, scope.names, k, encoder, layers=scope.layers), indexed.INDEX
    if found is None:
        found = meaning.nearest(graph, asked, scope.sets, k, encoder, layers=scope.layers, progress=progress)
        through = indexed.HERE
    about = called(graph, (near.key for near in found))
    told = [(near.key, near.layer, about[near.key].label, near.text, near.score, "meaning") for near in found]
    return told, through


def _both(one: list[Row], other: list[Row]) -> list[Row]:
    """Two rankings in one, by reciprocal ranks; what matched is told by the one that ranks it higher."""
    scores: dict[str, float] = {}
    told: dict[str, Row] = {}
    by: dict[str, list[str]] = {}
    for rank, pair in enumerate(zip_longest(one, other), start=1):
        for row in filter(None, pair):
            scores[row[0]] = scores.get(row[0], 0.0) + 1 / (FUSED + rank)
            told.setdefault(row[0], row)
            by.setdefault(row[0], []).append(row[5])
    best = sorted(scores, key=lambda key: (-scores[key], key))
    return [(*told[key][:4], scores[key], "+".join(by[key])) for key in best]


def _fused(k: int) -> int:
    """How far down each of two rankings is read."""
    return max(4 * k, 100)


class _Scope:
    """Which features are asked for: all, a model's, a set's, some layers'."""

    def __init__(self, graph: Store, model: str | None, set: str | None, layer: str | int | None) -> None:
        sets = held(graph)
        self.model = model
        self.set = one_set(sets, set, model, "the features are of").key if set is not None else None
        own = sets if model is None else of_model(sets, model)
        self.sets = [one for one in own if self.set in (None, one.key)]
        self.names = [one.key for one in self.sets]
        self.layers = layer_range(layer)
        self.where = f" in {self.set or model}" if self.set or model else ""
        self.where += f" in layers {layer}" if layer is not None else ""
        self.share = max(1, len(sets) // max(1, len(self.names))) * (1 if layer is None else 4)
        """how many times more matches to ask for, so that enough are left"""

    def __contains__(self, key: str) -> bool:
        owner, layer_and_name, _ = key.rsplit("/", 2)
        layer, _, name = layer_and_name.partition("-")
        return f"{owner}/{name}" in self.names and self.layers[0] <= int(layer) <= self.layers[1]


def _evidence(hits: pd.DataFrame, text: str) -> _Evidence:
    found = _Evidence()
    best = max(hits["score"].tolist(), default=0.0)
    tokens: dict[str, tuple[str, float]] = {}
    for hit in hits.to_dict("records"):
        if hit["type"] == "Token":
            tokens[hit["key"]] = (hit["text"], _nearness(hit["text"], text))
        elif hit["type"] == "Feature":
            by_label = hit["matched_by"] == "label"
            quality = _place(hit["text"], text) if by_label else hit["score"] / best if best > 0 else 1.0
            if found.labels.get(hit["key"], ("", "", -1.0))[2] < quality:
                found.labels[hit["key"]] = (hit["text"], hit["matched_by"], quality)
    nearest = sorted(tokens.items(), key=lambda item: (-item[1][1], item[0]))[:_TOKENS]
    found.tokens = dict(nearest)
    return found


def _place(label: str, asked: str) -> float:
    """1 where the word is in the first of a label's words, 1/2 in the second, and so on."""
    words = [word.casefold() for word in label.split(",")]
    said = _bare(asked).casefold()
    first = next((at for at, word in enumerate(words) if said in word or word.strip("~ ") in forms(said)), len(words))
    return (WEAK if label.startswith("~") else 1.0) / (1 + first)


def _nearness(token: str, asked: str) -> float:
    said, wanted = token.strip().casefold(), _bare(asked).casefold()
    shorter, longer = sorted((len(said), len(wanted)))
    alike = shorter / longer if longer and (said.startswith(wanted) or wanted.startswith(said)) else 0.5
    return alike * (1.0 if token.startswith(" ") else INNER)


def _bare(asked: str) -> str:
    """What was typed, without the quotes of a phrase."""
    (unit, *others) = units(asked) or [Unit("")]
    return (asked if others else unit.text).strip()


def _add_parts(graph: Store, found: _Evidence, text: str, vocabularies: list[str] | None) -> str:
    """Let the tokens that hold most of a word stand for it; returns what to tell the reader."""
    word = _bare(text).lower()
    if any(char.isspace() for char in word):
        return ""
    for row in records(graph, "tokens_within", text=f" {word}"):
        share = len(row["text"].strip()) / len(word)
        if share > PART and (vocabularies is None or row["vocabulary"] in vocabularies):
            found.tokens[row["key"]] = (row["text"], share)
    found.kind = "part"
    parts = ", ".join(dict.fromkeys(repr(said) for said, _ in found.tokens.values()))
    return f"no token says {word!r}: by its part {parts}" if parts else ""


def _rank(graph: Store, said: _Evidence, k: int, scope: _Scope) -> list[Row]:
    found: dict[str, dict[str, Any]] = {}
    # The first k of the scope are among the first k of each of its sets.
    restricted = scope.names if scope.where else [""]
    for token, (text, nearness) in said.tokens.items():
        for set_key in restricted:
            asked = {"set": set_key, "sign": 1, "first": scope.layers[0], "last": scope.layers[1], "limit": max(k, 50)}
            for row in records(graph, "token_features", key=token, **asked):
                score = nearness * row["z"]
                if score > found.get(row["key"], {"score": 0.0})["score"]:
                    shown = {"layer": row["layer"], "label": row["label"], "text": text}
                    found[row["key"]] = {**shown, "score": score, "matched_by": said.kind}
    for key, (text, matched_by, quality) in said.labels.items():
        if key not in scope:
            continue
        known = found.setdefault(key, {"text": text, "score": 0.0, "matched_by": ""})
        known["score"] += LABEL * quality
        known["matched_by"] = f"{matched_by}+{known['matched_by']}".strip("+")
    best = sorted(found.items(), key=lambda item: (-item[1]["score"], item[0]))[:k]
    for key, node in called(graph, (key for key, row in best if "layer" not in row)).items():
        found[key] |= {"layer": node.layer, "label": node.label}
    return [(key, *(row[name] for name in list(COLUMNS)[1:])) for key, row in best]


def _tokens_that_say(graph: Store, text: str, model: str | None, set: str | None) -> list[tuple[str, str]]:
    """Tokens (key and text) by key, by exact text, or by the word with or without a space before it."""
    if text.startswith(("tok:", "token:")):
        reference = parse(text)
        if isinstance(reference, TokenKey):
            node = resolve(graph, reference)
            return [(node.key, node.label)]
        text = reference.text if isinstance(reference, TokenText) else text
    vocabularies = vocabularies_of(graph, set, model)
    for written in ((text,), (f" {text.strip()}", text.strip())):
        found = [row for form in dict.fromkeys(written) for row in records(graph, "tokens_by_text", text=form)]
        own = [row for row in found if vocabularies is None or row["vocabulary"] in vocabularies]
        if own:
            return [(row["key"], row["text"]) for row in own]
    raise BadKey(f"no token says {text[:80]!r}; `atlas search` without by token looks for words")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
