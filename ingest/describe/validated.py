"""The preset ``atlas``: what stands out in the weights, confirmed by running each token alone.

For every feature: tokens that excite or inhibit it, logits it promotes or suppresses, earlier features that feed
it, each only where it stands out of its whole row (:mod:`ingest.describe.significance`), with gains, centring and
the final norm included (:mod:`ingest.folding`). A token that excites is confirmed when ``[BOS, token]`` fires the
feature (:mod:`ingest.describe.evidence`). What a feeding feature is described by is tried in the same way, so a
meaning is followed through every layer, each layer's result kept for the next. Token ids are carried throughout.

A description is the list of confirmed tokens, by activation. Its confidence is the harmonic mean of two shares: of the
tokens that were tried, those that fired; and of all activation that single tokens cause in the feature, what the
confirmed ones cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from scipy.sparse import csc_array
from torch import Tensor

from ingest.describe.cleaning import words
from ingest.describe.evidence import Evidence
from ingest.describe.significance import Entries, Null, Side, beyond, discoveries, strongest
from ingest.folding import Vectors

_ENTRY = [("index", pa.int32()), ("weight", pa.float32()), ("z", pa.float32()), ("p", pa.float64())]
ENTRIES = pa.list_(pa.struct(_ENTRY))
TOKENS = pa.list_(pa.struct([*_ENTRY, ("activation", pa.float32()), ("source", pa.int32())]))
DETAILS = pa.schema(
    [
        ("feature", pa.int32()),
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("tried", pa.int32()),
        ("validated", pa.int32()),
        ("tokens", TOKENS),
        ("inhibits", ENTRIES),
        ("promotes", ENTRIES),
        ("suppresses", ENTRIES),
        ("sources", ENTRIES),
    ]
)
"""One row a feature. ``tokens``: what was tried, ``activation`` alone behind BOS (0: does not fire; null: was not run),
``source`` the row number of the feature it was taken from, -1 for the feature's own. ``index`` is a token id, in
``sources`` a feature's row number. Without text where nothing could be said; without confidence where the text says
what the feature promotes."""
PROMOTES = "→ "
_WORDS, _WORDS_FROM = 6, 24


@dataclass(frozen=True)
class Rules:
    """What counts and how much is kept."""

    token_z: float = 4.0
    """deviations of its row from which a token or logit is looked at"""
    feature_z: float = 4.0
    false: float = 0.05
    """share of false discoveries in a row (Benjamini and Hochberg)"""
    tokens: int = 64
    """of each sign"""
    logits: int = 16
    sources: int = 16
    followed: int = 64
    """tokens of a source that its readers try"""
    seed: int = 0


@dataclass
class Describer:
    """Layer after layer, lowest first."""

    vectors: Vectors
    evidence: Evidence
    masked: np.ndarray
    rules: Rules = field(default_factory=Rules)

    def __post_init__(self) -> None:
        self._texts = self.vectors.model.vocabulary.texts
        self._token_side = Side.of(self.vectors.token_writes(), self.masked)
        self._logit_side = Side.of(self.vectors.logit_reads(), self.masked)
        self._tried = np.zeros(self.vectors.n_vocab, bool)
        self._tried[self.evidence.tokens] = True
        sizes = self.vectors.n_features
        self._first = dict(zip(self.vectors.layers, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
        self._meaning: dict[int, _Meaning] = {}
        self._nulls: dict[int, Null] = {}

    def learn(self, layer: int, details: pa.Table) -> None:
        """Take over a layer that was described before."""
        tokens = details["tokens"].combine_chunks()
        flat = tokens.flatten()
        token = flat.field("index").to_numpy(zero_copy_only=False)
        activation = flat.field("activation").to_numpy(zero_copy_only=False)
        start = np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy(zero_copy_only=False))])
        row = np.repeat(np.arange(len(details)), np.diff(start))
        self._meaning[layer] = _Meaning.of(row, token, activation, len(details), self.rules.followed)

    def describe(self, layer: int) -> pa.Table:
        """One row a feature of the layer; columns :data:`DETAILS`."""
        rules, reads = self.rules, self.vectors.reads(layer)
        alone = self.evidence.layer(layer)
        tokens = self._stand_out(reads, self._token_side, self.vectors.token_writes(), rules.tokens, layer)
        writes = self.vectors.writes(layer)
        logits = self._stand_out(writes, self._logit_side, self.vectors.logit_reads(), rules.logits, 1000 + layer)
        sources = self._sources(layer)
        excite, inhibit = tokens.take(tokens.z > 0), tokens.take(tokens.z < 0)
        own = _lookup(alone, excite.row, excite.index)
        own[~self._tried[excite.index]] = np.nan
        table = _Table.join(
            _Table(excite.row, excite.index, own, np.full(len(excite), -1), excite.weight, excite.z, excite.p),
            self._follow(layer, sources, excite, alone),
        )
        details = self._details(layer, len(reads), table, alone, inhibit, logits, sources)
        self.learn(layer, details)
        return details

    def _stand_out(
        self, rows: Float[Tensor, "n d_model"], side: Side, vectors: Tensor, per_sign: int, seed: int
    ) -> Entries:
        null = self._nulls[seed] = Null.of(side, rows, self.rules.seed + seed)
        found = beyond(rows, side, vectors, null, self.rules.token_z)
        return strongest(discoveries(found, len(side), self.rules.false), per_sign)

    def _sources(self, layer: int) -> Entries:
        """Features of all earlier layers, by row number of the build."""
        reads, rules = self.vectors.reads(layer), self.rules
        parts, tests = [], 0
        for earlier in (one for one in self.vectors.layers if one < layer):
            writes = self.vectors.writes(earlier, layer)
            side = Side.of(writes)
            null = Null.of(side, reads, rules.seed + 10_000 * (earlier + 1) + layer)
            found = beyond(reads, side, writes, null, rules.feature_z)
            parts.append(Entries(found.row, found.index + self._first[earlier], found.weight, found.z, found.p))
            tests += len(side)
        if not parts:
            nothing = np.empty(0, np.int64)
            return Entries(nothing, nothing, np.empty(0, np.float32), np.empty(0), np.empty(0))
        joined = Entries(*(np.concatenate([getattr(part, name) for part in parts]) for name in Entries.__match_args__))
        joined = joined.take(np.lexsort((joined.index, -np.abs(joined.z), joined.row)))
        return strongest(discoveries(joined, tests, rules.false), rules.sources)

    def _follow(self, layer: int, sources: Entries, own: Entries, alone: csc_array) -> _Table:
        """Tokens that exciting sources are described by; each with the strongest source that names it."""
        n_vocab = self.vectors.n_vocab
        excite = sources.take(sources.z > 0)
        rows, tokens, origins, strengths = [], [], [], []
        for earlier, meaning in self._meaning.items():
            first = self._first[earlier]
            mine = (excite.index >= first) & (excite.index < first + meaning.n_features)
            row, z, local = excite.row[mine], excite.z[mine], excite.index[mine] - first
            counts = meaning.start[local + 1] - meaning.start[local]
            at = np.repeat(meaning.start[local] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            rows.append(np.repeat(row, counts))
            tokens.append(meaning.token[at])
            origins.append(np.repeat(local + first, counts))
            strengths.append(np.repeat(z, counts))
        if not rows:
            return _Table.empty()
        row, token, origin, strength = map(np.concatenate, (rows, tokens, origins, strengths))
        new = ~np.isin(row * n_vocab + token, own.row * n_vocab + own.index) & ~self.masked[token] & self._tried[token]
        row, token, origin, strength = row[new], token[new], origin[new], strength[new]
        order = np.lexsort((origin, -strength, token, row))
        key = row[order] * n_vocab + token[order]
        order = order[np.concatenate([[True], key[1:] != key[:-1]])] if len(order) else order
        row, token, origin = row[order], token[order], origin[order]
        weight, z, p = self._scores(layer, row, token)
        return _Table(row, token, _lookup(alone, row, token), origin, weight, z, p)

    def _scores(self, layer: int, row: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight, z and p of single pairs of feature and token."""
        reads, writes, side = self.vectors.reads(layer), self.vectors.token_writes(), self._token_side
        deviation = side.deviation(reads).cpu().numpy()
        weight, less = np.empty(len(row), np.float32), np.empty(len(row), np.float32)
        for first in range(0, len(row), 1 << 18):
            span = slice(first, first + (1 << 18))
            a, b = torch.from_numpy(row[span]).to(reads.device), torch.from_numpy(token[span]).to(reads.device)
            weight[span] = (reads[a] * writes[b]).sum(dim=1).cpu().numpy()
            less[span] = (reads[a] * side.centred[b]).sum(dim=1).cpu().numpy()
        z = np.divide(less, deviation[row], out=np.zeros(len(row)), where=deviation[row] > 0)
        return weight, z, self._nulls[layer].p(z)

    def _details(
        self, layer: int, n: int, table: _Table, alone: csc_array, inhibit: Entries, logits: Entries, sources: Entries
    ) -> pa.Table:
        tried = np.bincount(table.row[~np.isnan(table.activation)], minlength=n)
        fires = np.nan_to_num(table.activation) > 0
        validated = np.bincount(table.row[fires], minlength=n)
        said = np.bincount(table.row[fires], table.activation[fires].astype(np.float64), minlength=n)
        column = np.repeat(np.arange(n), np.diff(alone.indptr))
        seen = np.bincount(column, alone.data * ~self.masked[alone.indices], minlength=n)
        precision = validated / np.maximum(tried, 1)
        coverage = np.divide(said, seen, out=np.zeros(n), where=seen > 0)
        confidence = 2 * precision * coverage / np.maximum(precision + coverage, 1e-12)
        promoted = logits.take(logits.z > 0)
        texts = self._write(n, table, promoted)
        columns = {
            "feature": pa.array(np.arange(n) + self._first[layer], pa.int32()),
            "text": pa.array(texts, pa.string()),
            "confidence": pa.array(confidence.astype(np.float32), mask=validated == 0),
            "tried": pa.array(tried, pa.int32()),
            "validated": pa.array(validated, pa.int32()),
            "tokens": table.arrow(n),
            "inhibits": _arrow(inhibit, n),
            "promotes": _arrow(promoted, n),
            "suppresses": _arrow(logits.take(logits.z < 0), n),
            "sources": _arrow(sources, n),
        }
        return pa.table(columns, schema=DETAILS)

    def _write(self, n: int, table: _Table, promoted: Entries) -> list[str | None]:
        """Words of confirmed tokens; without any, of what the feature promotes."""
        found: list[str | None] = [None] * n
        fires = np.nan_to_num(table.activation) > 0
        order = np.flatnonzero(fires)
        order = order[np.lexsort((table.token[order], -table.activation[order], table.row[order]))]
        self._name(found, table.row[order], table.token[order], table.activation[order], "")
        silent = np.array([text is None for text in found])[promoted.row]
        self._name(found, promoted.row[silent], promoted.index[silent], promoted.z[silent], PROMOTES)
        return found

    def _name(self, found: list, row: np.ndarray, token: np.ndarray, weight: np.ndarray, before: str) -> None:
        start = np.searchsorted(row, np.arange(len(found) + 1))
        for feature in np.flatnonzero(np.diff(start)).tolist():
            span = slice(start[feature], min(start[feature + 1], start[feature] + _WORDS_FROM))
            pairs = zip((self._texts[t] for t in token[span].tolist()), weight[span].tolist(), strict=True)
            found[feature] = before + ", ".join(words(list(pairs), _WORDS))


