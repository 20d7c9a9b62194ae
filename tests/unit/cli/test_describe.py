"""`atlas describe`, `import` and `export` as they are typed, on a small model that is read from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atlas.cli import main
from atlas.model import Activation, ReadSite
from tests.unit.ingest import models
from tests.unit.ingest.describe.literal import Literal, differences
from tests.unit.ingest.describe.small import N_FEATURES, N_LAYERS, Small, small
from tests.unit.ingest.describe.stub import Stub, serving

SET = "tiny-gemma/tc"
LOOSE = ("--token-z", "3", "--feature-z", "2.5", "--false", "0.9")
PUBLISHED = ("--preset", "weightlens", "--token-z", "2.6", "--feature-z", "2.4")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made() -> Small:
    return small("gemma2", Activation.JUMPRELU, seed=8, read=ReadSite.NORM_PRE_GAIN)


@pytest.fixture(scope="module")
def home(made: Small, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the model on disk, built and loaded."""
    home = tmp_path_factory.mktemp("home")
    made.model.save_pretrained(home / "given" / "model")
    made.tokenizer.save_pretrained(home / "given" / "model")
    layers = [made.source.load(layer) for layer in range(N_LAYERS)]
    models.write_circuit_tracer(home / "given" / "set", layers, "ln2.hook_normalized", "mlp.hook_out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_HOME", str(home))
        with pytest.raises(SystemExit) as stopped:
            main(["ingest", "--model", str(home / "given" / "model"), "--transcoders", str(home / "given" / "set"),
                  "--as", SET, "--device", "cpu", "-q"])  # fmt: skip
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
def stub() -> Iterator[Stub]:
    with serving() as server:
        yield server


def labels(run: Run) -> dict[str, tuple[str, str]]:
    query = "MATCH (f:Feature) RETURN f.key AS key, f.label AS label, f.label_source AS source"
    _, written, _ = run("cypher", query, "--json")
    return {row["key"]: (row["label"], row["source"]) for row in json.loads(written)["rows"]}


def refused(answer: tuple[int, str, str], *said: str) -> None:
    """Exit 1, and one line that says all of this."""
    code, _, err = answer
    last = err.strip().splitlines()[-1]
    assert code == 1, err
    assert "Traceback" not in err
    assert all(part in last for part in said), last


def test_describing_fills_the_atlas_and_again_changes_nothing(run: Run):
    before = labels(run)
    code, said, _ = run("describe", SET, *LOOSE, "-q")
    after = labels(run)

    assert (code, said) == (0, "")
    described = {key: label for key, (label, source) in after.items() if source == "atlas"}
    assert 100 < len(described) < len(before)
    key, label = next((key, label) for key, label in described.items() if not label.startswith("→"))
    _, found, _ = run("search", label.split(", ")[0], "--json", "-k", 200)
    assert key in {row["key"] for row in json.loads(found)["rows"]}
    _, card, _ = run("card", key)
    assert label.split(", ")[0] in card
    _, again, _ = run("describe", SET, *LOOSE)
    assert "forward passes" in again
    assert labels(run) == after


def test_the_exported_files_are_those_of_a_literal_reading(run: Run, made: Small, tmp_path: Path):
    code, said, _ = run("describe", SET, *PUBLISHED)
    run("export", SET, "--format", "weightlens", tmp_path / "out")

    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert (code, files) == (0, [f"feature_analysis_layer_{layer}.json" for layer in range(N_LAYERS)])
    assert "by weightlens" in said
    layers = [(t.w_enc, t.w_dec) for t in map(made.source.load, range(N_LAYERS))]
    embedding = made.weights.embedding * made.weights.embedding_scale
    slow = Literal(embedding, made.weights.unembedding, layers, made.tokenizer, made.activation, "tiny-gemma", 2.6, 2.4)
    for layer, n in enumerate(N_FEATURES):
        text = (tmp_path / "out" / f"feature_analysis_layer_{layer}.json").read_bytes()
        records = json.loads(text)
        assert text == json.dumps(records, indent=2).encode("ascii")
        assert [record["feature"]["feature_idx"] for record in records] == list(range(n))
        for idx in range(0, n, 40):
            assert differences(records[idx], slow.feature(layer, idx), f"{layer}/{idx}") == []


