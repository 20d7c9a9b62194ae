"""WeightLens, compared with a literal, slow reading of its description."""

from __future__ import annotations

import pytest

from atlas.errors import BadModel, BadSetting
from atlas.model import Activation
from ingest.describe.forward import Passes
from ingest.describe.pools import Thresholds, search
from ingest.describe.weightlens import Branch, Describer, Words, branch_of
from tests.unit.ingest.describe.literal import Literal, differences
from tests.unit.ingest.describe.small import N_FEATURES, N_LAYERS, Small, renamed, small

TOKEN_Z, FEATURE_Z = 2.6, 2.4
EVERY = 3


def described(made: Small, branch: Branch, thresholds: Thresholds) -> tuple[dict, int]:
    passes = Passes(made.runner, made.source)
    describer = Describer(passes, Words(made.tokenizer), branch)
    records = {}
    for layer in range(N_LAYERS):
        for record in describer.describe(search(made.weights, made.source, layer, thresholds)):
            records[layer, record["feature"]["feature_idx"]] = record
    return records, passes.count


def literally(made: Small, name: str) -> Literal:
    layers = [(t.w_enc, t.w_dec) for t in map(made.source.load, range(N_LAYERS))]
    embedding = made.weights.embedding * made.weights.embedding_scale
    return Literal(
        embedding, made.weights.unembedding, layers, made.tokenizer, made.activation, name, TOKEN_Z, FEATURE_Z
    )


@pytest.mark.parametrize(
    ("family", "activation"), [("gpt2", Activation.RELU), ("gpt2", Activation.JUMPRELU), ("gemma2", Activation.RELU)]
)
def test_every_feature_is_described_as_the_literal_reading_describes_it(family: str, activation: Activation):
    made = small(family, activation)
    branch = branch_of(made.weights)

    records, passes = described(made, branch, Thresholds(TOKEN_Z, FEATURE_Z))

    slow = literally(made, branch.value)
    wrong, clear = [], 0
    for layer, n in enumerate(N_FEATURES):
        for idx in range(0, n, EVERY):
            expected = slow.feature(layer, idx)
            wrong += differences(records[layer, idx], expected, f"{layer}/{idx}")
            clear += slow.margin[layer, idx] > 1e-4
    assert wrong == []
    assert clear > 0.9 * sum(N_FEATURES) / EVERY
    assert sum(r["description"] is not None for r in records.values()) > 100
    assert sum(r["description"] is None and r["description_soft"] is not None for r in records.values()) > 3
    assert any(len(r["description"] or ()) > 5 for r in records.values())
    assert passes * 10 < slow.passes


def test_the_branch_follows_the_name_then_the_architecture_then_nothing():
    weights = small().weights

    assert branch_of(renamed(weights, "gemma-2-2b")) is Branch.GEMMA
    assert branch_of(renamed(weights, "openai-community/gpt2")) is Branch.GPT
    assert branch_of(renamed(weights, "bunny")) is Branch.GPT
    assert branch_of(renamed(weights, "Llama-3.2-1B", n_vocab=128256)) is Branch.LLAMA
    assert branch_of(renamed(weights, "qwen3", family="qwen3"), "gemma") is Branch.GEMMA
    with pytest.raises(BadSetting, match="--weightlens-branch"):
        branch_of(renamed(weights, "qwen3-0.6b", family="qwen3"))
    with pytest.raises(BadSetting, match="token 128000"):
        branch_of(renamed(weights, "Llama-tiny"))


def test_a_vocabulary_smaller_than_a_pool_is_refused_in_one_line(monkeypatch):
    made = small()
    monkeypatch.setattr("ingest.describe.pools.TOKEN_POOL", 5000)

    with pytest.raises(BadModel, match="pools of 5000"):
        search(made.weights, made.source, 0, Thresholds(5.5, 4.0))
