"""Answers written out: aligned, safe for a terminal, and the same rows in every form."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import queries
from queries import present
from queries.answers import NEIGHBOURS, rows
from queries.present_text import cut, quoted, visible
from tests.unit.queries.asked import Asked


def frame(*labels: str) -> pd.DataFrame:
    found = rows(
        [(f"toy/1-tc-40/{i}", "Feature", 1, label, "", 0.1, -2.5, 0.041) for i, label in enumerate(labels)], NEIGHBOURS
    )
    found.attrs = {"weight": "z", "complete": True, "set": "toy/tc-40", "run": "3f2a91c"}
    return found


def test_a_table_is_aligned_and_its_numbers_are_readable():
    assert present.table(frame("rabbit, hare", "兔子", "said Alice")).splitlines() == [
        "key            type     layer  label         weight     z  share",
        "toy/1-tc-40/0  Feature      1  rabbit, hare    +0.1  −2.5  4.1 %",
        "toy/1-tc-40/1  Feature      1  兔子            +0.1  −2.5  4.1 %",
        "toy/1-tc-40/2  Feature      1  said Alice      +0.1  −2.5  4.1 %",
    ]
    assert present.footer(frame("a", "b")) == "2 rows by abs(z) · complete · set toy/tc-40 · run 3f2a91c"


def test_labels_are_cut_at_words_and_keys_are_not():
    table = present.table(frame("rabbit hare bunny " * 10), width=72)

    assert all(cell_len(line) <= 72 for line in table.splitlines())
    assert "toy/1-tc-40/0" in table
    assert "bunny…" in table or "hare…" in table or "rabbit…" in table


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_no_label_breaks_a_table(labels: list[str]):
    lines = present.table(frame(*labels)).split("\n")

    assert len(lines) == len(labels) + 1
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for line in lines for char in line)


@given(st.text(), st.integers(1, 30))
def test_cutting_keeps_the_beginning_within_the_room(text: str, room: int):
    shown = visible(text)

    kept = cut(shown, room)

    assert cell_len(kept) <= room
    assert kept == shown or (kept.endswith("…") and shown.startswith(kept[:-1]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" rabbit", '" rabbit"'),
        ('"', '"\\""'),
        ("\\", '"\\\\"'),
        ("\n\t", '"\\n\\t"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ("\u202e", '"\\u202e"'),
    ],
)
def test_a_token_shows_its_spaces_and_what_is_not_seen(text: str, shown: str):
    assert quoted(text) == shown


def test_json_is_the_envelope_with_the_rows():
    content = json.loads(present.to_json(frame("rabbit")))

    assert content == {
        "rows": [
            {
                "key": "toy/1-tc-40/0",
                "type": "Feature",
                "layer": 1,
                "label": "rabbit",
                "via": "",
                "weight": 0.1,
                "z": -2.5,
                "share": 0.041,
            }
        ],
        "weight": "z",
        "complete": True,
        "set": "toy/tc-40",
        "run": "3f2a91c",
    }


@given(st.text())
def test_json_and_csv_give_any_text_back_and_nothing_a_terminal_would_obey(text: str):
    written = present.to_json(frame(text))

    assert json.loads(written)["rows"][0]["label"] == text
    assert not any(char != "\n" and unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in written)
    lines = list(csv.DictReader(io.StringIO(present.to_csv(frame(text)), newline="")))
    assert lines[0]["label"] == text


def test_what_is_no_number_is_null_and_empty():
    odd = pd.DataFrame({"a": np.array([np.nan, np.inf, 0.1], np.float32), "b": pd.array([1, None, 3], "Int64")})

    assert json.loads(present.to_json(odd))["rows"] == [{"a": None, "b": 1}, {"a": None, "b": None}, {"a": 0.1, "b": 3}]
    assert present.to_csv(odd) == "a,b\n,1\n,\n0.1,3\n"


def test_provenance_is_a_first_line_of_csv_on_request():
    first, second, *_ = present.to_csv(frame("x"), provenance=True).splitlines()

    assert json.loads(first.removeprefix("# ")) == frame("x").attrs
    assert second.startswith("key,type")


def test_lists_are_lists_in_json_and_csv_and_spans_in_a_table(asked: Asked):
    sets = queries.sets(asked.graph)

    assert json.loads(present.to_json(sets))["rows"][0]["layers"] == [1, 3, 4, 5, 9]
    assert '"[1, 3, 4, 5, 9]"' in present.to_csv(sets)
    assert "1, 3-5, 9" in present.table(sets)


def test_an_empty_answer_says_why(asked: Asked):
    found = queries.inputs(asked.graph, "toy/0-tc-40/1", of="features")

    assert present.table(found) == found.attrs["note"]
    assert present.to_csv(found) == "key,type,layer,label,via,weight,z,share\n"
    assert json.loads(present.to_json(found))["rows"] == []


def test_paths_show_a_node_a_line(asked: Asked):
    found = queries.paths(asked.graph, "token:' rabbit'", "toy/4-tc-40/1", k=2)

    text = present.paths_text(found)

    assert len(text.splitlines()) == sum(len(keys) + 1 for keys in found["keys"])
    assert '" rabbit"' in text


def test_a_script_for_neo4j_browser_sets_its_parameters():
    script = present.cypher_script([("RETURN $a AS a\n", {"a": 'it\'s "so"', "n": 3}), ("RETURN 1 AS x", {})])

    assert script == ':param {a: "it\'s \\"so\\"", n: 3};\n\nRETURN $a AS a;\n\nRETURN 1 AS x;'
