"""Sharing a build between processes: torchrun's contract, without a word between them.

``torchrun``, and whatever else sets ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``
(https://docs.pytorch.org/docs/stable/elastic/run.html), starts the same command several times. The units of a build
follow from its sizes, and so does whose each of them is: ranks need not talk to each other, only see the same
``ATLAS_HOME``. A rank that was lost is started again with its number, and does what is missing.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from atlas.errors import BadSetting
from ingest.parts import Unit


@dataclass(frozen=True)
class Rank:
    """One of ``of`` processes; raises :class:`atlas.errors.BadSetting` where ``rank`` is not below ``of``."""

    rank: int
    of: int
    local: int = 0
    """its number on its own machine, which is that of its accelerator"""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.of or self.local < 0:
            raise BadSetting(f"rank {self.rank} of {self.of} is none; ranks count from 0 to one below their number")

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Rank | None:
        """What ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` say; None for a process on its own."""
        if "RANK" not in environment and "WORLD_SIZE" not in environment:
            return None
        try:
            rank, of = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", "0"))
        except (KeyError, ValueError):
            said = ", ".join(f"{name}={environment.get(name, '')!r}" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
            raise BadSetting(
                f"{said} is not what torchrun sets: RANK and WORLD_SIZE go together, all are numbers; unset them to "
                "build in one process"
            ) from None
        return cls(rank, of, local) if of > 1 else None

    def share(self, units: Iterable[Unit]) -> list[Unit]:
        """This rank's units, longest first."""
        return shares(units, self.of)[self.rank]


def shares(units: Iterable[Unit], of: int) -> list[list[Unit]]:
    """Deal units out, the longest first, each to whoever has least so far (Graham 1969, doi:10.1137/0117039): no rank
    has more than 4/3 of what the best split would give its busiest.
    """
    dealt: list[list[Unit]] = [[] for _ in range(of)]
    load = [(0, rank) for rank in range(of)]
    for unit in sorted(units, key=lambda unit: (-unit.products, unit.name)):
        products, rank = heapq.heappop(load)
        dealt[rank].append(unit)
        heapq.heappush(load, (products + unit.products, rank))
    return dealt
