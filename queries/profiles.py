"""What each feature of a set is known by: the tokens it reads, the logits it writes, the words that are said of it.

A profile is a row of numbers over columns that two sets share. Each kind of evidence is a block of columns, in which
every feature's row has length one; so the inner product of two rows is the sum of a cosine for each block.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import BadSetting
from queries.catalog import ask
from queries.held import Held

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from atlas.stores import Store

BLOCKS = {
    "tokens": ("inputs", "outputs"),
    "inputs": ("inputs",),
    "outputs": ("outputs",),
    "description": ("description",),
    "all": ("inputs", "outputs", "description"),
}
_QUERIES = {"inputs": "profile_inputs", "outputs": "profile_outputs"}
_FEATURES_AT_ONCE = 10_000
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Numbered:
    """The features of a set by number: layer by layer, by index."""

    own: Held
    layers: list[int]
    sizes: list[int]

    @property
    def n(self) -> int:
        return sum(self.sizes)

    @property
    def first(self) -> dict[int, int]:
        """Number of each layer's feature 0."""
        return dict(zip(self.layers, np.cumsum([0, *self.sizes]).tolist(), strict=False))

    def key(self, number: int) -> str:
        begins = np.cumsum([0, *self.sizes])
        at = int(np.searchsorted(begins, number, side="right")) - 1
        model, _, name = self.own.key.partition("/")
        return f"{model}/{self.layers[at]}-{name}/{number - int(begins[at])}"

    def spans(self) -> Iterator[dict[str, Any]]:
        """Parameters that ask for all features, some at a time."""
        for layer, size in zip(self.layers, self.sizes, strict=True):
            for start in range(0, size, _FEATURES_AT_ONCE):
                last = min(start + _FEATURES_AT_ONCE, size) - 1
                yield {"model": self.own.model, "set": self.own.key, "layer": layer, "first": start, "last": last}


@dataclass(frozen=True)
class Profiles:
    """Rows of some features over shared columns, as connections of a feature with a column."""

    feature: np.ndarray
    """int32 [n]"""
    column: np.ndarray
    """int32 [n]"""
    value: np.ndarray
    """float32 [n]; each feature's in one block have length 1"""
    groups: np.ndarray
    """where the connections of each block and sign begin, and where the last end"""
    n_features: int
    n_columns: int
    token_blocks: int
    """how many blocks every feature has"""
    described: np.ndarray
    """bool [n_features]: whether it has a block of words besides"""

    def matrix(self, column: np.ndarray | None = None) -> csr_array:
        """Shape [features, columns]. ``column`` replaces the columns."""
        from scipy.sparse import coo_array

        ends = (self.feature, self.column if column is None else column)
        return coo_array((self.value.astype(np.float64), ends), shape=(self.n_features, self.n_columns)).tocsr()


def numbered(graph: Store, own: Held) -> Numbered:
    """Layers and sizes of a set."""
    found = ask(graph, "layers", set=own.key)
    return Numbered(own, [int(n) for n in found["layer"]], [int(n) for n in found["features"]])


def both(graph: Store, a: Numbered, b: Numbered, by: str) -> tuple[Profiles, Profiles, int]:
    """The profiles of two sets over what they share, and how many tokens that is.

    Raises BadSetting where they share nothing to be compared by.
    """
    shared = _Shared(graph, a.own, b.own)
    blocks: list[tuple[tuple[_Block, _Block], int]] = []
    for kind in BLOCKS[by]:
        if kind == "description":
            said = _said(graph, a), _said(graph, b)
            for one, words in zip((a.own, b.own), said, strict=True):
                if by == "description" and not words:
                    raise BadSetting(
                        f"nothing is said of the features of {one.key}, so they cannot be compared by description; "
                        f"run `atlas describe {one.key}` first"
                    )
            blocks.append(_words(*said))
        else:
            ours, others = (_tokens(graph, one, kind, column) for one, column in ((a, shared.a), (b, shared.b)))
            blocks.append(((ours, others), shared.n))
    if by != "description" and not shared.n:
        raise BadSetting(f"{a.own.key} and {b.own.key} share no token, so there is nothing to compare them by")
    described = [np.zeros(one.n, bool) for one in (a, b)]
    if "description" in BLOCKS[by]:
        for side, has in enumerate(described):
            has[blocks[-1][0][side].feature] = True
    width = sum(n for _, n in blocks)
    sides = [[(pair[side], n) for pair, n in blocks] for side in (0, 1)]
    left, right = (
        _stacked(side, one.n, width, has, by) for side, one, has in zip(sides, (a, b), described, strict=True)
    )
    return left, right, shared.n


@dataclass(frozen=True)
class _Block:
    feature: np.ndarray
    column: np.ndarray
    value: np.ndarray


