"""Tokens whose embedding says nothing: never trained, or hardly ever. They score high by accident and are masked.

Four signs, after Land and Bartolo 2024, "Fishing for Magikarp" (https://arxiv.org/abs/2405.05417):

row        a row behind the tokenizer's last token, or an id without a token
special    BOS and the tokenizer's other control tokens
unmade     a token of a byte-pair vocabulary that no merge makes: no text ever becomes it
untrained  an embedding that never moved: all but equal to those of the tokens above, or far nearer to the common mean
           than others (its distance lies more than :data:`FAR` robust deviations below the median)
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ingest.vocabulary import Vocabulary

FAR = 6.0
ALIKE = 0.97
"""cosine, about the common mean, with the mean of tokens that are known to be unused"""


def signs(tokenizer: Any, vocabulary: Vocabulary, embedding: Float[Tensor, "n_vocab d_model"]) -> dict[str, np.ndarray]:
    """Token ids by sign; a token has the first sign that fits it."""
    n = len(vocabulary.texts)
    known = set(tokenizer.get_vocab().values())
    found = {"row": np.asarray([i for i in range(n) if i not in known], np.int64)}
    found["special"] = np.asarray(sorted(set(tokenizer.all_special_ids) & known), np.int64)
    found["unmade"] = np.asarray(sorted(_unmade(tokenizer) - set(found["special"].tolist())), np.int64)
    sure = np.concatenate([found["row"], found["unmade"]])
    seen = np.concatenate([sure, found["special"]])
    found["untrained"] = np.setdiff1d(_untrained(embedding, sure, seen), seen)
    return found


def masked(found: dict[str, np.ndarray], n_vocab: int) -> np.ndarray:
    """Which tokens to leave out; bool [n_vocab]."""
    mask = np.zeros(n_vocab, bool)
    for ids in found.values():
        mask[ids] = True
    return mask


def _unmade(tokenizer: Any) -> set[int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {}
    model = content.get("model", {})
    if model.get("type") != "BPE" or not model.get("merges") or model.get("ignore_merges"):
        return set()
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]}
    added = {token["content"] for token in content.get("added_tokens", ())}
    return {
        index
        for token, index in model["vocab"].items()
        if token not in merged and token not in added and not _base(token)
    }


def _base(token: str) -> bool:
    return len(token) == 1 or (len(token) == 6 and token.startswith("<0x") and token.endswith(">"))


def _untrained(embedding: Tensor, sure: np.ndarray, seen: np.ndarray) -> np.ndarray:
    others = np.setdiff1d(np.arange(len(embedding)), seen)
    if len(others) < 100:
        return np.empty(0, np.int64)
    rows = embedding.double()
    centred = rows - rows[torch.from_numpy(others)].median(dim=0).values
    length = centred.norm(dim=1).clamp(min=1e-12).log()
    own = length[torch.from_numpy(others)]
    median = own.median()
    deviation = 1.4826 * (own - median).abs().median()
    low = length < median - FAR * deviation.clamp(min=1e-3)
    if len(sure) >= 3:
        unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
        common = unit[torch.from_numpy(sure)].mean(dim=0)
        if common.norm() > 0.9:  # the unused ones agree with each other
            low |= unit @ (common / common.norm()) > ALIKE
    return low.nonzero()[:, 0].numpy()
