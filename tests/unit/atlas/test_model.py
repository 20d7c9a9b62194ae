"""Keys: every way of writing one is read, one way is printed, and anything else is one clear line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import BadKey
from atlas.model import FeatureKey, HeadKey, SaeLensKey, ShortKey, TokenKey, TokenText, parse

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)
numbers = st.integers(0, 10**6)


@given(names, numbers, names, numbers)
def test_a_feature_key_reads_back_as_itself(model: str, layer: int, set_: str, idx: int):
    key = FeatureKey(model, layer, set_, idx)

    assert parse(str(key)) == key
    assert parse(f"https://www.neuronpedia.org/{key}") == key


@given(names, numbers)
def test_a_token_key_reads_back_as_itself(vocabulary: str, token_id: int):
    assert parse(str(TokenKey(vocabulary, token_id))) == TokenKey(vocabulary, token_id)


@pytest.mark.parametrize("text", ["4/1201", "L4 F1201", "L4F1201", "l4.f1201", "4_1201", "4_1201_9", "mlp4tc[1201]@-1"])
def test_every_short_form_names_layer_and_feature(text: str):
    assert parse(text) == ShortKey(4, 1201)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2-small/L5H3", HeadKey("gpt2-small", 5, 3)),
        ("token:' rabbit'", TokenText(" rabbit")),
        ('token:" it\'s"', TokenText(" it's")),
        ("token:rabbit", TokenText("rabbit")),
        (
            "gemma-scope-2b-pt-transcoders:layer_0/width_16k/average_l0_76:15",
            SaeLensKey("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", 15),
        ),
    ],
)
def test_other_tools_names_are_read(text: str, expected: object):
    assert parse(text) == expected


@given(st.text(max_size=40))
def test_any_other_text_is_refused_in_one_line(text: str):
    with contextlib.suppress(BadKey):
        assert parse(text) is not None
        return
    with pytest.raises(BadKey) as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "gpt2/4", "a/1-b/c", "a/1-b/99999999999999999", "https://example.org/a/1-b/2"])
def test_a_near_miss_says_what_a_key_looks_like(text: str):
    with pytest.raises(BadKey, match="looks like gpt2-small/4-tc-24k/1201"):
        parse(text)
