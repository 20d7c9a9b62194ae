"""Tokens that were never trained are found, and tokens that are merely unlike others are not."""

from __future__ import annotations

import torch

from ingest.describe.rare import masked, signs
from ingest.vocabulary import read
from tests.unit.ingest.describe.small import BOS, N_VOCAB, tokenizer


def embedding(untrained: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    found = torch.randn(N_VOCAB, 48, generator=generator) * (1 + torch.rand(N_VOCAB, 1, generator=generator)) + 0.5
    found[untrained] = 0.5 + 0.001 * torch.randn(len(untrained), 48, generator=generator)
    return found


def test_rows_control_tokens_and_embeddings_that_never_moved_are_found_each_by_its_sign():
    words = tokenizer()
    vocabulary = read(words, N_VOCAB)

    found = signs(words, vocabulary, embedding([300, 301, 777]))

    assert found["row"].tolist() == list(range(len(words), N_VOCAB))
    assert set(found["special"].tolist()) == {0, BOS}
    assert set(found["untrained"].tolist()) == {300, 301, 777}
    assert masked(found, N_VOCAB).sum() == sum(map(len, found.values()))
    assert not masked({}, N_VOCAB).any()


def test_a_token_that_no_merge_makes_is_found_and_bytes_are_not():
    words = tokenizer()
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(words.backend_tokenizer.to_str())
    lost = content["model"]["merges"].pop()
    broken = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), bos_token="<bos>")

    found = signs(broken, read(broken, N_VOCAB), embedding([]))

    assert found["unmade"].tolist() == [content["model"]["vocab"]["".join(lost)]]
    assert signs(words, read(words, N_VOCAB), embedding([]))["unmade"].tolist() == []
    assert found["untrained"].tolist() == []
