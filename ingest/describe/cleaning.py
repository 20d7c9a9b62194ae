"""Readable words from tokens: what a person would list, in any script. The tokens themselves are kept elsewhere.

A token loses its whitespace marker and its case; forms of one word share a group: the same stem (Snowball,
https://snowballstem.org, for the languages that a script points to), or a near spelling. What has no stemmer is
compared by Unicode folding alone, marks taken off where they are accents. Pieces of characters (``<0xE2>``), spaces
and line breaks are shown so that they can be seen.
"""

from __future__ import annotations

import difflib
import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import snowballstemmer

NEAR = 0.85
"""share of equal letters from which two long words are one (difflib's ratio)"""
_LONG = 6
_BYTE = re.compile(r"^(?:<0x[0-9A-F]{2}>)+$")
_STEMMERS = {
    "LATIN": "english",
    "CYRILLIC": "russian",
    "GREEK": "greek",
    "ARABIC": "arabic",
    "ARMENIAN": "armenian",
    "DEVANAGARI": "hindi",
    "TAMIL": "tamil",
    "HEBREW": "yiddish",
}
_VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def words(tokens: Sequence[tuple[str, float]], limit: int | None = None) -> list[str]:
    """Group tokens (text, weight) and name each group by its strongest form, the weightiest group first.

    A group's weight is the sum of its members'; ties keep the order given.
    """
    groups: list[_Group] = []
    by_stem: dict[str, _Group] = {}
    for text, weight in tokens:
        shown = visible(text)
        stem = stemmed(shown)
        group = by_stem.get(stem) or next((g for g in groups if g.near(stem)), None)
        if group is None:
            group = _Group()
            groups.append(group)
        by_stem.setdefault(stem, group)
        group.add(shown, stem, weight)
    groups.sort(key=lambda group: -group.weight)
    return [group.name for group in groups[:limit]]


@functools.lru_cache(maxsize=1 << 17)
def visible(text: str) -> str:
    """A token as it is shown: trimmed where anything is left, else its spaces and breaks made visible."""
    trimmed = "".join(c if c.isprintable() else _escaped(c) for c in text.strip())
    if trimmed:
        return trimmed
    shown = "".join(_VISIBLE.get(c) or _escaped(c) for c in text)
    return f"{shown[:3]}×{len(text)}" if len(text) > 4 and len(set(text)) == 1 else shown or "''"


@functools.lru_cache(maxsize=1 << 17)
def stemmed(text: str) -> str:
    """What forms of one word have in common; for what is no word, its folded self."""
    folded = unicodedata.normalize("NFKC", text).casefold().strip("_-'’")
    if not folded or _BYTE.match(text) or not any(c.isalpha() for c in folded):
        return unicodedata.normalize("NFKC", text).casefold()
    script = _script(folded)
    if script in ("LATIN", "GREEK"):  # elsewhere a mark may be a vowel, or another letter
        folded = _without_marks(folded)
    stemmer = _stemmer(script)
    return stemmer.stemWord(folded) if stemmer else folded


class _Group:
    def __init__(self) -> None:
        self.weight = 0.0
        self._forms: dict[str, float] = {}
        self._stems: list[str] = []

    @property
    def name(self) -> str:
        """The strongest form; in small letters if any member is."""
        best = max(self._forms, key=lambda form: self._forms[form])
        lower = best.lower()
        return lower if lower in self._forms else best

    def add(self, form: str, stem: str, weight: float) -> None:
        self._forms[form] = self._forms.get(form, 0.0) + weight
        self.weight += weight
        if stem not in self._stems:
            self._stems.append(stem)

    def near(self, stem: str) -> bool:
        return any(_near(stem, other) for other in self._stems)


def _near(one: str, other: str) -> bool:
    if min(len(one), len(other)) < _LONG or not (one[0] == other[0] and one.isalpha() and other.isalpha()):
        return False
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return matcher.real_quick_ratio() > NEAR and matcher.quick_ratio() > NEAR and matcher.ratio() > NEAR


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _script(text: str) -> str:
    letter = next(c for c in text if c.isalpha())
    return unicodedata.name(letter, "UNKNOWN").split()[0]


@functools.cache
def _stemmer(script: str) -> Any:
    language = _STEMMERS.get(script)
    return snowballstemmer.stemmer(language) if language in snowballstemmer.algorithms() else None
