"""A build that is stopped anywhere goes on, to the same files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from atlas.errors import NoSpace
from atlas.staging import Build
from ingest.parts import Parts
from ingest.writer import Writer
from tests.unit.ingest.tiny import make

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make(tmp_path_factory.mktemp("home"))


def test_two_builds_of_the_same_input_have_equal_manifests(built, tmp_path):
    assert make(tmp_path).manifest == built.manifest


def test_a_finished_build_is_returned_as_it_is(built):
    before = (built.path / "manifest.json").stat().st_mtime_ns

    again = make(built.path.parents[1])

    assert (again.path / "manifest.json").stat().st_mtime_ns == before


def write_counting(home: Path, end_at: int | None = None, error: BaseException | None = None) -> int:
    """Build, and let the ``end_at``-th file that is written end in ``error``; returns how many were written."""
    written = 0

    def counted(write):
        def wrapper(*args, **kwargs):
            nonlocal written
            written += 1
            if written == end_at:
                raise error
            return write(*args, **kwargs)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "save", counted(np.save))
        for method in ("edges", "table", "finish"):
            patch.setattr(Writer, method, counted(getattr(Writer, method)))
        make(home)
    return written


@pytest.fixture(scope="module")
def n_files(tmp_path_factory: pytest.TempPathFactory) -> int:
    return write_counting(tmp_path_factory.mktemp("counted"))


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != "."]


@pytest.mark.parametrize("tenth", range(11))
def test_interrupted_anywhere_the_same_call_goes_on_to_the_same_build(built, n_files, tmp_path, tenth):
    with pytest.raises(KeyboardInterrupt):
        write_counting(tmp_path, 1 + tenth * (n_files - 1) // 10, KeyboardInterrupt())
    (folder,) = (tmp_path / "builds").iterdir()
    assert not (folder / "manifest.json").exists()
    assert half_written(folder) == []

    assert make(tmp_path).manifest == built.manifest


@pytest.fixture
def ctrl_c_counts():
    """A suite in the background of a shell inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_counts")
def test_ctrl_c_in_the_middle_of_a_unit_loses_that_unit_alone(built, tmp_path):
    def press(what: str, done: int, total: int) -> None:
        if what.startswith("edges") and len(list((tmp_path / "builds").glob("*/work/[A-Z]*"))) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, progress=press)
    (folder,) = (tmp_path / "builds").iterdir()
    assert len(list((folder / "work").glob("[A-Z]*"))) == 3
    assert half_written(folder) == []

    assert make(tmp_path).manifest == built.manifest


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(built, tmp_path):
    with pytest.raises(NoSpace, match="disk is full"):
        write_counting(tmp_path, 20, OSError(errno.ENOSPC, "No space left on device"))
    (folder,) = (tmp_path / "builds").iterdir()
    assert half_written(folder) == []

    assert make(tmp_path).manifest == built.manifest


def test_resuming_computes_only_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        write_counting(tmp_path, 8, KeyboardInterrupt())
    (folder,) = (tmp_path / "builds").iterdir()
    there = {path.name for path in (folder / "work").iterdir()}
    saved = []
    writing = Parts.writing
    monkeypatch.setattr(Parts, "writing", lambda self, unit: (saved.append(unit.name), writing(self, unit))[1])

    make(tmp_path)

    assert there
    assert saved
    assert not there & set(saved)


def test_killed_in_the_middle_of_a_unit_the_next_run_makes_the_same_build(built, tmp_path):
    script = f"""
import os
import signal
import numpy as np
from pathlib import Path
from tests.unit.ingest.tiny import make
save, count = np.save, [0]
def strike(*args):
    count[0] += 1
    if count[0] == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*args)
np.save = strike
make(Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    (folder,) = (tmp_path / "builds").iterdir()
    finished = {path.name for path in (folder / "work").iterdir() if not path.name.startswith(".")}

    again = make(tmp_path)

    assert done.returncode == -signal.SIGKILL
    assert finished
    assert again.manifest == built.manifest


def test_a_build_that_lost_a_file_is_made_again(built, tmp_path):
    made = make(tmp_path)
    (made.path / "nodes" / "Token.parquet").unlink()

    again = make(tmp_path)

    again.verify()
    assert again.manifest == built.manifest
