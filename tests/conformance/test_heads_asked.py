"""What passes through heads, ordered and cut by what was seen on a text: on every store the same rows, and the true."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import atlas
import queries
from atlas.errors import BadSetting
from atlas.stores import Store, open_store
from atlas.through import VIA
from tests import toy_heads
from tests.conformance.conftest import Place
from tests.conformance.test_named import same
from tests.toy import Toy

Stage = Callable[..., Toy]
BY = ("z", "weight", "share", "drive", "twera", "coactivation")
SIGNS = {"both": 0, "+": 1, "-": -1}


class Seen:
    """Two stores with one observed set, and every edge through its heads as a plain row."""

    def __init__(self, store: Store, beside: Store, made: toy_heads.WithHeads, said: toy_heads.Seen) -> None:
        self.store, self.beside, self.made = store, beside, made
        self.rows: list[dict[str, Any]] = []
        for kind, edges in made.edges.items():
            if kind not in VIA:
                continue
            for source, target, weight, z, share, layer, head in edges:
                attended, _, drive, _, _, twera = said[kind][source, target, layer, head]
                one = {"kind": kind, "source": source, "target": target, "via": f"L{layer}H{head}", "weight": weight}
                self.rows.append(
                    one | {"z": z, "share": share, "coactivation": attended, "drive": drive, "twera": twera}
                )

    def expected(
        self, key: str, end: str, *, by: str, live: bool, sign: int = 0, via: str = "", least: float = 0.0
    ) -> list[tuple[str, str, float]]:
        """Other end, head and size of the edges at one ``end`` of a key, strongest first, by hand."""
        other = "source" if end == "target" else "target"
        found = []
        for row in self.rows:
            fires = row["drive"] is not None if row["kind"] == "PROMOTES_VIA" else (row["coactivation"] or 0) > 0
            size = row[by]
            if row[end] != key or size is None or (live and not fires) or (via and row["via"] != via):
                continue
            size = size if by == "coactivation" else abs(size)
            if row["weight"] * sign >= 0 and size >= least:
                found.append((row[other], row["via"], size))
        return sorted((row for row in found if row[2] >= 0), key=lambda row: (-row[2], row[0], row[1]))


@pytest.fixture
def seen(place: Place, stage: Stage, tmp_path: Path) -> Iterator[Seen]:
    made = toy_heads.add(stage())
    said = toy_heads.see(made)
    with place.writing() as store:
        store.create()
        store.add(made.build)
    atlas.load(made.build, tmp_path / "beside")
    with place.reading() as store, open_store(tmp_path / "beside") as beside:
        yield Seen(store, beside, made, said)


def compared(frame: pd.DataFrame, by: str, expected: list[tuple[str, str, float]]) -> None:
    column = "attended" if by == "coactivation" else by
    assert list(zip(frame["key"], frame["via"], strict=True)) == [row[:2] for row in expected]
    assert frame[column].abs().tolist() == pytest.approx([row[2] for row in expected], rel=1e-4)


def test_neighbours_through_heads_by_evidence_are_those_of_the_build_on_every_store(seen: Seen):
    feature, token = seen.made.toy.keys("Feature")[20], seen.made.toy.keys("Token")[4]
    rows = 0

    for key, (ask, end), by, live, sign in product(
        (feature, token), (("inputs", "target"), ("outputs", "source")), BY, (False, True), SIGNS
    ):
        given = {"of": "heads", "by": by, "live": live, "sign": sign, "k": 500}
        here, there = (getattr(queries, ask)(graph, key, **given) for graph in (seen.store, seen.beside))

        compared(here, by, seen.expected(key, end, by=by, live=live, sign=SIGNS[sign]))
        same(here, there)
        assert here.attrs["complete"] is there.attrs["complete"] is False
        evidence = live or by in BY[3:]
        assert ("observation" in here.attrs) == evidence == ("attended" in here)
        if evidence:
            assert here.attrs["observation"]["text"] == "text"
        rows += len(here)
    assert rows > 1000


def test_one_head_and_a_smallest_size_by_evidence(seen: Seen):
    attended = [row for row in seen.rows if row["kind"] != "PROMOTES_VIA" and (row["coactivation"] or 0) > 0]
    busiest = Counter((row["target"], row["via"]) for row in attended).most_common(5)
    every = above = 0

    for ((key, head), _), by in product(busiest, ("drive", "twera", "coactivation")):
        sizes = [row[2] for row in seen.expected(key, "target", by=by, live=True, via=head)]
        least = sizes[len(sizes) // 2]
        found = queries.inputs(seen.store, key, of=head, by=by, live=True, min=least * (1 - 1e-6), k=500)

        compared(found, by, seen.expected(key, "target", by=by, live=True, via=head, least=least))
        assert "stronger one was cut" in found.attrs["note"]
        nothing = queries.inputs(seen.store, key, of=head, by=by, live=True, min=1e6)
        assert nothing.empty
        assert not nothing.attrs["complete"]
        every, above = every + len(sizes), above + len(found)
    assert every > above + 3


NAMED = (
    "inputs_via",
    "outputs_via",
    "input_tokens_via",
    "output_tokens_via",
    "promoting_features_via",
    "token_features_via",
)


def test_the_named_queries_through_heads_have_evidence_and_the_same_rows_on_every_store(seen: Seen):
    feature, token = seen.made.toy.keys("Feature")[20], seen.made.toy.keys("Token")[4]
    rows = dict.fromkeys(NAMED, 0)

    for name, by, live, sign in product(NAMED, BY, (0, 1), (0, 1, -1)):
        key = token if name in ("promoting_features_via", "token_features_via") else feature
        asked = {"key": key, "by": by, "live": live, "sign": sign, "limit": 500}
        here, there = (queries.query(graph, name, **asked) for graph in (seen.store, seen.beside))
        same(here, there)
        assert here.attrs == there.attrs
        assert list(here)[-3:] == ["attended", "drive", "twera"]
        rows[name] += len(here)
    assert all(rows.values()), rows
    for by, live in product(BY, (0, 1)):
        asked = {"set": "toy/tc-40", "layer": 2, "head": 1, "by": by, "live": live, "limit": 500}
        here, there = (queries.query(graph, "head_traffic", **asked) for graph in (seen.store, seen.beside))
        same(here, there)
        pairs = [
            row
            for row in seen.rows
            if row["kind"] == "FEEDS_VIA" and row["via"] == "L2H1" and not (live and (row["coactivation"] or 0) <= 0)
        ]
        sizes = {(row["source"], row["target"]): row[by] for row in pairs if row[by] is not None}
        wanted = {ends for ends, size in sizes.items() if by != "coactivation" or size >= 0}
        assert {*zip(here["source"], here["target"], strict=True)} == wanted
        assert len(wanted) > 3


def test_a_circuit_through_heads_grows_along_what_is_strongest_by_evidence(seen: Seen):
    key = seen.made.toy.keys("Feature")[33]

    for by in ("drive", "twera", "coactivation"):
        here, there = (
            queries.circuit(graph, key, depth=2, width=6, via="heads", by=by, live=True)
            for graph in (seen.store, seen.beside)
        )
        same(here.nodes, there.nodes)
        same(here.edges, there.edges)
        stored = {(row["source"], row["target"], row["via"]): row[by] for row in seen.rows}
        through = here.edges[here.edges["via"] != ""]
        assert len(through) > 3
        for edge in through.itertuples():
            assert math.isclose(getattr(edge, by), stored[edge.source, edge.target, edge.via], rel_tol=1e-4)
        assert here.attrs["observation"]["text"] == "text"
        assert not here.attrs["complete"]


def test_what_was_observed_without_heads_and_paths_through_them_are_refused_in_one_line(place: Place, stage: Stage):
    made = toy_heads.add(stage())
    toy_heads.see(made, heads=False)
    key, first = made.toy.keys("Feature")[33], made.toy.keys("Feature")[0]
    with place.writing() as store:
        store.create()
        store.add(made.build)
    with place.reading() as store:
        for ask in (queries.inputs, queries.outputs):
            for given in ({"by": "drive"}, {"live": True}):
                with pytest.raises(BadSetting, match="'seen' of toy/tc-40 says nothing of attention heads"):
                    ask(store, key, of="heads", **given)
        with pytest.raises(BadSetting, match="says nothing of attention heads"):
            queries.query(store, "inputs_via", key=key, by="drive")
        with pytest.raises(BadSetting, match="says nothing of attention heads"):
            queries.circuit(store, key, via="heads", by="twera")
        with pytest.raises(BadSetting, match="paths through heads go by z, weight or share"):
            queries.paths(store, first, key, via="heads", by="drive")
        assert len(queries.inputs(store, key, of="heads", by="weight"))
