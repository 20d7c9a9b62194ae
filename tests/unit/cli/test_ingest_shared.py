"""`atlas ingest` as torchrun starts it, and as a Slurm array."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from atlas import builds
from atlas.cli import main

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tests.unit.ingest.tiny import write_both

    model, transcoders = write_both(tmp_path_factory.mktemp("source"))
    return ["ingest", "--model", model, "--transcoders", transcoders, "--as", "tiny/tc", "--build-only"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path))

    def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:  # noqa: PT012
            for name, value in environment.items():
                patch.setenv(name, value)
            main(arguments)
        written = capsys.readouterr()
        return int(stopped.value.code or 0), written.out, written.err

    return command


def test_ranks_share_a_build_and_the_last_writes_it_and_says_what_it_cost(run, source):
    first = run(*source, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert builds.table().state.tolist() == ["unfinished"]
    second = run(*source, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")

    assert first[:2] == (0, "rank 0 of 2 has done its share; the last to finish writes the build\n")
    assert second[0] == 0
    assert "97 features" in second[1]
    assert "(predicted " in second[1]
    assert builds.table().state.tolist() == ["finished"]


def test_ranks_share_a_set_with_directions_too(run, source, tmp_path):
    from tests.unit.ingest import models

    assert run(*source)[0] == 0
    numpy.save(tmp_path / "probe.npy", numpy.arange(1.0, models.D_MODEL + 1))
    direction = ["direction", "tiny/tc", str(tmp_path / "probe.npy"), "--layer", "1", "--build-only"]

    first = run(*direction, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    noted = list((tmp_path / "directions").glob("*/directions.json"))
    second = run(*direction, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")

    assert first[:2] == (0, "rank 0 of 2 has done its share; the last to finish writes the build\n")
    assert noted == []
    assert second[:2] == (0, f"tiny/1-tc-directions/{models.N_FEATURES[1]}  probe\n")
    assert len(list((tmp_path / "directions").glob("*/directions.json"))) == 1


def test_an_array_is_submitted_with_what_was_set(run, source, monkeypatch):
    from ingest import slurm

    asked = {}

    class Job:
        job_id = "17_0"

        class paths:
            folder = "jobs"

    def submit(arguments, ranks, **more):
        asked.update(more, ranks=ranks, name=arguments["name"])
        return [Job]

    monkeypatch.setattr(slurm, "submit", submit)
    code, out, _ = run(*source, "--slurm", "4", "--slurm-set", "slurm_partition=gpu", "--slurm-set", "timeout_min=90")

    assert code == 0
    assert "17_0" in out
    assert asked == {
        "ranks": 4,
        "name": "tiny/tc",
        "cluster": None,
        "parameters": {"slurm_partition": "gpu", "timeout_min": 90},
    }


@pytest.mark.parametrize(
    ("more", "environment", "says"),
    [
        (["--slurm-set", "timeout_min=90"], {}, "--slurm-set goes with --slurm"),
        (["--slurm", "2", "--slurm-set", "timeout"], {}, "KEY=VALUE"),
        ([], {"RANK": "3"}, "RANK and WORLD_SIZE go together"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, source, more, environment, says):
    code, _, err = run(*source, *more, **environment)

    assert code
    assert says in err
    assert "Traceback" not in err


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(run, source, tmp_path):
    code, out, _ = run(*source, "--dry-run")

    assert code == 0
    for part in ("97 features", "products", "3 pairs of layers", "edges", "disk", "memory", "time"):
        assert part in out
    assert not (tmp_path / "builds").exists()


def test_exact_sums_are_among_the_settings_of_a_build_that_asked_for_them(run, source):
    run(*source)
    run(*source, "--exact-sums")

    kept = [build.manifest["settings"]["keep"] for build in builds.finished()]
    assert sorted(one.get("exact_sums", False) for one in kept) == [False, True]
