"""What a person reads: forms of one word together, in any script, and nothing invisible."""

from __future__ import annotations

import socket

import pytest

from ingest.describe.cleaning import visible, words


def test_case_spaces_and_inflection_are_one_word_named_by_its_strongest_form():
    tokens = [(" officer", 5.0), ("Officer", 4.0), (" officers", 3.0), ("OFFICERS", 2.0), (" police", 1.0)]

    assert words(tokens) == ["officer", "police"]


def test_a_name_keeps_its_capital_and_a_word_that_also_comes_small_does_not():
    assert words([(" Alice", 3.0), ("Alice", 2.0)]) == ["Alice"]
    assert words([(" Rabbit", 3.0), (" rabbit", 2.0)]) == ["rabbit"]


def test_near_spellings_of_long_words_are_one_and_short_words_are_not():
    assert words([(" organisation", 2.0), (" organization", 1.0)]) == ["organisation"]
    assert words([(" cat", 2.0), (" car", 1.0), (" can", 0.5)]) == ["cat", "car", "can"]


@pytest.mark.parametrize(
    ("forms", "name"),
    [
        ([" зайцы", " зайца", " ЗАЙЦЫ"], "зайцы"),
        ([" naïve", " naive"], "naïve"),
        (["straße", " STRASSE"], "straße"),
        ([" ﬁne", " fine"], "ﬁne"),
        (["兔子", "兔子"], "兔子"),
        ([" खरगोश", "खरगोश"], "खरगोश"),
        (["กระต่าย", " กระต่าย"], "กระต่าย"),
    ],
)
def test_every_script_is_folded(forms: list[str], name: str):
    assert words([(form, 3.0 - i) for i, form in enumerate(forms)]) == [name]


def test_scripts_without_a_stemmer_keep_letters_that_are_marks():
    assert words([("กา", 2.0), ("กี", 1.0)]) == ["กา", "กี"]


def test_spaces_breaks_and_pieces_of_characters_can_be_seen():
    assert visible("\n\n") == "⏎⏎"
    assert visible("        ") == "␣␣␣×8"
    assert visible("<0xE2>") == "<0xE2>"
    assert visible("a\x00b") == "a\\x00b"
    assert words([("\n", 1.0), ("", 0.5), (" ", 0.2)]) == ["⏎", "''", "␣"]


def test_the_heaviest_group_comes_first_and_the_rest_is_cut():
    assert words([(" tea", 1.0), (" hare", 0.9), (" hares", 0.9), (" cup", 0.5)], 2) == ["hare", "tea"]


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)

    assert words([(" running", 1.0), (" runs", 1.0)]) == ["running"]
