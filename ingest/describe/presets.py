"""The presets: what is computed under which name, staged beside the build, resumable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from atlas import descriptions
from atlas.descriptions import Descriptions
from atlas.descriptions.staging import Staging, scores, texts
from atlas.errors import BadSetting
from atlas.provenance import Run, canonical
from atlas.stores import Progress
from ingest.describe import rare, validated
from ingest.describe.cleaning import words
from ingest.describe.evidence import Evidence, gather
from ingest.describe.forward import Passes
from ingest.describe.pools import Thresholds, search
from ingest.describe.weightlens import Branch, Describer, Record, Words, branch_of
from ingest.evidence.subject import Subject
from ingest.folding import Vectors

PRESETS = ("atlas", "weightlens", "weightlens-paper")
RECORDS = pa.schema([("feature", pa.int32()), ("record", pa.string()), ("close", pa.list_(pa.string()))])
"""Details of WeightLens: the published JSON of every feature, as one line; ``close``: what in it rounding decides."""
_PAPER = {Branch.GPT: Thresholds(4.0, 3.0), Branch.GEMMA: Thresholds(4.5, 3.0), Branch.LLAMA: Thresholds(4.5, 3.0)}
_CODE = Thresholds(5.5, 4.0)
_WORDS = 8


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    preset: str = "atlas"
    token_z: float | None = None
    feature_z: float | None = None
    """thresholds instead of the preset's, in deviations"""
    branch: str | None = None
    """WeightLens only: gpt, gemma or llama"""
    false: float = 0.05
    """atlas only: bound on the share of false discoveries in a row; 1 leaves the test out"""
    tokens: tuple[int, ...] | None = None
    """atlas only: the tokens to run alone; all where it is None"""
    show_rare: bool = False
    """atlas only: leave no token out"""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise BadSetting(f"there is no preset {self.preset!r}; it is one of {', '.join(PRESETS)}")
        for name in ("token_z", "feature_z"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise BadSetting(f"{name} is {value}; give a positive number of deviations")
        if not 0 < self.false <= 1:
            raise BadSetting(f"the share of false discoveries is {self.false}; give more than 0 and at most 1")
        if self.branch is not None and (self.preset == "atlas" or self.branch not in list(Branch)):
            raise BadSetting(f"branch {self.branch!r} belongs to WeightLens and is one of {', '.join(Branch)}")
        if self.preset != "atlas" and (self.tokens is not None or self.show_rare):
            raise BadSetting("WeightLens tries every candidate and masks none; tokens belong to --preset atlas")


def describe(subject: Subject, request: Request, progress: Progress | None = None) -> Descriptions:
    """Describe every feature of a set and stage it; the same call again finds it, or goes on where it stopped."""
    if request.preset == "atlas":
        return _own(subject, request, progress)
    return _published(subject, request, progress)


def _published(subject: Subject, request: Request, progress: Progress | None) -> Descriptions:
    if subject.source.info.targets:
        raise BadSetting(
            f"{subject.build.set_key} is cross-layer, and WeightLens knows one decoder a feature; use --preset atlas"
        )
    branch = branch_of(subject.weights, request.branch, subject.build.model)
    given = _PAPER[branch] if request.preset == "weightlens-paper" else _CODE
    thresholds = Thresholds(request.token_z or given.tokens, request.feature_z or given.features)
    settings = {"preset": request.preset, "branch": branch.value, **asdict(thresholds)}
    staging = Staging(subject.build, request.preset, Run(_inputs(subject), settings))
    if found := staging.finished():
        return found
    passes = Passes(subject.runner, subject.source)
    describer = Describer(passes, Words(subject.tokenizer), branch)
    layers, first = subject.source.info.layers, 0
    parts, candidates = [], 0
    for position, layer in enumerate(layers):

        def make(layer: int = layer, first: int = first) -> pa.Table:
            found = search(subject.weights, subject.source, layer, thresholds, subject.runner.device)
            records = describer.describe(found)
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            rows = pa.array(np.arange(first, first + len(lines)), pa.int32())
            return pa.table([rows, lines, describer.close(found, records)], schema=RECORDS)

        table = staging.layer(layer, make)
        parts.append(table)
        records = [json.loads(record) for record in table["record"].to_pylist()]
        describer.learn(layer, [record["description"] for record in records], table["close"].to_pylist())
        candidates += sum(len(record["embedding"]["top_positive_token_ids"]) for record in records)
        first += len(table)
        if progress:
            progress("describing (layers)", position + 1, len(layers))
    details = pa.concat_tables(parts)
    rows = [row for feature, record in _records(details) if (row := _said(feature, record))]
    close = sum(map(bool, details["close"].to_pylist()))
    about = {"settings": settings, "candidates": candidates, "passes": passes.count, "close": close}
    return staging.finish(texts(rows, f"WeightLens, {branch} branch"), details, about)


def _said(feature: int, record: Record) -> tuple[int, str, str] | None:
    said = record["description"]
    if not said:
        return None
    own = dict(
        zip(record["embedding"]["top_positive_tokens"], record["embedding"]["positive_tokens_activation"], strict=True)
    )
    pairs = sorted(((text, own.get(text, 0.0)) for text in said), key=lambda pair: -pair[1])
    figures = scores(validation=record["validation"], validation_soft=record["validation_soft"], tokens=len(said))
    return feature, ", ".join(words(pairs, _WORDS)), figures


def _records(details: pa.Table) -> Iterator[tuple[int, Record]]:
    for feature, record in zip(details["feature"].to_pylist(), details["record"].to_pylist(), strict=True):
        yield feature, json.loads(record)


def _own(subject: Subject, request: Request, progress: Progress | None) -> Descriptions:
    rules = validated.Rules(seed=request.seed, false=request.false)
    rules = replace(rules, token_z=request.token_z or rules.token_z, feature_z=request.feature_z or rules.feature_z)
    settings = {
        "preset": "atlas",
        **asdict(rules),
        "show_rare": request.show_rare,
        "tokens": None if request.tokens is None else list(request.tokens),
    }
    staging = Staging(subject.build, "atlas", Run(_inputs(subject), settings))
    if found := staging.finished():
        return found
    chosen = None if request.tokens is None else np.asarray(request.tokens)
    evidence = open_evidence(subject, chosen, progress)
    signs = rare.signs(subject.tokenizer, subject.weights.vocabulary, subject.weights.embedding)
    masked = rare.masked({} if request.show_rare else signs, subject.weights.n_vocab)
    describer = validated.Describer(
        Vectors(subject.weights, subject.source, subject.runner.device), evidence, masked, rules
    )
    parts, layers = [], subject.source.info.layers
    for position, layer in enumerate(layers):
        table = staging.layer(layer, lambda layer=layer: describer.describe(layer))
        describer.learn(layer, table)
        parts.append(table)
        if progress:
            progress("describing (layers)", position + 1, len(layers))
    details = pa.concat_tables(parts)
    about = {
        "settings": settings,
        "passes": evidence.passes,
        "candidates": int(np.sum(details["tried"].to_numpy())),
        "rare": {sign: len(ids) for sign, ids in signs.items()},
        "evidence": evidence.path.name,
    }
    return staging.finish(texts(_rows(details, subject), "weights, tokens run alone"), details, about)


def _rows(details: pa.Table, subject: Subject) -> list[tuple[int, str, str]]:
    said = subject.weights.vocabulary.texts
    rows = []
    for row in details.select(
        ["feature", "text", "confidence", "tried", "validated", "promotes", "suppresses"]
    ).to_pylist():
        if row["text"] is None:
            continue
        logits = {
            name: words([(said[entry["index"]], abs(entry["z"])) for entry in row[name]], 5) or None
            for name in ("promotes", "suppresses")
        }
        confidence = None if row["confidence"] is None else round(row["confidence"], 3)
        figures = scores(confidence=confidence, tried=row["tried"], validated=row["validated"], **logits)
        rows.append((row["feature"], row["text"], figures))
    return rows


def open_evidence(subject: Subject, tokens: np.ndarray | None = None, progress: Progress | None = None) -> Evidence:
    """The build's table of tokens run alone, made where it is not there."""
    inputs = {
        **_inputs(subject),
        "prefix": subject.weights.bos_id,
        "tokens": None if tokens is None else tokens.tolist(),
    }
    folder = descriptions.folder(subject.build) / f"evidence-{Run(inputs, {'table': 'evidence'}).id}"
    return gather(subject.runner, subject.source, folder, tokens=tokens, progress=progress)


def chosen_tokens(asked: str, subject: Subject) -> tuple[int, ...]:
    """Token ids from ``--tokens``: a number for the first so many ids (the commonest, where a vocabulary was grown by
    merging), or a file with a token or an id a line.

    Raises :class:`atlas.errors.BadSetting` for neither, and for a token that the vocabulary does not have.
    """
    n = subject.weights.n_vocab
    if asked.isdigit():
        if not 0 < int(asked) <= n:
            raise BadSetting(f"--tokens {asked}: the vocabulary has {n} tokens")
        return tuple(range(int(asked)))
    try:
        lines = Path(asked).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"--tokens {asked!r} is neither a number nor a file of text ({error})") from error
    by_text: dict[str, int] = {}
    for index, text in enumerate(subject.weights.vocabulary.texts):
        by_text.setdefault(text, index)
    found = set()
    for number, line in enumerate(lines, 1):
        token = int(line) if line.isdigit() else by_text.get(line)
        if line and (token is None or token >= n):
            raise BadSetting(f"{asked} line {number}: {line[:40]!r} is no token of {subject.weights.name}")
        if line and token is not None:
            found.add(token)
    if not found:
        raise BadSetting(f"{asked} names no token; write one a line, as text or as id")
    return tuple(sorted(found))


def _inputs(subject: Subject) -> dict[str, Any]:
    """What went in, by hash; the build itself stands for model, transcoders and vocabulary."""
    return json.loads(canonical({"build": subject.build.run, "set": subject.build.set_key}))
