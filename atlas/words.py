"""What a person types into a search: words, phrases in double quotes, and the other forms of an English word.

Every unit must be found. A word matches as it was typed and as the beginning of a longer one; its other forms match
whole words only, since the beginning of one (``mak`` of "making") begins too much else. A phrase matches its words next
to each other, the last as a beginning at least. Stores cut and fold words each in its own way; here nothing is folded
but case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNIT = re.compile(r'"([^"]*)"(?=\s|$)|(\S+)')
_DOUBLED = re.compile(r"([bdgklmnprt])\1$")
_SHORT = re.compile(r"^[^aeiou]*[aeiou][bdgklmnprt]$")
"""a word of one short syllable, whose last consonant is doubled: run, hop, stop"""
_LEAST = 3
"""letters of a word that has other forms"""


@dataclass(frozen=True)
class Unit:
    """One thing that must be found: a word or a phrase, and the other words that say the same."""

    text: str
    forms: tuple[str, ...] = ()


def units(text: str) -> list[Unit]:
    """What was typed, cut. Quotes that do not close around whole words are characters like any other.

    >>> units('"mad hatter" rabbits')
    [Unit(text='mad hatter', forms=()), Unit(text='rabbits', forms=('rabbit', 'rabbited', 'rabbiting'))]
    """
    found = []
    for match in _UNIT.finditer(text):
        if match[1] is not None:
            found.append(Unit(match[1]))
        else:
            found.append(Unit(match[2], forms(match[2])))
    return found


def forms(word: str) -> tuple[str, ...]:
    """The inflections of an English word that do not begin with it: some are no words, and then match nothing.

    >>> forms("running")
    ('run', 'runn', 'runned', 'runns', 'runs')
    """
    typed = word.lower()
    if len(typed) < _LEAST or not (typed.isascii() and typed.isalpha()):
        return ()
    made = {form for base in _bases(typed) for form in _inflected(base)}
    return tuple(sorted(form for form in made if not form.startswith(typed)))


def _bases(word: str) -> set[str]:
    found = {word}
    if word.endswith("ies"):
        found.add(f"{word[:-3]}y")
    elif word.endswith(("ses", "xes", "zes", "ches", "shes")):
        found |= {word[:-2], word[:-1]}
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.add(word[:-1])
    for suffix in ("ing", "ed"):
        stem = word.removesuffix(suffix)
        if stem != word and re.search("[aeiouy]", stem):
            found |= {stem, stem[:-1]} if _DOUBLED.search(stem) else {stem, f"{stem}e"}
    return {base for base in found if len(base) >= _LEAST}


def _inflected(base: str) -> set[str]:
    made = {base, f"{base}s"}
    if base.endswith(("s", "x", "z", "ch", "sh")):
        made.add(f"{base}es")
    if re.search("[^aeiou]y$", base):
        made |= {f"{base[:-1]}ies", f"{base[:-1]}ied"}
    if base.endswith("e"):
        return made | {f"{base}d", f"{base[:-1]}ing"}
    stem = base + base[-1] if _SHORT.match(base) else base
    return made | {f"{stem}ed", f"{stem}ing"}
