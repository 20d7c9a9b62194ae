"""The command line: exit codes, one line for what goes wrong, and answers in the form that was asked for."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import atlas
from atlas.cli import main
from tests import toy


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    return toy.write(tmp_path_factory.mktemp("builds") / "a-build")


@pytest.fixture(scope="module")
def store(small: toy.Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "atlas"
    atlas.load(small.build, folder)
    return folder


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATLAS_STORE", str(store))

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        written = capsys.readouterr()
        return int(stopped.value.code or 0), written.out, written.err

    return command


def first(small: toy.Toy, label: str = "Feature") -> str:
    return small.keys(label)[-1]


QUESTIONS = {
    "models": [],
    "sets": [],
    "search": ["rabbit"],
    "inputs": ["KEY"],
    "outputs": ["KEY"],
    "common": ["KEY", "OTHER"],
    "paths": ["OTHER", "KEY"],
    "reach": ["OTHER"],
    "motifs": ["--samples", "2"],
    "similar": ["KEY"],
    "doctor": [],
}


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_question_answers_as_text_json_and_csv_with_the_same_rows(command: str, run, small: toy.Toy):
    keys = {"KEY": first(small), "OTHER": small.keys("Feature")[0]}
    arguments = [command, *(keys.get(argument, argument) for argument in QUESTIONS[command])]

    text = run(*arguments)
    code, as_json, _ = run(*arguments, "--json")
    _, as_csv, _ = run(*arguments, "--csv")

    assert (text[0], code) == (0, 0)
    rows = json.loads(as_json)["rows"]
    assert len(list(csv.DictReader(io.StringIO(as_csv)))) == len(rows)
    assert not rows or set(rows[0]) == set(next(csv.DictReader(io.StringIO(as_csv))))


def test_an_answer_says_its_weight_its_cut_and_its_run(run, small: toy.Toy):
    _, written, _ = run("inputs", first(small), "--json")

    envelope = json.loads(written)
    assert envelope["weight"] == "z"
    assert envelope["run"] == small.run
    assert envelope["set"] == small.set_key
    assert set(envelope) >= {"rows", "weight", "cut", "complete", "model", "set", "run"}


def test_provenance_in_csv_is_one_comment_line(run, small: toy.Toy):
    _, plain, _ = run("inputs", first(small), "--csv")
    _, with_line, _ = run("inputs", first(small), "--csv", "--provenance")

    line, _, rest = with_line.partition("\n")
    assert line.startswith("# ")
    assert small.run in line
    assert rest == plain


@pytest.mark.parametrize(
    "arguments",
    [
        ["inputs", "KEY", "-k", "0"],
        ["circuit", "KEY", "--depth", "-1"],
        ["inputs", "KEY", "--json", "--csv"],
        ["motifs", "--shape", "square"],
        ["motifs", "--instances", "3"],
        ["compare", "a", "b", "-k", "0"],
        ["compare", "a", "b", "--max-p", "0"],
        ["compare", "a", "b", "--keep", "--only", "a"],
        ["circuit", "KEY", "--in", "a", "--format", "dot"],
        ["motifs", "--shape", "chain", "--instances", "0"],
        ["motifs", "--shape", "chain", "--instances", "1", "--hubs", "1"],
        ["motifs", "--hubs", "1", "--by", "drive"],
        ["motifs", "--by", "readers"],
        ["ingest"],
        ["ingest", "bunny", "--model", "x"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str], run, small: toy.Toy):
    code, written, _ = run(*[first(small) if argument == "KEY" else argument for argument in arguments])

    assert (code, written) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["card", "rabbit?"], "is not a key"),
        (["card", "toy/0-nowhere/1"], "toy"),
        (["compare", "toy", "toy/tc-40"], "two different sets"),
        (["motifs", "--by", "drive"], "nothing was observed"),
        (["motifs", "--hubs", "3", "--live"], "nothing was observed"),
        (["compare", "toy", "nobody"], "no set 'nobody'"),
        (["query", "nonsense"], "nonsense"),
        (["ingest", "nonsense"], "atlas sources"),
        (["load", "nonsense"], "nonsense"),
        (["cypher", "MATCH (f:Feature) DETACH DELETE f"], "read"),
        (["cypher", "MATCH (f:Feature) RETURN"], "Error"),
        (["cypher", "MATCH (f:Feature {key: $key}) RETURN f.key"], "key"),
        (["models", "--store", "/nonexistent/atlas"], "atlas ingest"),
        (["ingest", "--model", "m", "--transcoders", "t", "--layers", "x-y"], "--layers"),
    ],
)
def test_bad_input_is_one_line_and_exits_with_one(arguments: list[str], told: str, run):
    code, written, errors = run(*arguments)

    assert (code, written) == (1, "")
    assert errors.startswith("Error: ")
    assert told in errors
    assert errors.count("\n") == 1


def test_the_cypher_shown_is_the_cypher_that_answers(run, small: toy.Toy, store: Path):
    _, script, _ = run("inputs", first(small), "--show-cypher")

    assert "MATCH" in script
    assert first(small) in script


def test_paths_take_several_ends_and_conditions(run, small: toy.Toy):
    keys = small.keys("Feature")
    start, middle, ends = keys[0], keys[20], [keys[-1], keys[-2]]

    _, plain, _ = run("paths", start, *ends, "--through", middle, "--avoid", "1", "--max-hops", "3", "--json")
    _, written, _ = run("paths", start, *ends, "--through", middle, "--min", "0.1", "--total")

    rows = json.loads(plain)["rows"]
    assert rows
    assert all(middle in row["keys"] and row["keys"][-1] in ends and row["hops"] <= 3 for row in rows)
    assert "all paths sum to" in written


def test_a_circuit_is_written_in_every_format(run, small: toy.Toy):
    starts = {"text": small.model, "json": "{", "dot": "digraph", "graphml": "<?xml", "mermaid": "flowchart"}
    starts["neuronpedia"] = "{"

    found = {form: run("circuit", first(small), "--format", form)[1] for form in starts}

    assert {form: text.lstrip().startswith(starts[form]) for form, text in found.items()} == dict.fromkeys(starts, True)


def test_help_comes_without_waiting_for_data_libraries():
    code = "import sys, atlas.cli; print(*{n.partition('.')[0] for n in sys.modules} & {'torch', 'pandas', 'pyarrow'})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_a_reader_that_stops_early_is_no_error(store: Path, small: toy.Toy):
    command = f"{sys.executable} -c 'from atlas.cli import main; main()' query --list | head -n 1"

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "ATLAS_STORE": str(store)},
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def ctrl_c_counts():
    """A suite in the background of a shell inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def asking() -> list[str]:
    """Processes of ours that answer somebody's own Cypher."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    children = [child for task in tasks.glob("*/children") for child in task.read_text().split()]
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [child for child, command in commands.items() if "embedded.asking" in command]


@pytest.mark.usefixtures("ctrl_c_counts")
def test_ctrl_c_ends_a_question_with_one_line_and_leaves_nothing_running(run, monkeypatch):
    module = importlib.import_module("queries.motifs")  # elsewhere the name says the function in it
    monkeypatch.setattr(module, "rewire", lambda *_: signal.raise_signal(signal.SIGINT))
    # a terminal shows ^C where the cursor is, so the line begins anew
    interrupted = (130, "", "\nInterrupted. The atlas is as it was; run the same command again to go on.\n")
    assert run("motifs", "--samples", "3") == interrupted

    before = {*asking()}
    names = "abcdefg"
    # a sum over seven features at a time: more terms than any engine adds up in a minute
    nodes, terms = ", ".join(f"({name}:Feature)" for name in names), " + ".join(f"{name}.bias" for name in names)
    threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()

    assert run("cypher", f"MATCH {nodes} RETURN sum(sqrt(abs({terms}))) AS n", "--timeout", "60") == interrupted
    assert {*asking()} <= before
    assert run("models")[0] == 0
