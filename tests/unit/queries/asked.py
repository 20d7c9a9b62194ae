"""What every test of a question is given: an open atlas and the truth about what is in it."""

from __future__ import annotations

from dataclasses import dataclass

from atlas.stores import Store
from tests.toy import Toy


@dataclass(frozen=True)
class Asked:
    """Two models that share a vocabulary, each with a set of its own."""

    graph: Store
    toy: Toy
    other: Toy
