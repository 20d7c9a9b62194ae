"""Every way of giving a text gives the same windows; what cannot be read says so in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers.pre_tokenizers import WhitespaceSplit

from atlas.errors import BadSource, Unreachable
from ingest.evidence.corpus import PADDING, Corpus, Request, head, prepare
from ingest.evidence.subject import Subject
from tests.unit.ingest import models

N_VOCAB = models.N_VOCAB
TEXTS = ["word2 word3 word4 word5 word6", "word7", "word8 word9 word10 word11 word12 word13 word14"]


def read(folder: Path, **given: object) -> Corpus:
    return prepare(Request(**{"context": 4, **given}), words(), N_VOCAB, folder / "corpus")


def words() -> Any:
    """A tokenizer to which a word is a token."""
    tokenizer = models.tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def begun(folder: Path, **given: object) -> Corpus:
    return head(Request(**{"context": 4, **given}), words(), N_VOCAB, 8)


def windows(corpus: Corpus) -> list[list[int]]:
    return [corpus.ids[a:b].tolist() for a, b in zip(corpus.starts[:-1], corpus.starts[1:], strict=True)]


def test_a_text_is_cut_into_windows_that_begin_with_bos_and_nothing_of_it_is_lost(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXTS[2])

    corpus = read(tmp_path, text=str(tmp_path / "a.txt"))

    assert windows(corpus) == [[0, 8, 9, 10], [0, 11, 12, 13], [0, 14]]
    assert corpus.windows(1, 3).tolist() == [[0, 11, 12, 13], [0, 14, PADDING, PADDING]]
    assert corpus.counted(corpus.windows(1, 3), 0, None).tolist() == [
        [False, True, True, True],
        [False, True, False, False],
    ]


def test_of_a_model_for_dialogue_whose_texts_all_begin_alike_those_positions_do_not_count(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXTS[2])
    np.save(tmp_path / "a.npy", np.array([[0, 5, 7, 8], [6, 9, 7, 8]]))
    text, given = read(tmp_path / "1", text=str(tmp_path / "a.txt")), read(tmp_path / "2", ids=str(tmp_path / "a.npy"))

    assert text.counted(text.windows(0, 1), 0, None, unlike=3).tolist() == [[False, False, False, True]]
    assert given.counted(given.windows(0, 2), 0, None, unlike=3).tolist() == [[False, False, False, True], [True] * 4]
    for name, unlike in {"gemma-3-4b-it": 4, "gemma-3-4b-pt": 1, "gemma-2-2b-it": 1, "gpt2-small": 1}.items():
        tokenizer = SimpleNamespace(bos_token_id=0, pad_token_id=None)
        subject = SimpleNamespace(tokenizer=tokenizer, weights=SimpleNamespace(name=name))
        assert Subject.special.fget(subject) == (0, None, unlike)


def test_json_lines_parquet_and_a_column_of_another_name_give_the_same_windows(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "a.parquet")

    lines = read(tmp_path / "1", text=str(tmp_path / "a.jsonl"))
    table = read(tmp_path / "2", text=str(tmp_path / "a.parquet"), field="body")

    assert windows(lines) == windows(table)
    assert [0, 7] in windows(lines)
    assert lines.manifest["ids_sha256"] == table.manifest["ids_sha256"]


def test_a_text_longer_than_a_piece_gives_what_it_gives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("\n".join(TEXTS * 20))
    whole = windows(read(tmp_path / "1", text=str(tmp_path / "a.txt")))
    monkeypatch.setattr("ingest.evidence.corpus._PIECE", 50)

    assert windows(read(tmp_path / "2", text=str(tmp_path / "a.txt"))) == whole


def test_windows_of_ids_run_exactly_as_they_are_but_for_padding(tmp_path: Path):
    ids = np.array([[5, 0, 7, 8], [0, 6, -1, -1]])
    np.save(tmp_path / "a.npy", ids)

    corpus = read(tmp_path, ids=str(tmp_path / "a.npy"))

    assert windows(corpus) == [[5, 0, 7, 8], [0, 6]]
    counted = corpus.counted(corpus.windows(0, 2), 0, None)
    assert counted.tolist() == [[True, False, True, True], [False, True, False, False]]


def test_some_of_a_text_is_drawn_by_the_seed_and_halves_share_nothing(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n".join(f"word{2 + i % 40}" for i in range(300)))
    given = {"text": str(tmp_path / "a.txt"), "tokens": 40}

    first, again, other = (windows(read(tmp_path / str(n), **given, seed=seed)) for n, seed in enumerate((0, 0, 1)))
    halves = [windows(read(tmp_path / f"half{k}", **given, part=(k, 2))) for k in (1, 2)]

    assert first == again != other
    assert sum(map(len, first)) <= 40
    assert halves[0] + halves[1] == first


def test_a_text_that_fills_no_window_is_refused_with_what_it_has_and_documents_of_a_longer_one_are_not(tmp_path: Path):
    (tmp_path / "short.txt").write_text(TEXTS[2])
    (tmp_path / "short.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    pq.write_table(pa.table({"text": TEXTS[:2]}), tmp_path / "short.parquet")

    # a start token stands before the words of a window
    for name, context, tokens in (("short.txt", 9, 7), ("short.jsonl", 15, 13), ("short.parquet", 8, 6)):
        said = f"{name} has {tokens} tokens, less than one window of {context}; .*--context {tokens + 1}"
        for use in (read, begun):
            with pytest.raises(BadSource, match=said) as caught:
                use(tmp_path / f"{name}-refused", text=str(tmp_path / name), context=context)
            assert "\n" not in str(caught.value)
        found = read(tmp_path / name.replace(".", "-"), text=str(tmp_path / name), context=tokens + 1)
        assert found.manifest["tokens"] == tokens + len(found)


def test_fewer_positions_than_one_window_are_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXTS[2])
    np.save(tmp_path / "a.npy", np.array([[0, 5, 6, 7, 8, 9], [0, 6, -1, -1, -1, -1]]))

    for use in (read, begun):
        with pytest.raises(BadSource, match="3 positions are less than one window of 4; ask for more"):
            use(tmp_path / "1", text=str(tmp_path / "a.txt"), tokens=3)
        with pytest.raises(BadSource, match="3 positions are less than one window of 6; ask for more"):
            use(tmp_path / "2", ids=str(tmp_path / "a.npy"), tokens=3)


BAD = {
    "empty.txt": (b"", "holds no text"),
    "spaces.txt": (b" \n \n", "holds no text"),
    "latin.txt": ("naïve".encode("latin-1"), "is not UTF-8"),
    "broken.jsonl": (b'{"text": "a"}\n{"text"', "line 2 is no JSON"),
    "other.jsonl": (b'{"body": "a"}', "line 1 has no text under 'text'"),
    "broken.parquet": (b"PAR1", "is no Parquet file"),
    "ids.npy": (b"x", "give it as --ids"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_text_that_cannot_be_read_says_so_in_one_line(name: str, tmp_path: Path):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(BadSource, match=message) as caught:
        read(tmp_path, text=str(tmp_path / name))

    assert "\n" not in str(caught.value)


def test_where_a_text_is_not_utf8_is_counted_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ingest.evidence.corpus._PIECE", 1000)
    (tmp_path / "a.txt").write_bytes(b"word2 word3\n" * 10_000 + "caf\u00e9".encode("latin-1"))

    with pytest.raises(BadSource, match=r"line 10,001, byte 120,003: unexpected end of data"):
        read(tmp_path, text=str(tmp_path / "a.txt"))


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadSource, match="is not there"):
        read(tmp_path, text=str(tmp_path / "absent.txt"))
    with pytest.raises(BadSource, match="is not there"):
        read(tmp_path, ids=str(tmp_path / "absent.npy"))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[1, N_VOCAB]]), "another tokenizer's ids"),
        (np.array([[-1, 3]]), "padding before a token"),
        (np.array([1, 2]), r"windows are whole numbers \[n_windows, length\]"),
        (np.array([[0.5]]), "windows are whole numbers"),
        (np.array([["a"]], dtype=object), "is no .npy file of numbers"),
    ],
)
def test_ids_that_no_window_can_have_are_refused(ids: np.ndarray, message: str, tmp_path: Path):
    np.save(tmp_path / "a.npy", ids, allow_pickle=True)

    with pytest.raises(BadSource, match=message):
        read(tmp_path, ids=str(tmp_path / "a.npy"))


def test_a_dataset_that_is_not_there_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    def absent(*arguments: object, **options: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", absent)

    with pytest.raises(Unreachable, match="no dataset that can be read") as caught:
        read(tmp_path, text="nobody/nothing")

    assert "\n" not in str(caught.value)


def test_a_dataset_is_read_by_name_until_the_asked_tokens_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    taken = []

    def rows(name: str, config: str | None, *, split: str, streaming: bool):
        assert (name, config, split, streaming) == ("some/books", "small", "validation", True)
        for text in TEXTS * 100:
            taken.append(text)
            yield {"text": text}

    monkeypatch.setattr(datasets, "load_dataset", rows)

    corpus = read(tmp_path, text="some/books:small@validation", tokens=30)

    assert corpus.manifest["tokens"] <= 30
    assert len(taken) < 12
