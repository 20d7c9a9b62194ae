"""The published method WeightLens, decision for decision, its defects included (arXiv 2510.14936).

Steps, as :mod:`ingest.describe.pools` leaves them:

B. Every exciting token ``v`` is run as ``[2, v]`` - the literal id 2, whatever it says in this vocabulary - and the
   feature read on ``v``.
F. A description begins with the tokens that fired. Then come the descriptions of kept earlier features, in the order of
   their relative contribution (of a GPT only those of layer 0): each source's strings are concatenated into one text of
   their own, every string cut to its last token, and those that fire the feature there are added. A description
   that is not empty is sorted and de-duplicated, and so is the soft one, which holds what was not confirmed too;
   both are run once more as one text each, for ``validation`` and ``validation_soft``.

What precedes those texts depends on the model's name: 2 for gemma, nothing for gpt, 128000 for Llama (:class:`Branch`).
Where the original can only be followed in spirit: activations are read at the set's declared site; a text longer
than the model's context is run in pieces (the original fails); a string without a token stands for the BOS.
Lists of strings pass through NumPy in the original, which drops trailing NULs; so they do here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from atlas.errors import BadSetting
from ingest.describe.forward import Passes, Probes
from ingest.describe.pools import Found
from ingest.weights import ModelWeights

PREFIX = 2
Record = dict[str, Any]


class Branch(StrEnum):
    """What the original's code does by the model's name."""

    GPT = "gpt"
    GEMMA = "gemma"
    LLAMA = "llama"

    @property
    def bos(self) -> int | None:
        """What precedes a concatenated text."""
        return {"gemma": 2, "llama": 128000}.get(self.value)

    def follows(self, layer: int) -> bool:
        """Whether features of this layer may lend their descriptions."""
        return self is not Branch.GPT or layer == 0


_WORDS = (Branch.GEMMA, Branch.GPT, Branch.LLAMA)


def branch_of(model: ModelWeights, asked: str | None = None, called: str = "") -> Branch:
    """The branch that is asked for, or that the model's name or architecture decides.

    ``called``: what the atlas calls the model; it goes before the name the model came with. Of several words in one
    name the first of gemma, gpt, llama counts, as in the original; small and large letters are alike.
    Raises :class:`atlas.errors.BadSetting` where neither decides, and where a prefix lies beyond the vocabulary.
    """
    names = [called, model.name, model.repo.rpartition("/")[2]]
    named = next((branch for name in names for branch in _WORDS if branch in name.lower()), None)
    branch = Branch(asked) if asked else named or (Branch.GPT if model.family == "gpt2" else None)
    if branch is None:
        raise BadSetting(
            f"WeightLens treats models by name, and {called or model.name} names neither gemma, gpt nor llama; say "
            "which with --weightlens-branch"
        )
    beyond = [one for one in (PREFIX, branch.bos) if one is not None and one >= model.n_vocab]
    if beyond:
        raise BadSetting(
            f"the {branch} branch of WeightLens begins texts with the token {beyond[-1]}, but {model.name} has "
            f"{model.n_vocab}; choose another with --weightlens-branch"
        )
    return branch


class Words:
    """A tokenizer as the original uses it: an id to text and back, which is not always the same id."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = functools.cache(self._text)
        self.last_id = functools.cache(self._last_id)

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])

    def _last_id(self, text: str) -> int:
        ids = self._tokenizer(text).input_ids
        if ids:
            return int(ids[-1])
        spare = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id, 0)
        return next(one for one in spare if one is not None)


