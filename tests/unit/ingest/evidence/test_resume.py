"""A run that is killed goes on where it was and gives the bytes that an uninterrupted one gives."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atlas import observations
from atlas.errors import BadBuild, NoSpace
from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence.attended import groups
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import Subject
from tests.unit.ingest.evidence.observed import ids_file, subject

ROOT = Path(__file__).parents[4]
KILLED = """
import os, signal, sys
from pathlib import Path
from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence.observe import Options, observe
from tests.unit.ingest.evidence.observed import ids_file, subject

home, memory = Path(sys.argv[1]), int(sys.argv[2])
tiny = subject(home, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)

def die(what, done, total):
    if "features" in what and done > 20:
        os.kill(os.getpid(), signal.SIGKILL)

observe(tiny, ids_file(home), Options(shard=60, checkpoint=0.0, memory=memory), name="cut", progress=die)
"""


FOLLOWING = """
import os, signal, sys
from pathlib import Path
from ingest.evidence.observe import observe
from tests.unit.ingest.evidence.observed import ids_file
from tests.unit.ingest.evidence.test_resume import following

home, memory = Path(sys.argv[1]), int(sys.argv[2])
tiny, options = following(home, memory)

def die(what, done, total):
    if "attention" in what and done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

observe(tiny, ids_file(home), options, name="cut", progress=die)
"""


def following(home: Path, memory: int) -> tuple[Subject, Options]:
    tiny = subject(home, activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW, heads=3)
    return tiny, Options(shard=60, checkpoint=0.0, memory=memory)


@pytest.mark.parametrize("memory", [2 << 30, 120_000], ids=["one group of heads", "several"])
def test_a_run_that_is_killed_while_it_follows_attention_goes_on_there_and_gives_the_same_bytes(
    memory: int, tmp_path: Path
):
    died = subprocess.run([sys.executable, "-c", FOLLOWING, str(tmp_path), str(memory)], cwd=ROOT, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    tiny, options = following(tmp_path, memory)
    with np.load(observations.folder(tiny.build) / "cut" / "work" / "heads.npz") as state:
        assert int(state["done"]) > 0
        assert (int(state["finished"]) > 0) == (memory < 1 << 30)
    seen: list[str] = []

    resumed = observe(tiny, ids_file(tmp_path), options, name="cut", progress=lambda what, *_: seen.append(what))
    whole = observe(tiny, ids_file(tmp_path), options, name="whole")

    assert 0 < sum("attention" in what for what in seen) < (7 if memory > 1 << 30 else 20)  # ten shards a group
    assert "reading features (windows)" not in seen
    assert resumed.manifest["files"] == whole.manifest["files"]
    assert any("FEEDS_VIA" in name for name in whole.manifest["files"])
    assert not (resumed.path / "work").exists()


class Stopped(Exception):
    """In place of a death, for tests of what comes after it."""


def stops(word: str) -> Callable[[str, int, int], None]:
    def show(what: str, done: int, total: int) -> None:
        if word in what and done > total // 2:
            raise Stopped

    return show


def test_a_run_that_followed_attention_goes_on_with_other_memory_and_gives_the_same_bytes(tmp_path: Path):
    tiny, options = following(tmp_path, 120_000)
    request = ids_file(tmp_path)
    with pytest.raises(Stopped):
        observe(tiny, request, options, name="cut", progress=stops("attention"))
    less = replace(options, memory=40_000)
    with np.load(observations.folder(tiny.build) / "cut" / "work" / "heads.npz") as state:
        assert len(groups(tiny.build, less.memory, int(state["finished"]))[0]) < int(state["of"])

    resumed = observe(tiny, request, less, name="cut")
    whole = observe(tiny, request, less, name="whole")

    assert resumed.manifest["files"] == whole.manifest["files"]


def test_a_full_disk_is_one_line_and_what_is_finished_stays(tmp_path: Path, monkeypatch):
    tiny = subject(tmp_path, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)
    request, options = ids_file(tmp_path), Options(shard=60, checkpoint=0.0, memory=200_000)
    savez, written = np.savez, []

    def full(file, **arrays):
        written.append(file)
        if len(written) > 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        savez(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(NoSpace, match=r"the disk is full: .* what is finished stays"):
            observe(tiny, request, options, name="cut")
    seen: dict[str, list[str]] = {"cut": [], "whole": []}
    found = {
        name: observe(tiny, request, options, name=name, progress=lambda what, *_, of=of: of.append(what))
        for name, of in seen.items()
    }

    assert 0 < seen["cut"].count("reading features (windows)") < seen["whole"].count("reading features (windows)")
    assert found["cut"].manifest["files"] == found["whole"].manifest["files"]


@pytest.mark.parametrize(("first", "then"), [(2 << 30, 200_000), (200_000, 2 << 30)], ids=["less", "more"])
def test_a_run_that_is_given_other_memory_begins_anew_and_gives_the_same_bytes(first: int, then: int, tmp_path: Path):
    tiny = subject(tmp_path, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)
    request, options = ids_file(tmp_path), Options(shard=60, checkpoint=0.0, memory=first)
    with pytest.raises(Stopped):
        observe(tiny, request, options, name="cut", progress=stops("windows"))

    resumed = observe(tiny, request, replace(options, memory=then), name="cut")
    whole = observe(tiny, request, replace(options, memory=then), name="whole")

    assert resumed.manifest["files"] == whole.manifest["files"]


@pytest.mark.parametrize("memory", [2 << 30, 200_000], ids=["in one pass", "in blocks"])
def test_a_killed_run_goes_on_at_its_shard_and_gives_the_same_bytes(memory: int, tmp_path: Path):
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(memory)], cwd=ROOT, capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    tiny = subject(tmp_path, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)
    options = Options(shard=60, checkpoint=0.0, memory=memory)
    with pytest.raises(BadBuild, match="nothing was observed"):
        observations.find(tiny.build)
    with np.load(observations.folder(tiny.build) / "cut" / "work" / "state.npz") as state:
        assert 0 < int(state["done"]) < 10
    seen: list[int] = []

    def show(what: str, done: int, total: int) -> None:
        if "windows" in what:
            seen.append(done)

    resumed = observe(tiny, ids_file(tmp_path), options, name="cut", progress=show)
    whole = observe(tiny, ids_file(tmp_path), options, name="whole")

    assert min(seen) > 20
    assert resumed.manifest["files"] == whole.manifest["files"]
    assert not (resumed.path / "work").exists()
