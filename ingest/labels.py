"""What a feature is called until somebody describes it: the tokens that stand out in its weights.

===========  ================================  ====================================================================
source       looks like                        when
===========  ================================  ====================================================================
tokens       ``rabbit, hare, bunny``           tokens whose embedding excites it far more than chance
logits       ``→ burrow, ears``                no token does, but it promotes some far more than chance
weak         ``~ rabbit, tea``                 neither: its strongest tokens, not to be leaned on
===========  ================================  ====================================================================

"Far more than chance" is a z of at least ``sqrt(2 ln n_vocab)``, about the largest of that many normal draws. At most
four words, spaces stripped, without repeats that differ in case only; the token that starts every text is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log, sqrt

import numpy as np

WORDS = 4
_SHOWN = {"\n": "⏎", "\t": "⇥", " ": "␣", "\r": "␍"}


@dataclass(frozen=True)
class Outstanding:
    """The strongest tokens of a block of features: rows ascending, for each its tokens by falling weight."""

    row: np.ndarray
    token: np.ndarray
    z: np.ndarray


def strongest_positive(
    row: np.ndarray, token: np.ndarray, weight: np.ndarray, mean: np.ndarray, std: np.ndarray, first: int
) -> Outstanding:
    """From kept pairs of a block of features; ``mean`` and ``std`` [n_rows], ``first`` the block's first row."""
    positive = weight > 0
    row, token, weight = row[positive], token[positive], weight[positive]
    order = np.lexsort((token, -weight, row))
    row, token, weight = row[order], token[order], weight[order].astype(np.float64)
    spread = std[row - first]
    z = np.divide(weight - mean[row - first], spread, out=np.zeros_like(weight), where=spread > 0)
    return Outstanding(row, token, z)


def labels(
    n_rows: int, first: int, tokens: Outstanding, logits: Outstanding, texts: list[str], skip: int | None
) -> tuple[list[str], list[str]]:
    """Labels and their sources for features ``first`` to ``first + n_rows``."""
    bound = sqrt(2 * log(max(len(texts), 2)))
    found, sources = [], []
    for read, promoted in zip(_by_row(tokens, n_rows, first), _by_row(logits, n_rows, first), strict=True):
        outstanding = _words((t for t, z in read if z >= bound), texts, skip)
        wanted = _words((t for t, z in promoted if z >= bound), texts, skip) if not outstanding else []
        if outstanding:
            label, source = ", ".join(outstanding), "tokens"
        elif wanted:
            label, source = "→ " + ", ".join(wanted), "logits"
        else:
            weak = _words((t for t, _ in read), texts, skip)
            label, source = "~ " + (", ".join(weak) or "nothing"), "weak"
        found.append(label)
        sources.append(source)
    return found, sources


def _by_row(found: Outstanding, n_rows: int, first: int) -> Iterator[list[tuple[int, float]]]:
    bounds = np.searchsorted(found.row, np.arange(first, first + n_rows + 1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield list(zip(found.token[start:stop].tolist(), found.z[start:stop].tolist(), strict=True))


def _words(tokens: Iterable[int], texts: list[str], skip: int | None) -> list[str]:
    words: dict[str, str] = {}
    for token in tokens:
        text = texts[token]
        if token == skip or not text:
            continue
        word = text.strip() or "".join(_SHOWN.get(character, character) for character in text)
        words.setdefault(word.casefold(), word)
        if len(words) == WORDS:
            break
    return list(words.values())
