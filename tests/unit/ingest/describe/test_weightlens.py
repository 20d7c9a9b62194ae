"""WeightLens, compared with a literal, slow reading of its description."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from atlas.errors import BadModel, BadSetting
from atlas.model import Activation, ReadSite
from ingest.describe.forward import Passes
from ingest.describe.pools import Thresholds, search
from ingest.describe.weightlens import Branch, Describer, Words, branch_of
from tests.unit.ingest.describe.literal import Literal, differences
from tests.unit.ingest.describe.small import N_FEATURES, N_LAYERS, N_VOCAB, ODD, Small, renamed, small


def described(made: Small, branch: Branch, thresholds: Thresholds) -> tuple[dict, dict, int]:
    """Every record and its close calls by (layer, feature), and the forward passes it took."""
    passes = Passes(made.runner, made.source)
    describer = Describer(passes, Words(made.tokenizer), branch)
    records, close = {}, {}
    for layer in range(N_LAYERS):
        found = search(made.weights, made.source, layer, thresholds)
        here = describer.describe(found)
        calls = describer.close(found, here)
        describer.learn(layer, [record["description"] for record in here], calls)
        records |= {(layer, idx): record for idx, record in enumerate(here)}
        close |= {(layer, idx): entries for idx, entries in enumerate(calls)}
    return records, close, passes.count


def literally(made: Small, case: Case) -> Literal:
    layers = [(t.w_enc, t.w_dec) for t in map(made.source.load, range(N_LAYERS))]
    embedding = made.weights.embedding * made.weights.embedding_scale
    read = made.tokenizer, made.activation, case.branch, case.token_z, case.feature_z
    return Literal(embedding, made.weights.unembedding, layers, *read)


@dataclass(frozen=True)
class Case:
    """A random model, and how it is described."""

    family: str
    activation: Activation
    read: ReadSite
    branch: str
    seed: int = 0
    n_vocab: int = N_VOCAB
    token_z: float = 2.6
    feature_z: float = 2.4
    every: int = 15
    layers: int = N_LAYERS


CASES = [
    Case("gpt2", Activation.RELU, ReadSite.NORM_POST_GAIN, "gpt", every=5),
    Case("gpt2", Activation.JUMPRELU, ReadSite.NORM_PRE_GAIN, "gpt", seed=1),
    Case("gpt2", Activation.RELU, ReadSite.RESID_MID, "gemma", seed=2, token_z=2.2, feature_z=2.2, layers=2),
    Case("gemma2", Activation.RELU, ReadSite.NORM_POST_GAIN, "gemma", seed=3),
    Case("gemma2", Activation.JUMPRELU, ReadSite.NORM_PRE_GAIN, "gemma", seed=4, layers=2),
    Case("llama", Activation.RELU, ReadSite.RESID_MID, "llama", seed=5, n_vocab=128_064, token_z=3.0, layers=2),
    Case("llama", Activation.JUMPRELU, ReadSite.NORM_POST_GAIN, "gpt", seed=6, token_z=3.0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.read}-{case.branch}")
def test_every_feature_is_described_as_the_literal_reading_describes_it(case: Case):
    made = small(case.family, case.activation, case.seed, read=case.read, n_vocab=case.n_vocab)

    records, close, passes = described(made, Branch(case.branch), Thresholds(case.token_z, case.feature_z))

    slow = literally(made, case)
    wrong, clear = [], 0
    for layer, n in enumerate(N_FEATURES[: case.layers]):
        for idx in {*range(0, n, case.every), *range(len(ODD) + 1)}:
            expected = slow.feature(layer, idx)
            found = differences(records[layer, idx], expected, f"{layer}/{idx}")
            if found and close[layer, idx]:
                continue  # rounding decides, and it is said
            wrong += found
            clear += not close[layer, idx]
    assert wrong == []
    assert clear > 0.8 * sum(N_FEATURES[: case.layers]) / case.every
    assert sum(r["description"] is not None for r in records.values()) > 100
    assert any(len(r["description"] or ()) > 5 for r in records.values())
    assert passes * 10 < slow.passes
    nothing = records[0, len(ODD)]
    assert nothing["embedding"]["top_positive_tokens"] == []
    assert nothing["description"] is None
    assert nothing["total_input_invariant_contribution"] == 0.0


def test_odd_cases_do_occur_among_those_that_are_compared():
    made = small()

    records, _, _ = described(made, Branch.GPT, Thresholds(2.6, 2.4))

    every = list(records.values())
    assert any(r["description"] is None and r["description_soft"] for r in every)
    assert any(r["description"] and not r["validation"] for r in every)
    soft = [r for r in every if r["description"] is None and r["description_soft"]]
    assert any(r["description_soft"] != sorted(set(r["description_soft"])) for r in soft)
    assert any("\x00" in r["embedding"]["top_positive_tokens"] for r in every)
    assert any("" in (r["description"] or ()) for r in every)  # a NUL that NumPy dropped
    assert any("\ufffd" in (r["description"] or ()) for r in every)


def test_scores_next_to_a_threshold_are_listed_with_the_features_that_rest_on_them():
    made = small()
    excite = search(made.weights, made.source, 0, Thresholds(2.0, 2.0)).tokens[0]
    feature = 20
    z = pool_z(made, feature)
    exactly = float(z[3])

    _, close, _ = described(made, Branch.GPT, Thresholds(exactly, 2.4))

    token, _ = (column[3] for column in excite.of(feature))
    assert f"excites token {token} (z {exactly:.6f})" in close[0, feature]
    followers = [key for key, entries in close.items() if f"lent by 0/{feature}" in entries]
    records, _, _ = described(made, Branch.GPT, Thresholds(exactly, 2.4))
    reading = {
        key
        for key, record in records.items()
        for source in record["feature_to_feature_contributions"]
        if (source["from_layer"], source["from_feature_idx"]) == (0, feature)
    }
    assert set(followers) == reading != set()
    assert sum(map(bool, close.values())) < len(close) / 4


def pool_z(made: Small, feature: int) -> torch.Tensor:
    """z of the strongest tokens within their pool, strongest first."""
    scores = made.weights.embedding @ made.source.load(0).w_enc[feature]
    pool = scores.sort(descending=True).values[:1000]
    return (pool - pool.mean()) / pool.std()


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