def test_runs_stand_beside_each_other_and_the_newest_one_asked_for_is_exported(run: Run, tmp_path: Path):
    other = ("--preset", "weightlens", "--token-z", "3.4", "--feature-z", "2.4")
    branch = (*PUBLISHED, "--weightlens-branch", "gpt")

    def exported(*options: object) -> bytes:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run("export", SET, "--format", "weightlens", *options, out)[0] == 0
        return b"".join(path.read_bytes() for path in sorted(out.iterdir()))

    runs, written = {}, {}
    for asked in (PUBLISHED, other, branch):
        _, said, _ = run("describe", SET, *asked)
        runs[asked] = said.splitlines()[0].rpartition(" ")[2]
        written[asked] = exported()
    assert len(set(runs.values())) == len(set(written.values())) == 3
    assert all(exported("--run", runs[asked]) == written[asked] for asked in runs)
    run("describe", SET, *other)
    assert exported() == written[other]
    refused(run("export", SET, "--format", "weightlens", "--run", "000", tmp_path / "x"), "000", runs[other])


def test_what_is_exported_is_imported_again_byte_for_byte(run: Run, tmp_path: Path):
    run("describe", SET, *PUBLISHED)
    run("export", SET, "--format", "weightlens", tmp_path / "out")

    order = ("--labels", "weightlens,tokens,atlas")  # what stands behind tokens is never asked
    code, said, _ = run("import", "--format", "weightlens", "--set", SET, tmp_path / "out", *order)

    assert code == 0
    assert "descriptions by weightlens" in said
    assert {source for _, source in labels(run).values()} & {"weightlens", "atlas"} == {"weightlens"}
    run("export", SET, "--format", "weightlens", tmp_path / "again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    run("describe", SET, *LOOSE, "--labels", "atlas,tokens")
    assert "atlas" in {source for _, source in labels(run).values()}


def test_what_was_written_on_a_graph_becomes_a_label(run: Run, tmp_path: Path):
    key = json.loads(run("search", "a", "-k", 1, "--json")[1])["rows"][0]["key"]
    graph = json.loads(run("circuit", key, "--format", "neuronpedia")[1])
    graph["qParams"]["supernodes"] = [["hand-written", graph["qParams"]["pinnedIds"][0]]]
    graph["nodes"] = [node | {"clerp": ""} for node in graph["nodes"]]
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))

    order = ("--labels", "circuit-tracer,atlas,tokens")
    code, said, err = run("import", file, "--format", "circuit-tracer", "--set", SET, *order)

    assert code == 0, err
    assert "1 descriptions by circuit-tracer" in said
    assert labels(run)[key] == ("hand-written", "circuit-tracer")
    graph["metadata"]["scan"] = "gemma-2-2b"
    file.write_text(json.dumps(graph))
    refused(run("import", file, "--format", "circuit-tracer", "--set", SET), "is of gemma-2-2b", SET)
    run("describe", SET, *LOOSE, "--labels", "atlas,tokens")


def test_tables_and_neuronpedias_lines_hold_every_description(run: Run, tmp_path: Path):
    import gzip

    import pandas as pd

    run("describe", SET, *LOOSE)
    assert run("export", SET, "--format", "csv", tmp_path / "all.csv")[0] == 0
    assert run("export", SET, "--format", "parquet", "--method", "atlas", tmp_path / "own.parquet")[0] == 0
    assert run("export", SET, "--format", "neuronpedia", tmp_path / "np")[0] == 0

    every, own = pd.read_csv(tmp_path / "all.csv"), pd.read_parquet(tmp_path / "own.parquet")
    assert set(own["method"]) == {"atlas"}
    assert len(every[every["method"] == "atlas"]) == len(own) > 100
    (batch,) = (tmp_path / "np").rglob("*.jsonl.gz")
    with gzip.open(batch, "rt", encoding="utf-8") as lines:
        assert len([json.loads(line)["description"] for line in lines]) == len(own)
    refused(run("export", SET, "--format", "csv", tmp_path / "all.parquet"), ".csv")


