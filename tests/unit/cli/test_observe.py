"""`atlas observe`, `examples` and `fires` as they are typed, on a small model that is read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from atlas import builds
from atlas.cli import main
from atlas.model import Activation, ReadSite
from atlas.observed import observed
from tests.unit.ingest import models
from tests.unit.ingest.describe.small import BOS, N_LAYERS, Small, small

SET = "tiny/tc"
Run = Callable[..., tuple[int, str, str]]
QUICK = ("--examples", "4", "--strongest", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def made() -> Small:
    return small("gpt2", Activation.RELU, seed=9, read=ReadSite.NORM_POST_GAIN)


@pytest.fixture(scope="module")
def words(made: Small) -> list[str]:
    return [made.tokenizer.decode([token]) for token in np.random.default_rng(0).integers(300, 900, 2400)]


@pytest.fixture(scope="module")
def home(made: Small, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a model on disk, built and loaded, and two texts; nothing is observed yet."""
    home = tmp_path_factory.mktemp("home")
    made.model.save_pretrained(home / "model")
    made.tokenizer.save_pretrained(home / "model")
    models.write_circuit_tracer(home / "set", [made.source.load(layer) for layer in range(N_LAYERS)])
    (home / "one.txt").write_text("".join(words[:1600]))
    (home / "two.txt").write_text("".join(words[1600:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_HOME", str(home))
        where = ("--model", str(home / "model"), "--transcoders", str(home / "set"))
        with pytest.raises(SystemExit) as stopped:
            main(["ingest", *where, "--as", SET, "--device", "cpu", "-q"])
        assert not stopped.value.code
        yield home


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return int(stopped.value.code or 0), written.out, written.err

    return command


@pytest.fixture
def seen(run: Run, home: Path) -> str:
    """Both texts observed: the first is the default. A key that fires on it."""
    listed = run("observe", SET, "--list")[1]
    for name in ("one", "two"):
        if f" {name} " not in listed.replace("\n", "\n "):
            assert run("observe", SET, "--text", home / f"{name}.txt", "--as", name, *QUICK, "-q")[0] == 0
            assert run("observe", SET, "--default", "one", "-q")[0] == 0
    return fired_most(run)


def fired_most(run: Run) -> str:
    query = "MATCH (f:Feature) WHERE f.layer = 2 RETURN f.key AS key ORDER BY f.n_fires DESC, key LIMIT 1"
    return json.loads(run("cypher", query, "--json")[1])["rows"][0]["key"]


def refused(answer: tuple[int, str, str], *said: str) -> None:
    """Exit 1, and one line that says all of this."""
    code, _, err = answer
    last = err.strip().splitlines()[-1]
    assert code == 1, err
    assert "Traceback" not in err
    assert all(part in last for part in said), last


def test_nothing_is_asked_of_what_was_never_observed(run: Run, home: Path):
    key = "tiny/2-tc/5"

    refused(run("examples", key), "nothing was observed", "atlas observe tiny/tc --text")
    refused(run("inputs", key, "--by", "drive"), "atlas observe tiny/tc --text")
    assert run("observe", SET, "--list")[0] == 0


def test_a_dry_run_says_the_cost_and_stages_nothing(run: Run, home: Path):
    code, said, _ = run("observe", SET, "--text", home / "one.txt", "--dry-run", "--device", "cpu")

    assert code == 0
    for word in ("time ", "GB", "features fire at a position", "on cpu", "counting on the CPU"):
        assert word in said
    assert not list(home.glob("builds/*/observations/*"))
    _, large, _ = run(
        "observe", SET, "--text", home / "one.txt", "--dry-run", "--tokens", 2_000_000_000, "--memory", 0.01
    )
    assert "2,000,000,000 positions" in large
    assert "blocks of features" in large
    assert "of what fires, which each of" in large


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_run_on_cuda_is_planned_where_there_is_none_and_refused_without_a_dry_run(run: Run, home: Path):
    asked = ("observe", SET, "--text", home / "one.txt", "--tokens", 2_000_000_000)
    places = ("ingest", "--model", home / "model", "--transcoders", home / "set", "--as", "tiny/tc-other")

    code, said, err = run(*asked, "--device", "cuda", "--dry-run")

    assert code == 0, err
    for part in (
        "not known on cuda: there is no CUDA here to time",
        "at 100 TFLOP/s",
        "on cuda about",
        "GB of token ids",
    ):
        assert part in said
    assert "counting on the CPU (" in said
    assert not list(home.glob("builds/*/observations/*"))
    code, said, err = run(*places, "--device", "cuda:1", "--dry-run")
    assert code == 0, err
    assert "not known on cuda:1" in said
    assert "edges" in said
    for command in (asked, places):
        refused(run(*command, "--device", "cuda"), "'cuda' cannot be used here")


def test_observing_fills_the_atlas_and_again_finds_it(run: Run, home: Path, made: Small, words: list[str]):
    code, said, _ = run("observe", SET, "--text", home / "one.txt", *QUICK)

    assert code == 0
    n = len(made.tokenizer("".join(words[:1600]), add_special_tokens=False)["input_ids"])
    assert f"{n:,} positions of one.txt" in said
    assert all(column in said for column in ("explained", "l0", "dead"))
    query = "MATCH ()-[e:FEEDS]->() RETURN count(e.drive_active) AS drives, count(e) AS edges"
    row = json.loads(run("cypher", query, "--json")[1])["rows"][0]
    assert 0 < row["drives"] <= row["edges"]
    stamps = {path: path.stat().st_mtime_ns for path in home.glob("builds/*/observations/*/*.parquet")}
    run("observe", SET, "--text", home / "one.txt", *QUICK)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_observations_stand_side_by_side_one_is_the_default_and_each_can_go(run: Run, home: Path, seen: str):
    def shown() -> dict:
        return json.loads(run("inputs", seen, "--by", "drive", "--json")[1])["observation"]

    listed = run("observe", SET, "--list")[1]
    assert all(word in listed for word in ("one.txt", "two.txt", "positions", "date"))
    assert shown()["text"] == "one.txt"
    longer = shown()["positions"]
    run("observe", SET, "--default", "two", "-q")
    assert shown()["text"] == "two.txt"
    assert shown()["positions"] < longer
    first = run("examples", seen, "--observation", "one", "--json")[1]
    assert json.loads(first)["observation"]["text"] == "one.txt"
    assert "on one.txt, " in run("examples", seen, "--observation", "one")[1]
    code, _, err = run("observe", SET, "--remove", "two", "-q")
    assert code == 0
    assert "MB freed; one is the default now" in err
    assert shown()["text"] == "one.txt"
    refused(run("observe", SET, "--remove", "two"), "no observation 'two'")
    refused(run("observe", SET, "--default", "three"), "no observation 'three'")


def test_questions_by_evidence_name_the_text_they_rest_on(run: Run, seen: str):
    for by in ("drive", "twera", "coactivation"):
        for command in (["inputs", seen], ["outputs", seen], ["circuit", seen]):
            code, said, err = run(*command, "--by", by, "--live", "--json")
            assert code == 0, err
            answer = json.loads(said)
            assert answer["observation"]["text"] == "one.txt"
            assert "complete" in answer
    held = run("inputs", seen, "--by", "drive", "--sign", "-", "--json")[1]
    assert all(row["drive"] < 0 for row in json.loads(held)["rows"])
    source = json.loads(run("inputs", seen, "--of", "features", "--by", "drive", "--json")[1])["rows"][0]["key"]
    paths = json.loads(run("paths", source, seen, "--by", "drive", "--live", "--json")[1])
    assert paths["observation"]["text"] == "one.txt"
    assert paths["rows"][0]["keys"][-1] == seen


def test_every_question_about_connections_is_asked_by_evidence_as_in_python(run: Run, seen: str, home: Path):
    import atlas
    import queries

    source = json.loads(run("inputs", seen, "--of", "features", "--by", "drive", "--json")[1])["rows"][0]["key"]
    ends = {"set": SET, "source_layer": 0, "target_layer": 2, "by": "drive", "live": 1}
    named = [f"{name}={value}" for name, value in ends.items()]
    with atlas.open() as graph:
        frames = {
            ("motifs", "--hubs", 3, "--of", "twera", "--live"): queries.hubs(graph, k=3, of="twera", live=True),
            ("similar", seen, "--of", "drive", "--live"): queries.similar(graph, seen, of="drive", live=True),
            ("reach", source, "--by", "drive", "--live"): queries.reach(graph, source, by="drive", live=True),
            ("common", seen, source, "--by", "drive"): queries.common(graph, [seen, source], by="drive"),
            ("query", "strongest_edges", *named): queries.query(graph, "strongest_edges", **ends),
        }
        card = queries.card(graph, seen, by="drive", live=True)
    for command, frame in frames.items():
        code, said, err = run(*command, "--json")
        assert code == 0, err
        answer = json.loads(said)
        assert [next(iter(row.values())) for row in answer["rows"]] == frame.iloc[:, 0].tolist(), command
        assert answer["observation"]["text"] == frame.attrs["observation"]["text"] == "one.txt"
        assert "complete" in answer
    shown = json.loads(run("card", seen, "--by", "drive", "--live", "--json")[1])
    assert [row["key"] for row in shown["inputs"]] == card["inputs"]["key"].tolist()
    assert (shown["weight"], shown["observation"]["text"]) == ("drive", "one.txt")
    refused(run("inputs", seen, "--of", "heads", "--by", "drive"), "says nothing of attention heads")


def test_cards_and_examples_show_where_a_feature_fires(run: Run, made: Small, seen: str):
    card = run("card", seen)[1]
    assert "FIRES" in card
    assert "%" in card

    code, said, _ = run("examples", seen, "-k", 4, "--json")
    rows = json.loads(said)["rows"]
    assert (code, len(rows)) == (0, 4)
    feature = int(seen.rsplit("/", 1)[1])
    for row in rows:
        assert row["text"].count("[") >= 1
    whole = json.loads(run("examples", seen, "--kind", "sample", "--json")[1])["rows"]
    assert {row["window"] for row in whole} <= set(range(8))
    best = max(rows, key=lambda row: row["value"])
    ids = [BOS, *made.tokenizer("".join(best["tokens"]), add_special_tokens=False)["input_ids"]]
    if best["position"] <= 24:  # the whole window up to there is shown, so it can be run again
        again = made.activation(ids[: best["position"] + 1], 2, feature)
        assert again[-1] == pytest.approx(best["value"], rel=1e-4)
    refused(run("examples", "token:'" + best["tokens"][0] + "'"), "only features fire")


def test_fires_says_what_fires_on_a_sentence_and_what_joins_it(run: Run, made: Small, words: list[str], seen: str):
    sentence = "".join(words[:6])
    code, said, err = run("fires", sentence, "-k", 3, "--json")

    assert code == 0, err
    rows = json.loads(said)["rows"]
    ids = [BOS, *made.tokenizer(sentence, add_special_tokens=False)["input_ids"]]
    assert {row["position"] for row in rows} == set(range(len(ids) - 1))
    for row in rows[::5]:
        layer, idx = int(row["key"].split("/")[1].split("-")[0]), int(row["key"].rsplit("/", 1)[1])
        assert made.activation(ids, layer, idx)[row["position"] + 1] == pytest.approx(row["value"], rel=1e-4)
    by_position = [[row["value"] for row in rows if row["position"] == at] for at in range(len(ids) - 1)]
    assert all(values == sorted(values, reverse=True) for values in by_position)
    edges = json.loads(run("fires", sentence, "--edges", "--json")[1])["rows"]
    assert edges
    assert all(abs(edge["contribution"]) > 0 for edge in edges)
    refused(run("fires", " ".strip()), "empty")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "holds no text"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), "not UTF-8"),
        ("lines.jsonl", b'{"words": "a"}\n', "--field"),
        ("cut.parquet", b"PAR1", "no Parquet"),
        ("none.txt", None, "not there"),
    ],
)
def test_a_text_that_cannot_be_read_is_one_line_and_loses_nothing(
    run: Run, home: Path, seen: str, tmp_path: Path, name, content, said
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = run("observe", SET, "--list")[1]

    refused(run("observe", SET, "--text", tmp_path / name, *QUICK), said)

    assert run("observe", SET, "--list")[1] == before


def test_ids_and_other_input_that_makes_no_sense_are_one_line(run: Run, home: Path, tmp_path: Path):
    np.save(tmp_path / "ids.npy", np.array([[5, 99_999]]))
    refused(run("observe", SET, "--ids", tmp_path / "ids.npy", *QUICK), "99999", "another tokenizer")
    refused(run("observe", SET, "--text", home / "one.txt", "--context", 100_000), "256 positions")
    refused(run("observe", SET, "--text", home / "one.txt", "--part", "half"), "the first half is 1/2")
    refused(run("observe", SET, "--text", home / "one.txt", "--device", "tpu"), "tpu")
    assert run("observe", SET)[0] == 2
    short = ("observe", SET, "--text", home / "one.txt", "--tokens", 100, *QUICK)
    refused(run(*short), "100 positions are less than one window of 256")


def test_a_text_shorter_than_a_window_is_one_line_and_leaves_nothing_behind(
    run: Run, home: Path, made: Small, tmp_path: Path, words: list[str], seen: str
):
    text = "".join(words[:30])
    (tmp_path / "short.txt").write_text(text)
    n = len(made.tokenizer(text, add_special_tokens=False)["input_ids"])
    asked = ("observe", SET, "--text", tmp_path / "short.txt", "--build-only", *QUICK)
    before = {*home.glob("builds/*/observations/*")}

    for given in ((), ("--dry-run",)):
        refused(run(*asked, *given), f"short.txt has {n} tokens, less than one window of 256", f"--context {n + 1}")
    assert {*home.glob("builds/*/observations/*")} == before
    code, said, err = run(*asked, "--context", n + 1)
    assert code == 0, err
    assert f"{n} positions of short.txt" in said
    assert run("fires", text)[0] == 0


def test_what_is_longer_than_the_model_is_one_line(run: Run, home: Path, words: list[str], seen: str, tmp_path: Path):
    np.save(tmp_path / "long.npy", np.full((2, 300), 7))
    before = {*home.glob("builds/*/observations/*")}

    for given in ((), ("--dry-run",)):
        refused(
            run("observe", SET, "--ids", tmp_path / "long.npy", *QUICK, *given), "300", "256 positions the model has"
        )
    refused(run("fires", "".join(words[:400])), "sentence of", "256 positions the model has")
    assert {*home.glob("builds/*/observations/*")} == before


@pytest.mark.parametrize("name", ["../../elsewhere", "default", "a b", ".hidden", "a/b"])
def test_a_name_that_is_no_folder_of_its_own_is_one_line(run: Run, home: Path, seen: str, name: str):
    before = {*home.rglob("*")}

    refused(run("observe", SET, "--text", home / "one.txt", "--as", name, *QUICK), "is no name for an observation")

    assert {*home.rglob("*")} == before


def test_numbers_out_of_range_are_refused(run: Run, home: Path):
    text = ("observe", SET, "--text", home / "one.txt", "--device", "cpu")

    assert run(*text, "--seed", -1)[0] == 2
    refused(run(*text, "--examples", 100_000), "10,000 of each feature is the most")


def test_a_tokenizer_that_disagrees_with_the_build_is_one_line(run: Run, home: Path, made: Small, tmp_path: Path):
    made.model.save_pretrained(tmp_path / "other")
    made.tokenizer.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    words = config["model"]["vocab"]
    one, two = list(words)[700:702]
    words[one], words[two] = words[two], words[one]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(config))

    refused(run("observe", SET, "--text", home / "one.txt", "--model", tmp_path / "other", *QUICK), "tiny/tc")


def test_a_build_with_heads_is_observed_through_them_and_without_if_so_asked(run: Run, home: Path):
    where = ("--model", home / "model", "--transcoders", home / "set", "--device", "cpu", "--build-only", "-q")
    assert run("ingest", *where, "--as", "tiny/tc-heads", "--heads", "--keep-heads", 1)[0] == 0
    asked = ("observe", "tiny/tc-heads", "--text", home / "one.txt", "--tokens", 512, "--build-only", *QUICK)
    build = builds.find("tiny/tc-heads")

    dry = run(*asked, "--dry-run")[1]
    assert "the model runs once more" in dry
    assert "--no-heads" in dry
    for given, followed in ((("--as", "plain", "--no-heads"), False), (("--as", "followed"), True)):
        code, _, err = run(*asked, *given)
        assert code == 0, err
        seen = observed(build, given[1])
        attended = [value for table in seen.edges("FEEDS_VIA") for value in table["attended"].to_pylist()]
        assert len(attended) == build.rows("edges/FEEDS_VIA/") > 0
        assert all((value is not None) == followed for value in attended)
    assert max(attended) > 0
