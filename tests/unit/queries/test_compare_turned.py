"""A set in disguise is matched one to one with itself: reordered, scaled, and in a model turned in its stream."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import atlas
import ingest
import queries
from atlas.model import Activation, ReadSite
from atlas.stores import Store
from ingest.transcoder import Transcoder
from tests.unit.ingest.describe.small import N_FEATURES, N_LAYERS, small

N = sum(N_FEATURES)
READS_NOTHING = 4
"""the feature of each layer whose encoder is nothing: it is known by what it writes alone"""


def turned(model: Any, turn: torch.Tensor) -> Any:
    """The same function of tokens, with another basis of the residual stream. Gains are one, or they would not turn."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 2:
                writes = "o_proj" in name or "down_proj" in name
                weight.copy_(turn.T @ weight if writes else weight @ turn)
            elif "o_proj" in name or "down_proj" in name:
                weight.copy_(weight @ turn)
    return made


def disguised(one: Transcoder, turn: torch.Tensor, order: np.ndarray, largest: float, seed: int) -> Transcoder:
    """Its features in another order, each as many times as long at reading as it is shorter at writing."""
    scale = largest ** (torch.rand(len(order), generator=torch.Generator().manual_seed(seed)) * 2 - 1)
    return replace(
        one,
        w_enc=(one.w_enc[order] @ turn) * scale[:, None],
        b_enc=one.b_enc[order] * scale,
        w_dec=(one.w_dec[order] @ turn) / scale[:, None],
        b_dec=one.b_dec @ turn,
    )


@pytest.fixture(scope="module")
def orders() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.permutation(n) for n in N_FEATURES]


@pytest.fixture(scope="module")
def graph(orders: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    place = tmp_path_factory.mktemp("turned")
    made = small("llama", Activation.RELU, seed=4, read=ReadSite.NORM_POST_GAIN)
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if "norm" in name:
                weight.fill_(1)
    plain = {layer: made.source.load(layer) for layer in range(N_LAYERS)}
    d = plain[0].w_enc.shape[1]
    turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(1)))[0]
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(turned(made.model, turn)(ids).logits, made.model(ids).logits, rtol=1e-3, atol=1e-3)
    sets = {"plain": plain}
    for name, largest in (("turned", 1.0), ("scaled", 4.0)):
        sets[name] = {layer: disguised(one, turn, orders[layer], largest, layer) for layer, one in plain.items()}
    for name, layers in sets.items():
        pair = made.model if name == "plain" else turned(made.model, turn), made.tokenizer
        build = ingest.build(model=pair, transcoders=layers, name=f"{name}/tc", device="cpu", home=place, check=False)
        atlas.load(build, place / "atlas")
    with atlas.open(place / "atlas") as opened:
        yield opened


def truth(orders: list[np.ndarray], disguise: str) -> dict[str, str]:
    return {
        f"plain/{layer}-tc/{old}": f"{disguise}/{layer}-tc/{new}"
        for layer, order in enumerate(orders)
        for new, old in enumerate(order.tolist())
    }


@pytest.mark.parametrize("by", ["tokens", "inputs", "outputs"])
def test_a_set_scores_1_with_itself_in_another_order_and_basis(by: str, graph: Store, orders: list[np.ndarray]):
    found = queries.compare(graph, "plain", "turned", by=by).set_index("key_a")

    silent = [f"plain/{layer}-tc/{READS_NOTHING}" for layer in range(N_LAYERS)]
    if by == "inputs":
        assert (found.loc[silent, "key_b"] == "").all()
        found = found.drop(silent)
    assert found["key_b"].to_dict() == {key: truth(orders, "turned")[key] for key in found.index}
    assert found["mutual"].all()
    whole = found.drop(silent, errors="ignore")
    assert whole["score"].to_numpy() == pytest.approx(np.ones(len(whole)), abs=1e-3)
    assert found.attrs["matched"] >= 0.95 * N


def test_a_set_is_matched_one_to_one_with_itself_in_another_order_basis_and_scale(
    graph: Store, orders: list[np.ndarray]
):
    found = queries.compare(graph, "plain", "scaled")

    assert dict(zip(found["key_a"], found["key_b"], strict=True)) == truth(orders, "scaled")
    assert found["mutual"].all()
    assert found.attrs["matched"] >= 0.95 * N