class _Shared:
    """Tokens that two sets share, numbered: by id in one vocabulary, by text between two."""

    def __init__(self, graph: Store, a: Held, b: Held) -> None:
        if a.vocabulary != b.vocabulary:
            texts = [_texts(graph, one.vocabulary) for one in (a, b)]
            common = sorted(texts[0].keys() & texts[1].keys())
            self.n = len(common)
            self.a, self.b = (_numbering({one[text]: at for at, text in enumerate(common)}) for one in texts)
        else:
            ids = ask(graph, "vocabulary", vocabulary=a.vocabulary)["token"].to_numpy(np.int64)
            self.n = int(ids.max()) + 1 if len(ids) else 0
            self.a = self.b = np.arange(self.n)


def _texts(graph: Store, vocabulary: str) -> dict[str, int]:
    """Ids by text; a text that several tokens say names none of them."""
    found = ask(graph, "vocabulary", vocabulary=vocabulary)
    unique = ~found["text"].duplicated(keep=False)
    return dict(zip(found["text"][unique], found["token"][unique].astype(int), strict=True))


def _numbering(columns: dict[int, int]) -> np.ndarray:
    """Column by token id; -1 for a token that is not shared."""
    of = np.full(max(columns, default=-1) + 1, -1)
    of[list(columns)] = list(columns.values())
    return of


def _tokens(graph: Store, one: Numbered, kind: str, column_of: np.ndarray) -> _Block:
    parts = []
    for span in one.spans():
        found = ask(graph, _QUERIES[kind], **span)
        token, z = found["token"].to_numpy(np.int64), found["z"].to_numpy(np.float32)
        known = token < len(column_of)
        column = np.where(known, column_of[np.where(known, token, 0)] if len(column_of) else -1, -1)
        kept = (column >= 0) & np.isfinite(z) & (z != 0)
        number = one.first[int(span["layer"])] + found["idx"].to_numpy(np.int64)
        parts.append((number[kept].astype(np.int32), column[kept].astype(np.int32), z[kept]))
    feature, column, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _unit(feature, column, value, one.n)


def _unit(feature: np.ndarray, column: np.ndarray, value: np.ndarray, n_features: int) -> _Block:
    length = np.sqrt(np.bincount(feature, value.astype(np.float64) ** 2, minlength=n_features))
    return _Block(feature, column, (value / length[feature]).astype(np.float32))


def _said(graph: Store, one: Numbered) -> list[tuple[int, str]]:
    """Everything that is said of each feature."""
    found = ask(graph, "said", set=one.own.key)
    rows = zip(found["key"].tolist(), found["layer"].tolist(), found["text"].tolist(), strict=True)
    return [(one.first[int(layer)] + int(str(key).rpartition("/")[2]), str(text)) for key, layer, text in rows]


def _words(a: list[tuple[int, str]], b: list[tuple[int, str]]) -> tuple[tuple[_Block, _Block], int]:
    """Words of descriptions; a word counts the less the more features of both sets it is said of."""
    bags = [_bags(said) for said in (a, b)]
    spread = Counter(word for bag in bags for words in bag.values() for word in words)
    columns = {word: at for at, word in enumerate(sorted(spread))}
    total = sum(map(len, bags))
    made = []
    for bag in bags:
        pairs = [(number, word) for number, words in bag.items() for word in sorted(words)]
        feature = np.array([number for number, _ in pairs], np.int32)
        column = np.array([columns[word] for _, word in pairs], np.int32)
        value = np.array([math.log((1 + total) / spread[word]) for _, word in pairs], np.float32)
        made.append(_unit(feature, column, value, int(feature.max(initial=-1)) + 1))
    return (made[0], made[1]), len(columns)


def _bags(said: list[tuple[int, str]]) -> dict[int, set[str]]:
    bags: dict[int, set[str]] = {}
    for number, text in said:
        bags.setdefault(number, set()).update(_WORD.findall(text.casefold()))
    return {number: words for number, words in bags.items() if words}


def _stacked(blocks: list[tuple[_Block, int]], n_features: int, width: int, described: np.ndarray, by: str) -> Profiles:
    """Blocks side by side, their connections by block and sign."""
    parts: list[tuple[np.ndarray, ...]] = []
    first = 0
    for block, n_columns in blocks:
        for positive in (True, False):
            at = np.flatnonzero((block.value > 0) == positive)
            parts.append((block.feature[at], block.column[at] + np.int32(first), block.value[at]))
        first += n_columns
    feature, column, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    groups = np.cumsum([0, *(len(part[0]) for part in parts)])
    token_blocks = sum(kind != "description" for kind in BLOCKS[by])
    return Profiles(feature, column, value, groups, n_features, width, token_blocks, described)
