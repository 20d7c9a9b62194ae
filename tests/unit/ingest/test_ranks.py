"""A build that several processes share is the build of one, also when one of them is killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atlas.errors import BadSetting
from atlas.staging import open_build
from ingest import Rank
from ingest.directions import Direction
from ingest.parts import Parts, Unit
from ingest.plan import Sizes, units
from ingest.ranks import shares
from tests.unit.ingest import models
from tests.unit.ingest.tiny import make, share_of, write_both

ROOT = Path(__file__).parents[3]
GPT2 = Sizes(tuple(range(12)), (24_576,) * 12, 50_257, 768)

SCRIPT = """
import os
import signal
import sys
from pathlib import Path

from ingest.parts import Parts
from ingest.ranks import Rank
from tests.unit.ingest.tiny import share_of

sys.modules["ingest.plan"]._BLOCK, sys.modules["ingest.plan"]._UNIT_FLOP = 5, 1  # some dozen units
home, victim = Path(sys.argv[1]), 2
unit_starts, writing = [], Parts.writing

def dying(parts, unit):
    unit_starts.append(unit)
    if len(unit_starts) == 3:
        with writing(parts, unit) as part:
            (part._folder / "half").write_text("a unit")
            os.kill(os.getpid(), signal.SIGKILL)
    return writing(parts, unit)

def start(rank, may_die):
    child = os.fork()
    if child:
        return child
    if may_die and rank == victim:
        Parts.writing = dying
    made = share_of(Rank(rank, 4), home)
    (home / f"rank-{rank}").write_text("wrote" if made else "left it")
    os._exit(0)

ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in [start(rank, True) for rank in range(4)]]
assert ended == [0, 0, -signal.SIGKILL, 0], ended
assert not list(home.rglob("manifest.json"))
again = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in [start(victim, False)]]
assert again == [0], again
"""


def test_four_processes_one_of_them_killed_and_rerun_make_the_build_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["ingest.plan"], "_BLOCK", 5)
    monkeypatch.setattr(sys.modules["ingest.plan"], "_UNIT_FLOP", 1)
    alone = make(tmp_path / "one")

    home = tmp_path / "four"
    home.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(home)], cwd=ROOT, env=environment, check=True)

    (folder,) = (home / "builds").iterdir()
    together = open_build(folder)
    together.verify()
    assert together.manifest == alone.manifest
    assert [(home / f"rank-{rank}").read_text() for rank in range(4)] == ["left it", "left it", "wrote", "left it"]
    assert not (folder / "work").exists()


def test_directions_that_several_ranks_build_are_those_of_one(tmp_path):
    vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(1))
    probe = {"directions": [Direction("probe", vector, layer=1)]}

    left, together = (share_of(Rank(rank, 2), tmp_path / "two", **probe) for rank in range(2))

    assert left is None
    assert together is not None
    assert together.features_per_layer[1] == models.N_FEATURES[1] + 1
    assert together.manifest == make(tmp_path / "one", **probe).manifest


def test_ranks_share_all_units_and_none_twice_longest_first_balanced():
    todo = units(GPT2)

    for of in (1, 4, 7):
        dealt = shares(todo, of)

        assert sorted((unit for share in dealt for unit in share), key=str) == sorted(todo, key=str)
        assert all(
            [unit.products for unit in share] == sorted((u.products for u in share), reverse=True) for share in dealt
        )
        assert Rank(of - 1, of).share(todo) == dealt[-1]
    loads = [sum(unit.products for unit in share) for share in shares(todo, 4)]
    assert max(loads) < 1.05 * sum(loads) / 4


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(3, 8, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Rank(3, 8, 0)),
    ],
)
def test_a_rank_is_what_torchrun_says(environment, rank):
    assert Rank.here(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}],
)
def test_half_a_rank_is_refused(environment):
    with pytest.raises(BadSetting):
        Rank.here(environment)


def test_two_processes_that_make_the_same_unit_keep_the_first(tmp_path):
    parts, unit = Parts(tmp_path / "work"), Unit("FEEDS", 1, 0, 5, 10)
    with parts.writing(unit) as one:
        (one._folder / "by").write_text("the first")

    with parts.writing(unit) as other:
        (other._folder / "by").write_text("the second")

    assert (parts.path / unit.name / "by").read_text() == "the first"
    assert [path.name for path in parts.path.iterdir()] == [unit.name]


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    host = os.uname().nodename
    alive, elsewhere, dead = f".unit@{host}@{os.getppid()}", ".unit@another-machine@1", f".unit@{host}@{2**22 + 1}"
    for name in (alive, elsewhere, dead):
        (work / name).mkdir()

    Parts(work)

    assert {path.name for path in work.iterdir()} == {alive, elsewhere}


def test_only_one_process_at_a_time_writes_the_build(tmp_path):
    parts = Parts(tmp_path / "work")

    with parts.finishing(wait=False) as ours, Parts(tmp_path / "work").finishing(wait=False) as theirs:
        assert (ours, theirs) == (True, False)
    with parts.finishing(wait=False) as ours:
        assert ours


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its logs open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_array_of_submitits_tasks_makes_the_build_of_one(tmp_path):
    pytest.importorskip("submitit")
    from ingest import slurm

    model, transcoders = write_both(tmp_path)
    asked = {"model": model, "transcoders": transcoders, "name": "tiny/tc"}
    jobs = slurm.submit({**asked, "home": str(tmp_path / "home")}, 2, cluster="debug")
    written = [job.result() for job in jobs]

    (folder,) = (tmp_path / "home" / "builds").iterdir()
    assert written == [None, folder.name]
    assert open_build(folder).manifest["settings"]["name"] == "tiny/tc"
    assert json.loads((folder / "run.json").read_text())["actual"]["edges"]["FEEDS"] > 0


def test_a_preempted_task_is_started_again_as_it_was():
    pytest.importorskip("submitit")
    from ingest.slurm import Task

    task = Task({"model": "m"})

    again = task.checkpoint(1, 4)

    assert (again.function, again.args) == (task, (1, 4))


@pytest.mark.parametrize("wrong", [{"cluster": "no-such"}, {"parameters": {"slurm_no_such": 1}}])
def test_what_submitit_refuses_is_one_line(tmp_path, wrong):
    pytest.importorskip("submitit")
    from ingest import slurm

    with pytest.raises(BadSetting, match="submitit"):
        slurm.submit({"home": str(tmp_path)}, 2, **wrong)
