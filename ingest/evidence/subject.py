"""What is observed: a build, and the model and the transcoders that it was made from, held against each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import BadModel, BadTranscoder
from atlas.staging import Build
from ingest.evidence.capture import READABLE, Runner, load
from ingest.sources import open_transcoders
from ingest.transcoder import TranscoderSource
from ingest.weights import ModelWeights, open_model

_DIALOGUE = re.compile(r"gemma-3-.*-it")


@dataclass
class Subject:
    """A build, and the model and transcoders it was made from, checked against each other."""

    build: Build
    weights: ModelWeights
    source: TranscoderSource
    runner: Runner
    tokenizer: Any

    @property
    def special(self) -> tuple[int | None, int | None, int]:
        """What never counts: BOS and padding, and how many positions at the start of a text. Gemma 3's models for
        dialogue begin every text with the same four tokens, where transcoders are not meant to be read."""
        unlike = 4 if _DIALOGUE.match(self.weights.name) else 1
        return self.tokenizer.bos_token_id, self.tokenizer.pad_token_id, unlike

    @property
    def shape_of(self) -> list[int]:
        return [self.source.info.n_features[layer] for layer in self.source.info.layers]


def open_subject(
    build: Build,
    model: Any,
    transcoders: Any,
    device: str = "cpu",
    tokenizer: Any = None,
    *,
    allow_pickle: bool = False,
) -> Subject:
    """Open what a build was made from.

    Raises :class:`atlas.errors.BadModel` or :class:`atlas.errors.BadTranscoder` for what is not that, and
    for a tokenizer with another vocabulary.
    """
    weights = open_model(model, tokenizer)
    row = build.nodes("Model").to_pylist()[0]
    if weights.revision != row["revision"]:
        raise BadModel(
            f"{build.set_key} was built from {row['repo']} at {row['revision']}, but {weights.repo} is at "
            f"{weights.revision}; give that model with --model"
        )
    if weights.vocabulary.name != row["tokenizer"]:
        raise BadModel(
            f"the tokenizer has the vocabulary {weights.vocabulary.name}, but {build.set_key} was built with "
            f"{row['tokenizer']}; token ids would mean other words"
        )
    source = open_transcoders(transcoders, build.layers, model=weights, allow_pickle=allow_pickle)
    row = build.nodes("TranscoderSet").to_pylist()[0]
    if source.info.revision != row["revision"] or source.info.layers != build.layers:
        raise BadTranscoder(
            f"{build.set_key} was built from {row['repo']} at {row['revision']}, but {source.info.repo} is at "
            f"{source.info.revision}; give those transcoders with --transcoders"
        )
    if source.info.read not in READABLE:
        raise BadTranscoder(
            f"{build.set_key} reads {source.info.read}; what fires is read off where an MLP reads alone "
            f"({', '.join(READABLE)}), so this set can be neither observed nor described"
        )
    if sum(build.features_per_layer) != sum(source.info.n_features.values()):
        raise BadTranscoder(
            f"{build.set_key} holds directions behind its features; observe and describe the set it was made from, "
            f"{build.set_key.removesuffix('-directions')}"
        )
    running = model[0] if isinstance(model, tuple) else model
    return Subject(build, weights, source, Runner(load(running, device), weights), tokenizer or tokenizer_of(model))


def tokenizer_of(model: Any) -> Any:
    """The tokenizer of a model that is a place, a pair with its tokenizer, or loaded with one."""
    if isinstance(model, tuple):
        return model[1]
    if not isinstance(model, str | Path):
        return model.tokenizer
    from transformers import AutoTokenizer

    from ingest.folders import open_folder

    return AutoTokenizer.from_pretrained(open_folder(model).path("config.json").parent, local_files_only=True)
