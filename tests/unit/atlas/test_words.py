"""Words, phrases and other forms of a word, as a person types them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.words import Unit, forms, units


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("rabbits", {"rabbit"}),
        ("running", {"run", "runs"}),
        ("falling", {"fall", "falls"}),
        ("hopped", {"hop", "hops", "hopping"}),
        ("making", {"make", "makes"}),
        ("make", {"making"}),
        ("bunnies", {"bunny"}),
        ("bunny", {"bunnies"}),
        ("boxes", {"box", "boxing"}),
        ("horses", {"horse"}),
        ("WALKS", {"walk", "walked", "walking"}),
    ],
)
def test_a_word_has_the_forms_that_a_reader_expects(typed: str, found: set[str]):
    assert found <= {*forms(typed)}


@pytest.mark.parametrize(
    "typed", ["queen", "king", "string", "thing", "is", "less", "thus", "naïve", "兔子", "x1s", ""]
)
def test_what_is_no_inflection_stays_what_it_is(typed: str):
    assert forms(typed) == ()


@given(st.text(max_size=30))
def test_no_form_begins_with_what_was_typed_nor_holds_anything_but_letters(typed: str):
    for form in forms(typed):
        assert form.isascii()
        assert form.isalpha()
        assert not form.startswith(typed.lower())


def test_words_in_quotes_are_one_thing_and_quotes_that_do_not_close_are_characters():
    assert units(' "mad hatter"  tea ') == [Unit("mad hatter"), Unit("tea")]
    assert [unit.text for unit in units('"mad hatter tea"party "')] == ['"mad', "hatter", 'tea"party', '"']
    assert units("  ") == []


@given(st.text(max_size=30))
def test_nothing_that_was_typed_is_lost_but_blanks_and_quotes_around_phrases(typed: str):
    kept = "".join("".join(unit.text for unit in units(typed)).split())
    bare = "".join(typed.split())

    assert kept.replace('"', "") == bare.replace('"', "")
