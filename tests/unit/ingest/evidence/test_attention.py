"""Patterns are those that the library computes, whoever loaded the model, and the model stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from atlas.errors import BadModel
from ingest.evidence.attention import Attention
from ingest.evidence.capture import Runner
from ingest.weights import open_model
from tests.unit.ingest import models
from tests.unit.ingest.test_weights import bridge, going, hooked

IDS = np.array([[0, 31, 7, 44, 12, 50, 3], [0, 9, 2, 40, 18, -1, -1]])
COUNTED = (IDS > 0) & (IDS != 7)
LAYERS = list(range(models.N_LAYERS))


def watched(model: Any) -> tuple[dict[int, Tensor], dict[tuple[str, int], np.ndarray]]:
    patterns, scales = {}, {}
    runner = Runner(model, open_model(model, models.tokenizer()))
    Attention(runner).run(
        IDS, COUNTED, LAYERS, patterns.__setitem__, lambda name, layer, inverse: scales.update({(name, layer): inverse})
    )
    return patterns, scales


def own(model: nn.Module) -> tuple[Tensor, ...]:
    """The library's, of a model that was told so before."""
    ids = torch.tensor(np.where(IDS < 0, 0, IDS))
    with torch.no_grad():
        return model(ids, attention_mask=torch.ones_like(ids), use_cache=False, output_attentions=True).attentions


def eager(family: str, **changes: Any) -> nn.Module:
    config = models.config(family)
    for name, value in changes.items():
        setattr(config, name, value)
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    made.load_state_dict(models.model(family).state_dict())
    return made


def same(found: dict[int, Tensor], expected: tuple[Tensor, ...]) -> None:
    assert sorted(found) == LAYERS
    for layer in LAYERS:
        assert found[layer].shape == (2, models.N_HEADS, 7, 7)
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", models.EVERY)
def test_patterns_are_the_librarys_own_and_the_model_stays_as_it_is(family):
    model = models.model(family)
    kept = "eager" if family == "gemma2" else "sdpa"  # which the library gives Gemma 2 no other than
    model.set_attn_implementation(kept)
    ids = torch.tensor(IDS[:1])
    with torch.no_grad():
        before = model(ids).logits

    found, scales = watched(model)

    same(found, own(eager(family)))
    assert model.config._attn_implementation == kept
    assert model.config.get_text_config()._attn_implementation == kept
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert all(len(inverse) == COUNTED.sum() for inverse in scales.values())
    behind = "gemma2" in family or "gemma3" in family or "olmo2" in family or "olmo3" in family
    assert {name for name, _ in scales} == ({"in"} if family not in ("olmo2", "olmo3") else set()) | (
        {"out"} if behind else set()
    )


def test_a_sliding_window_and_a_cap_on_scores_are_in_the_pattern():
    model = eager("gemma2", sliding_window=3, attn_logit_softcapping=0.5)

    found, _ = watched(model)

    same(found, own(model))
    assert model.config.layer_types[0] == "sliding_attention"
    assert (found[0][0, :, 6, :4] == 0).all()
    assert (found[1][0, :, 6, :4] > 0).all()
    uncapped, _ = watched(eager("gemma2", sliding_window=3))
    assert (uncapped[1] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_bridges_patterns_are_the_librarys(family, tmp_path: Path):
    found, scales = watched(bridge(models.model(family), tmp_path))

    same(found, own(eager(family)))
    expected = watched(models.model(family))[1]
    assert scales.keys() == expected.keys()
    for name, inverse in scales.items():
        np.testing.assert_allclose(inverse, expected[name], rtol=1e-5)


@going
@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_hooked_transformers_patterns_are_the_librarys(family):
    library = eager(family, **({"hidden_activation": "silu"} if family == "gemma2" else {}))
    if family != "gpt2":
        for name, parameter in library.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    gemma = {"attn_scores_soft_cap": 50.0, "attn_scale": 256**0.5} if family == "gemma2" else {}
    found, scales = watched(hooked(family, library, **gemma))

    same(found, own(library))
    expected = watched(library)[1]
    assert scales.keys() == expected.keys()
    for name, inverse in scales.items():
        np.testing.assert_allclose(inverse, expected[name], rtol=1e-5)


def test_a_model_that_tells_no_pattern_is_refused_in_a_line_and_left_as_it_was():
    model = models.model("gpt2")
    for block in model.transformer.h:
        forward = block.attn.forward
        block.attn.forward = lambda *given, forward=forward, **named: (forward(*given, **named)[0], None)

    with pytest.raises(BadModel, match="observe with --no-heads"):
        watched(model)

    assert model.config._attn_implementation == "sdpa"
    assert not model.transformer.h[0].attn._forward_hooks
