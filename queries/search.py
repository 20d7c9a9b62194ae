"""Features by what a person types: words of their labels and descriptions, or a token they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadKey, BadSetting
from atlas.model import TokenKey, TokenText, parse
from queries.answers import choice, count, rows
from queries.catalog import records
from queries.held import held, of_model, one_set
from queries.resolve import resolve, vocabularies_of

if TYPE_CHECKING:
    from atlas.stores import Store

COLUMNS = {"key": "text", "layer": "int", "label": "text", "text": "text", "score": "float", "matched_by": "text"}

LABEL = 10.0
"""What a match in a label or description counts for, in deviations: the z of a token that a feature clearly reads."""
_TOKENS = 12
_LEAST_MATCHES = 500


def search(
    graph: Store, text: str, *, by: str = "text", model: str | None = None, set: str | None = None, k: int = 20
) -> pd.DataFrame:
    """Features for a word or phrase, the best first.

    ``by="text"``: two kinds of evidence are added. *Token*: the z of the feature's connection from a token that says
    the word, times how nearly it says it (1 for the word itself in any case, 6/7 for "rabbits" where "rabbit" is
    asked); the best such token counts. *Label*: 10 times the score of the match in the feature's label or a
    description, best match = 1. So the features that read the word most exclusively come first, those whose label
    only mentions it last.
    ``by="token"``: only the features that a token excites, by z; ``text`` is the token's text, or its key.
    ``model``, ``set``: only their features.

    Columns ``key, layer, label, text`` (what matched), ``score`` (deviations), ``matched_by`` (token, label,
    description, or two of them). ``attrs["complete"]`` is False where more matched than were looked at.
    Raises BadKey, BadSetting.
    """
    choice("by", by, ("text", "token"))
    count("k", k)
    if not isinstance(text, str) or not _encodes(text):
        raise BadSetting(f"what to search for is {ascii(text)[:40]}; give text")
    scope = _Scope(graph, model, set)
    if not text.strip():
        frame, whole, note = rows([], COLUMNS), True, "nothing to search for: the text is blank"
    elif by == "token":
        tokens = dict.fromkeys(_tokens_that_say(graph, text, model, set), 1.0)
        frame, whole = _rank(graph, {}, tokens, k, scope), False
        note = "of the connections that are kept" if len(frame) else f"no feature reads {text!r} among what is kept"
    else:
        limit = max(_LEAST_MATCHES, 20 * k) * scope.share
        hits = graph.fulltext(text, limit=limit)
        labelled, tokens = _evidence(hits, text)
        frame, whole = _rank(graph, labelled, tokens, k, scope), len(hits) < limit
        note = "" if len(frame) else f"nothing says {text!r}" + scope.where
        note = note or ("" if whole else f"the best of the first {limit:,} matches")
    frame.attrs = {"score": "deviations", "by": by, "complete": whole}
    if model is not None or set is not None:
        frame.attrs |= {"model": model, "set": scope.set}
    if note:
        frame.attrs["note"] = note
    return frame


class _Scope:
    """Which features are asked for: all, a model's, or a set's."""

    def __init__(self, graph: Store, model: str | None, set: str | None) -> None:
        sets = held(graph)
        self.set = one_set(sets, set, model, "the features are of").key if set is not None else None
        own = sets if model is None else of_model(sets, model)
        self.names = [one.key for one in own if self.set in (None, one.key)]
        self.where = f" in {self.set or model}" if self.set or model else ""
        self.share = max(1, len(sets) // max(1, len(self.names)))
        """how many times more matches to ask for, so that enough are left"""

    def __contains__(self, key: str) -> bool:
        owner, layer_and_name, _ = key.rsplit("/", 2)
        return f"{owner}/{layer_and_name.partition('-')[2]}" in self.names


def _evidence(hits: pd.DataFrame, text: str) -> tuple[dict[str, tuple[str, str, float]], dict[str, float]]:
    """From matches of words: features with what matched, by what, and how well; tokens with how nearly they say it."""
    labelled: dict[str, tuple[str, str, float]] = {}
    tokens: dict[str, float] = {}
    best = max(hits["score"].tolist(), default=0.0)
    for hit in hits.to_dict("records"):
        if hit["type"] == "Feature":
            found = (hit["text"], hit["matched_by"], hit["score"] / best if best > 0 else 1.0)
            if hit["key"] not in labelled or labelled[hit["key"]][2] < found[2]:
                labelled[hit["key"]] = found
        elif hit["type"] == "Token":
            tokens[hit["key"]] = _closeness(hit["text"], text)
    nearest = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))[:_TOKENS]
    return labelled, dict(nearest)


def _closeness(token: str, asked: str) -> float:
    said, wanted = token.strip().casefold(), asked.strip().casefold()
    if said == wanted:
        return 1.0
    longer = max(len(said), len(wanted))
    return min(len(said), len(wanted)) / longer if said.startswith(wanted) or wanted.startswith(said) else 0.5


def _rank(
    graph: Store, labelled: dict[str, tuple[str, str, float]], tokens: dict[str, float], k: int, scope: _Scope
) -> pd.DataFrame:
    found: dict[str, dict[str, Any]] = {}
    # The first k of the scope are among the first k of each of its sets.
    restricted = scope.names if scope.where else [""]
    for token, nearness in tokens.items():
        said = str(records(graph, "token", key=token)[0]["text"])
        for set_key in restricted:
            for row in records(graph, "token_features", key=token, set=set_key, sign=1, limit=max(k, 50)):
                score = nearness * row["z"]
                if score > found.get(row["key"], {"score": 0.0})["score"]:
                    shown = {"layer": row["layer"], "label": row["label"], "text": said}
                    found[row["key"]] = {**shown, "score": score, "matched_by": "token"}
    for key, (text, matched_by, score) in labelled.items():
        if key not in scope:
            continue
        known = found.setdefault(key, {"text": text, "score": 0.0, "matched_by": ""})
        known["score"] += LABEL * score
        known["matched_by"] = f"{matched_by}+{known['matched_by']}".strip("+")
    best = sorted(found.items(), key=lambda item: (-item[1]["score"], item[0]))[:k]
    for key, row in best:
        if "layer" not in row:
            node = records(graph, "label", key=key)[0]
            row |= {"layer": node["layer"], "label": node["label"]}
    return rows([(key, *(row[name] for name in list(COLUMNS)[1:])) for key, row in best], COLUMNS)


def _tokens_that_say(graph: Store, text: str, model: str | None, set: str | None) -> list[str]:
    """Tokens by key, by exact text, or by the word with or without a space before it."""
    if text.startswith(("tok:", "token:")):
        reference = parse(text)
        if isinstance(reference, TokenKey):
            return [resolve(graph, reference).key]
        text = reference.text if isinstance(reference, TokenText) else text
    vocabularies = vocabularies_of(graph, set, model)
    for forms in ((text,), (f" {text.strip()}", text.strip())):
        found = [row for form in dict.fromkeys(forms) for row in records(graph, "tokens_by_text", text=form)]
        own = [row["key"] for row in found if vocabularies is None or row["vocabulary"] in vocabularies]
        if own:
            return own
    raise BadKey(f"no token says {text[:80]!r}; `atlas search` without by token looks for words")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