@dataclass
class Describer:
    """Layer after layer, lowest first: a layer's descriptions rest on those of the layers before it."""

    passes: Passes
    words: Words
    branch: Branch

    def __post_init__(self) -> None:
        self._known: dict[int, list[list[str] | None]] = {}
        self._close: set[tuple[int, int]] = set()

    def learn(self, layer: int, descriptions: list[list[str] | None], close: list[list[str]]) -> None:
        """Take over a layer that was described before, with what rounding decided there."""
        self._known[layer] = descriptions
        self._close |= {(layer, feature) for feature, entries in enumerate(close) if entries}

    def close(self, found: Found, records: list[Record]) -> list[list[str]]:
        """For each feature what rounding decides: scores next to a threshold, and lenders with such scores."""
        own = found.close()
        every = []
        for feature, record in enumerate(records):
            lent = [f"lent by {layer}/{source}" for layer, source in self._lenders(record, self._close)]
            every.append(own.get(feature, []) + lent)
        return every

    def describe(self, found: Found) -> list[Record]:
        """One record a feature, in the published JSON's form and order of names."""
        records = self._weighed(found)
        fired = self._alone(found)
        for record, activations in zip(records, fired, strict=True):
            record["embedding"]["positive_tokens_activation"] = activations
            confirmed = np.asarray(activations) > 0
            record["description_soft"] = _strings(record["embedding"]["top_positive_tokens"], confirmed)
            record["description"] = list(record["description_soft"])
        self._follow(found.layer, records)
        self._validate(found.layer, records)
        return records

    def _weighed(self, found: Found) -> list[Record]:
        """What the weights alone give: steps A, C, D, E."""
        records = []
        for feature in range(found.n_features):
            total = float(found.total[feature])
            (excite, excite_by), (inhibit, inhibit_by) = (side.of(feature) for side in found.tokens)
            promoted, suppressed = (side.of(feature)[0] for side in found.logits)
            sources = []
            for layer, side in found.sources.items():
                for source, score in zip(*(column.tolist() for column in side.of(feature)), strict=True):
                    sources.append(
                        {
                            "from_layer": layer,
                            "from_feature_idx": source,
                            "contribution": score,
                            "relative_contribution": abs(score) / total,
                        }
                    )
            sources.sort(key=lambda entry: entry["relative_contribution"], reverse=True)
            relative = [_relative(scores, total) for scores in (excite_by, inhibit_by)]
            records.append(
                {
                    "feature": {"layer": found.layer, "feature_idx": feature},
                    "embedding": {
                        "top_positive_tokens": self._texts(excite),
                        "top_negative_tokens": self._texts(inhibit),
                        "positive_tokens_activation": [],
                        "top_positive_token_ids": excite.tolist(),
                        "top_positive_tokens_contribution": excite_by.tolist(),
                        "top_negative_tokens_ids": inhibit.tolist(),
                        "top_negative_tokens_contribution": inhibit_by.tolist(),
                        "top_positive_tokens_relative_contribution": relative[0],
                        "top_negative_tokens_relative_contribution": relative[1],
                    },
                    "output_logits": {
                        "top_positive_tokens": self._texts(promoted),
                        "top_negative_tokens": self._texts(suppressed),
                    },
                    "feature_to_feature_contributions": sources,
                    "total_input_invariant_detected_contribution": sum(relative[0])
                    + sum(entry["relative_contribution"] for entry in sources),
                    "total_input_invariant_contribution": total,
                }
            )
        return records

    def _texts(self, tokens: np.ndarray) -> list[str]:
        return [self.words.text(token) for token in tokens.tolist()]

    def _alone(self, found: Found) -> Iterator[list[float]]:
        """Activations of each feature's exciting tokens, each token behind :data:`PREFIX`."""
        outliers = found.tokens[0]
        tokens, at = np.unique(outliers.index, return_inverse=True)
        feature = np.repeat(np.arange(found.n_features), np.diff(outliers.start))
        probes = Probes(at.ravel(), np.ones(len(at), np.int64), feature)
        sequences = [[PREFIX, token] for token in tokens.tolist()]
        values = self.passes.activations(found.layer, sequences, probes)
        for first, last in zip(outliers.start[:-1], outliers.start[1:], strict=True):
            yield values[first:last].tolist()

    def _follow(self, layer: int, records: list[Record]) -> None:
        """Add what earlier features' descriptions lend."""
        readers: dict[tuple[int, int], list[int]] = {}
        speaking = {
            (earlier, source)
            for earlier, descriptions in self._known.items()
            for source, description in enumerate(descriptions)
            if description is not None
        }
        for feature, record in enumerate(records):
            for source in self._lenders(record, speaking):
                readers.setdefault(source, []).append(feature)
        lent = self._together(layer, [(self._known[s][f] or [], features) for (s, f), features in readers.items()])
        fires = {
            (source, feature): column
            for (source, features), table in zip(readers.items(), lent, strict=True)
            for feature, column in zip(features, table.T, strict=True)
        }
        for feature, record in enumerate(records):
            for source in self._lenders(record, speaking):
                strings = self._known[source[0]][source[1]] or []
                record["description_soft"].extend(strings)
                record["description"].extend(_strings(strings, fires[source, feature] > 0))

    def _lenders(self, record: Record, among: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for entry in record["feature_to_feature_contributions"]:
            source = entry["from_layer"], entry["from_feature_idx"]
            if self.branch.follows(source[0]) and source in among:
                yield source

    def _validate(self, layer: int, records: list[Record]) -> None:
        for record in records:
            if record["description"]:
                record["description"] = _unique(record["description"])
                record["description_soft"] = _unique(record["description_soft"])
        for name in ("description", "description_soft"):
            said = [(feature, record[name]) for feature, record in enumerate(records) if record[name]]
            tables = self._together(layer, [(strings, [feature]) for feature, strings in said])
            values = {feature: table[:, 0] for (feature, _), table in zip(said, tables, strict=True)}
            for feature, record in enumerate(records):
                fired = values.get(feature)
                if name == "description":
                    record["validation"] = fired is not None and bool(fired.sum() > 0)
                else:
                    record["validation_soft"] = 0.0 if fired is None else int((fired > 0).sum()) / len(fired)
        for feature, record in enumerate(records):
            texts = {name: record.pop(name) or None for name in ("description_soft", "description")}
            checks = {name: record.pop(name) for name in ("validation", "validation_soft")}
            records[feature] = record | texts | checks

    def _together(self, layer: int, texts: Sequence[tuple[list[str], list[int]]]) -> list[np.ndarray]:
        """Activations [strings, features] of concatenated strings, one text each, at the features asked of it."""
        start = [] if self.branch.bos is None else [self.branch.bos]
        room = max(1, (self.passes.context or 1 << 30) - len(start))
        sequences: list[list[int]] = []
        columns: list[list[np.ndarray]] = [[], [], []]
        for strings, features in texts:
            ids = [self.words.last_id(text) for text in strings]
            for first in range(0, len(ids), room):
                piece = ids[first : first + room]
                position, feature = np.meshgrid(np.arange(len(piece)) + len(start), features, indexing="ij")
                columns[0].append(np.full(position.size, len(sequences)))
                columns[1].append(position.ravel())
                columns[2].append(feature.ravel())
                sequences.append(start + piece)
        if not sequences:
            return []
        values = self.passes.activations(layer, sequences, Probes(*(np.concatenate(column) for column in columns)))
        sizes = [(len(strings), len(features)) for strings, features in texts]
        ends = np.cumsum([rows * width for rows, width in sizes])[:-1]
        return [part.reshape(size) for part, size in zip(np.split(values, ends), sizes, strict=True)]


def _relative(scores: np.ndarray, total: float) -> list[float]:
    """In float32, as the original divides tokens' scores; sources are divided in double precision."""
    return (torch.from_numpy(scores).abs() / total).tolist()


def _strings(strings: list[str], kept: np.ndarray) -> list[str]:
    return np.array(strings, dtype=str)[kept].tolist() if strings else []


def _unique(strings: list[str]) -> list[str]:
    return np.unique(np.array(strings, dtype=str)).tolist()
