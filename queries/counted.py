"""Which of a set's connections count, and by how much: by any number they have, or only where both ends are active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import BadBuild
from queries import cuts
from queries.answers import Envelope
from queries.held import Held, envelope

if TYPE_CHECKING:
    from atlas.stores.adjacency import Adjacency

STATED = ("weight", "z", "share")
"""Numbers that every connection has."""


def numbers(adjacency: Adjacency, set_key: str, *, evidence: bool) -> dict[str, np.ndarray]:
    """All numbers of a set's connections by name, as plain arrays: each slice of a mapped file would cost microseconds.

    Raises BadBuild where ``evidence`` is needed and the adjacency was written without it.
    """
    if evidence and not adjacency.evidence:
        raise BadBuild(f"the adjacency of {set_key} is without evidence; `atlas doctor --mend` writes it again")
    found = {name: np.asarray(getattr(adjacency, name)) for name in STATED}
    return found | {name: np.asarray(column) for name, column in adjacency.evidence.items()}


@dataclass(frozen=True)
class Counted:
    """Which connections are asked about; all that are kept if nothing is said."""

    by: str = "z"
    """one of :data:`queries.neighbours.BY`"""
    least: float = 0.0
    """smallest size, of ``by``"""
    live: bool = False
    """only those whose ends are active together on the observed text"""

    @property
    def evidence(self) -> bool:
        """Whether an observed text is needed."""
        return self.live or self.by in cuts.EVIDENCE

    def sizes(self, own: Held, adjacency: Adjacency, at: slice = slice(None)) -> np.ndarray:
        """Of every connection, or of those ``at`` some places, the size, -1 where it does not count: float32, of
        coactivation float64.

        By evidence a connection counts only where that is defined and not 0. Raises BadSetting where no text was
        observed, BadBuild where the adjacency is without evidence.
        """
        if self.evidence:
            cuts.require_observed(own.key, own.observation)
        by_name = {name: one[at] for name, one in numbers(adjacency, own.key, evidence=self.evidence).items()}
        size = np.abs(by_name[self.by]) if self.by != "coactivation" else by_name[self.by].astype(np.float64)
        counts = size > 0 if self.by in cuts.EVIDENCE else np.ones(len(size), bool)
        if self.least:
            counts &= size >= self.least
        if self.live:
            counts &= by_name["coactivation"] > 0
        return np.where(counts, size, size.dtype.type(-1))

    def rests_on(self, own: Held, note: str) -> Envelope:
        """The envelope of an answer about these connections."""
        attrs = envelope([own], self.by, False, cuts.UNKNOWN) | {"note": note, "min": self.least or None}
        return attrs | ({"observation": own.observation} if self.evidence else {})

    @property
    def number(self) -> str:
        """What sizes are of, in words."""
        return self.by if self.by in ("share", "coactivation") else f"abs({self.by})"

    @property
    def said(self) -> str:
        """In words, behind a number of them."""
        known = [f"have {self.by}"] if self.by in cuts.EVIDENCE else []
        known += ["join what is active together"] if self.live else []
        return " and ".join(["connections that are kept", *known])
