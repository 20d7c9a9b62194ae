"""WeightLens' files in and out: the same bytes, and one clear line for what is not theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from atlas import descriptions
from atlas.errors import BadDescriptions
from atlas.exchange import weightlens
from tests import toy
from tests.toy import Toy
from tests.unit.exchange.builds import record


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


def files(made: Toy, folder: Path) -> Path:
    folder.mkdir()
    for layer in (0, 2):
        records = [
            record(made, layer, idx, None if idx % 3 else [" rabbit", "rabbit", "\x7f"])
            for idx in range(made.sizes[layer])
        ]
        (folder / f"feature_analysis_layer_{layer}.json").write_text(json.dumps(records, indent=2))
    return folder


def test_what_is_read_is_written_again_byte_for_byte(made: Toy, tmp_path: Path):
    given = files(made, tmp_path / "given")

    written = weightlens.write(weightlens.read(made.build, given), tmp_path / "out")

    assert [path.name for path in written] == ["feature_analysis_layer_0.json", "feature_analysis_layer_2.json"]
    for path in written:
        assert path.read_bytes() == (given / path.name).read_bytes()
    assert b"top_negative_tokens_ids" in written[0].read_bytes()
    assert b"\\u00e9\\u0000" in written[0].read_bytes()


def test_descriptions_become_nodes_and_labels_and_reading_again_changes_nothing(made: Toy, tmp_path: Path):
    given = files(made, tmp_path / "given")

    first = weightlens.read(made.build, given)
    asked, before = first.times()["asked"], {path.name: path.read_bytes() for path in first.path.glob("[!r]*")}
    again = weightlens.read(made.build, given)

    assert again.run == first.run
    assert {path.name: path.read_bytes() for path in first.path.glob("[!r]*")} == before  # all but run.json
    assert again.times()["asked"] > asked
    described = [f"toy/{layer}-tc-40/{idx}" for layer in (0, 2) for idx in range(0, made.sizes[layer], 3)]
    assert first.nodes()["key"].to_pylist() == [f"{key}#weightlens#1" for key in described]
    assert set(zip(*first.edges().to_pydict().values(), strict=True)) == {
        (key, f"{key}#weightlens#1") for key in described
    }
    labels = descriptions.labels(made.build).to_pylist()
    by = {row["key"]: (row["label"], row["label_source"]) for row in labels}
    assert by[described[0]] == ("rabbit, '\\x7f'", "weightlens") or by[described[0]][1] == "weightlens"
    assert by["toy/1-tc-40/0"][1] == "tokens"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "no whole JSON"),
        (lambda text: '{"feature": 1}', "array of one object"),
        (lambda text: "[1]", "expected an object"),
        (lambda text: text.replace('"feature_idx": 4', '"feature_idx": 4000'), "feature 4000 of layer 0"),
        (lambda text: text.replace('"layer": 0', '"layer": 17'), "no layer 17"),
        (lambda text: text.replace('"feature_idx": 4', '"feature_idx": 3'), "a second time"),
        (lambda text: text.replace('"top_positive_token_ids"', '"ids"'), "top_positive_token_ids"),
        (lambda text: text.replace('"validation": false', '"validation": 3'), "validation"),
        (lambda text: text.replace('" rabbit"', '" Kaninchen"').replace('"rabbit"', '"Hase"'), "another model"),
        (lambda text: text.replace('"from_layer"', '"from"'), "feature_to_feature"),
    ],
)
def test_a_file_that_is_not_of_this_set_is_refused_whole_in_one_line(made: Toy, tmp_path: Path, spoil, said: str):
    given = files(made, tmp_path / "given")
    file = given / "feature_analysis_layer_0.json"
    file.write_text(spoil(file.read_text()))

    with pytest.raises(BadDescriptions, match=said) as caught:
        weightlens.read(made.build, given)

    assert "\n" not in str(caught.value)
    assert descriptions.staged(made.build) == []


def test_a_folder_without_such_files_and_no_folder_at_all_are_said(made: Toy, tmp_path: Path):
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadDescriptions, match=r"feature_analysis_layer_N\.json"):
            weightlens.read(made.build, place)


def test_a_written_layer_is_what_json_dump_writes(tmp_path: Path):
    records = [{"a": [], "b": {"c": None, "d": "é\n"}}, {"a": [1.5, 1e-9], "b": {}}]

    for some in (records, records[:1], []):
        with (tmp_path / "x").open("w") as file:
            weightlens.dump(some, file)
        assert (tmp_path / "x").read_text() == json.dumps(some, indent=2)


def test_reading_descriptions_needs_no_torch(made: Toy, tmp_path: Path):
    given = files(made, tmp_path / "given")
    code = (
        "import sys; from pathlib import Path; from atlas.staging import open_build; "
        "from atlas.exchange import weightlens; "
        f"weightlens.read(open_build(Path({str(made.path)!r})), Path({str(given)!r})); "
        "print('torch' in sys.modules, 'ingest' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