@dataclass(frozen=True)
class _Meaning:
    """The tokens that a layer's features are described by: feature f has ``token[start[f]:start[f + 1]]``."""

    start: np.ndarray
    token: np.ndarray
    n_features: int

    @classmethod
    def of(cls, row: np.ndarray, token: np.ndarray, activation: np.ndarray, n: int, limit: int) -> _Meaning:
        fires = np.nan_to_num(activation) > 0
        row, token, activation = row[fires], token[fires].astype(np.int64), activation[fires]
        order = np.lexsort((token, -activation, row))
        row, token = row[order], token[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < limit
        start = np.searchsorted(row[kept], np.arange(n + 1))
        return cls(start, token[kept], n)


@dataclass(frozen=True)
class _Table:
    """Tokens that were tried, feature after feature."""

    row: np.ndarray
    token: np.ndarray
    activation: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    z: np.ndarray
    p: np.ndarray

    @classmethod
    def empty(cls) -> _Table:
        whole, real = np.empty(0, np.int64), np.empty(0)
        return cls(whole, whole, real, whole, real, real, real)

    @classmethod
    def join(cls, *tables: _Table) -> _Table:
        columns = [np.concatenate([getattr(table, name) for table in tables]) for name in cls.__match_args__]
        order = np.argsort(columns[0], kind="stable")
        return cls(*(column[order] for column in columns))

    def arrow(self, n: int) -> pa.ListArray:
        activation = pa.array(self.activation.astype(np.float32), mask=np.isnan(self.activation))
        entries = Entries(self.row, self.token, self.weight, self.z, self.p)
        return _arrow(entries, n, activation=activation, source=pa.array(self.source, pa.int32()))


def _arrow(entries: Entries, n: int, **more: pa.Array) -> pa.ListArray:
    """Entries, sorted by row, as a list a feature."""
    columns = {name: pa.array(getattr(entries, name), type_) for name, type_ in _ENTRY} | more
    start = np.searchsorted(entries.row, np.arange(n + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(start, pa.StructArray.from_arrays(list(columns.values()), list(columns)))


def _lookup(alone: csc_array, feature: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Activation of each pair, 0 where the token does not fire the feature."""
    n_vocab, n_features = alone.shape  # pyright: ignore[reportGeneralTypeIssues] - scipy's has one, always
    columns = np.repeat(np.arange(n_features, dtype=np.int64), np.diff(alone.indptr))
    stored = columns * n_vocab + alone.indices
    wanted = feature.astype(np.int64) * n_vocab + token
    at = np.minimum(np.searchsorted(stored, wanted), max(0, len(stored) - 1))
    found = np.zeros(len(wanted))
    if len(stored):
        hit = stored[at] == wanted
        found[hit] = alone.data[at[hit]]
    return found
