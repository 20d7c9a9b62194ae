"""Ranks as the tasks of a Slurm array, submitted with submitit (https://github.com/facebookincubator/submitit).

submitit writes the job's script, carries the arguments, keeps the logs, and puts a task that was preempted back into
the queue; with the cluster ``local`` it runs the same tasks as processes of this machine. What a task does is
:func:`ingest.build.share`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas import settings
from atlas.errors import AtlasError, BadSetting
from ingest.build import share
from ingest.ranks import Rank


@dataclass(frozen=True)
class Task:
    """What one task of an array does; returns the build's name where it was the one to write it."""

    arguments: dict[str, Any]
    """those of :func:`ingest.build.build`, places and names only"""

    def __call__(self, rank: int, of: int) -> str | None:
        build = share(rank=Rank(rank, of), **self.arguments)
        return None if build is None else build.id

    def checkpoint(self, rank: int, of: int) -> Any:
        """What submitit is to start when this task is preempted or runs out of time: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, rank, of)


def submit(
    arguments: dict[str, Any], ranks: int, *, cluster: str | None = None, parameters: dict[str, Any] | None = None
) -> list[Any]:
    """Submit an array of ``ranks`` tasks that build together; returns submitit's jobs.

    ``cluster``: slurm, local or debug; by default Slurm where it is, else local. ``parameters`` are those of submitit's
    ``AutoExecutor.update_parameters``, such as ``slurm_partition``, ``timeout_min``, ``gpus_per_node``. Logs are kept
    under ``ATLAS_HOME/jobs``.
    """
    try:
        import submitit
    except ImportError as error:
        raise AtlasError("Slurm arrays need an extra: pip install 'feature-atlas[ingest,slurm]'") from error
    if ranks < 1:
        raise BadSetting(f"an array of {ranks} tasks does nothing; give 1 or more")
    home = settings.load(home=arguments.get("home")).builds.parent
    try:
        executor = submitit.AutoExecutor(folder=Path(home) / "jobs", cluster=cluster)
        executor.update_parameters(name="atlas", **{"slurm_array_parallelism": ranks, **(parameters or {})})
    except (ValueError, NameError, RuntimeError) as error:
        raise BadSetting(f"submitit refuses this: {str(error).splitlines()[0]}") from error
    task = Task({**arguments, "home": str(home)})
    return executor.map_array(task, range(ranks), [ranks] * ranks)