def test_scores_on_held_out_text_name_every_predictor_and_layer(run: Run, made: Small, tmp_path: Path):
    words = [made.tokenizer.decode([token]) for token in range(300, 900)]
    (tmp_path / "text.txt").write_text("".join(words * 6))

    code, said, _ = run("describe", SET, *LOOSE, "--score", tmp_path / "text.txt", "--score-tokens", 3000)

    assert code == 0
    table = said[said.index("predictor") :]
    for name in ("atlas", "raw weight", "max activating"):
        assert table.count(f"{name} ") == N_LAYERS
    assert "confidence and average precision: Spearman" in said
    refused(run("describe", SET, *LOOSE, "--score", tmp_path / "none.txt"), "none.txt", "not there")


def test_a_language_model_words_descriptions_and_its_words_become_labels(
    run: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ATLAS_LLM_KEY", "secret")

    code, said, err = run("describe", SET, *LOOSE, "--llm", stub.address, "--llm-model", "m", "--labels",
                          "atlas-llm,atlas,tokens")  # fmt: skip

    assert code == 0, err
    assert "worded by m" in said
    assert "secret" not in said + err
    assert stub.keys == {"Bearer secret"}
    assert ("small animals", "atlas-llm") in labels(run).values()


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [("hang", "no answer within"), ("err", "503"), ("html", "can be read"), ("other", "chat completions")],
)
def test_an_address_that_fails_costs_one_line_and_nothing_that_was_done(
    run: Run, stub: Stub, behaviour: str, said: str
):
    stub.behaviour = lambda n: "answer" if n <= 5 else behaviour
    before = labels(run)

    answer = run("describe", SET, *LOOSE, "--llm", stub.address, "--llm-model", behaviour, "--llm-timeout", "0.5", "-q")

    refused(answer, said, "wordings are kept")
    assert labels(run) == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("describe", "nobody/nothing"), "nobody/nothing"),
        (("describe", SET, "--token-z", "-1"), "token_z"),
        (("describe", SET, "--weightlens-branch", "gpt"), "belongs to WeightLens"),
        (("describe", SET, *PUBLISHED, "--weightlens-branch", "llama"), "token 128000"),
        (("describe", SET, *PUBLISHED, "--show-rare"), "masks none"),
        (("describe", SET, "--tokens", "no-such-file"), "neither a number"),
        (("describe", SET, "--labels", "atlas,atlas"), "no order of methods"),
        (("describe", SET, "--device", "tpu"), "tpu"),
        (("describe", SET, *LOOSE, "--llm", "localhost", "--llm-model", "m"), "no address"),
        (("import", "--format", "weightlens", "--set", SET, "no-such-folder"), "is not there"),
        (("import", "--format", "neuronpedia", "--set", SET, "no-such-folder"), "is not there"),
        (("export", SET, "--format", "neuronpedia", "--method", "nobody", "out"), "nobody"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Run, asked: tuple[str, ...], said: str):
    refused(run(*asked), said)


def test_a_file_for_another_set_and_a_model_that_is_not_the_builds_are_one_line(
    run: Run, made: Small, home: Path, tmp_path: Path
):
    run("describe", SET, *PUBLISHED)
    run("export", SET, "--format", "weightlens", tmp_path / "out")
    file = tmp_path / "out" / "feature_analysis_layer_2.json"
    whole = file.read_text()
    before = labels(run)

    file.write_text(whole.replace('"layer": 2', '"layer": 7'))
    refused(run("import", "--format", "weightlens", "--set", SET, tmp_path / "out"), "no layer 7", "another set")
    file.write_text(whole[: len(whole) // 2])
    refused(run("import", "--format", "weightlens", "--set", SET, tmp_path / "out"), "no whole JSON")
    assert labels(run) == before

    mute = json.loads((home / "given" / "model" / "tokenizer_config.json").read_text()) | {"bos_token": None}
    other = tmp_path / "mute"
    made.model.save_pretrained(other)
    made.tokenizer.save_pretrained(other)
    (other / "tokenizer_config.json").write_text(json.dumps(mute))
    refused(run("describe", SET, *LOOSE, "--token-z", "3.5", "--model", other), "tiny-gemma")
