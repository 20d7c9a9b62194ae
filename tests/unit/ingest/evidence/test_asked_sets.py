"""Questions about a whole set by what was seen: shapes, hubs, matrices and named queries, against every combination."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest

import queries
from atlas.errors import BadQuery, BadSetting
from queries import present, shapes
from queries.neighbours import BY
from tests.unit.ingest.evidence.observed import EDGES, signed_edges
from tests.unit.queries.occurring import Case, occurrences


def numbered(graph, tiny, by: str, *, live: bool) -> tuple[Case, list[str]]:
    table = graph.run(EDGES)
    keys = tiny.build.keys("Feature").to_pylist()
    number = {key: at for at, key in enumerate(keys)}
    edges = signed_edges(table.query("coactivation > 0") if live else table, by)
    return Case(list(tiny.build.features_per_layer), {(number[a], number[b]): x for (a, b), x in edges.items()}), keys


def cut_at(case: Case, least: float) -> Case:
    return Case(case.sizes, {ends: size for ends, size in case.edges.items() if abs(size) >= least})


@pytest.mark.parametrize(("by", "live"), [("z", True), ("drive", False), ("drive", True), ("twera", False)])
def test_motifs_count_only_what_is_active_together_or_has_the_number_asked_for(graph, tiny, by: str, live: bool):
    case, _ = numbered(graph, tiny, by, live=live)
    least = float(np.quantile(np.abs(list(case.edges.values())), 0.3))
    case = cut_at(case, np.float32(least))

    found = queries.motifs(graph, by=by, live=live, samples=5, min=least)
    by_shape = found.set_index("shape")

    counts = {shape: len(occurrences(case, shape)) for shape in shapes.SHAPES}
    assert by_shape["count"].to_dict() == counts
    assert counts["feed-forward-loop"] > 0
    assert by_shape["count"].sum() < queries.motifs(graph, samples=0)["count"].sum()
    # rewiring keeps what each feature reads and feeds, of what counts alone: so what does not close stays open
    loops = by_shape.loc["feed-forward-loop"]
    assert by_shape.loc["chain", "count"] + loops["count"] == by_shape.loc["chain", "expected"] + loops["expected"]
    assert found.attrs["note"].startswith(f"{len(case.edges):,} connections that are kept and ")
    assert found.attrs["observation"]["text"] == "windows-0.npy"


@pytest.mark.parametrize("by", ["z", "drive", "twera", "coactivation"])
@pytest.mark.parametrize("shape", ["feed-forward-loop", "fan-in"])
def test_instances_by_evidence_are_the_strongest_of_all_that_are_active_together(graph, tiny, by: str, shape: str):
    case, keys = numbered(graph, tiny, by, live=True)
    best = sorted((math.prod(abs(case.edges[ends]) for ends in joined) for _, joined in occurrences(case, shape)))[::-1]
    of_nodes = dict(occurrences(case, shape))

    found = queries.motif_instances(graph, shape=shape, k=4, by=by, live=True)

    assert list(found["score"]) == pytest.approx(best[:4], rel=1e-5)
    for row in found.itertuples():
        joined = of_nodes[tuple(keys.index(key) for key in row.keys)]
        np.testing.assert_allclose(np.abs(getattr(row, by)), [abs(case.edges[ends]) for ends in joined], rtol=1e-6)
    assert found.attrs["score"] == f"product of {by if by == 'coactivation' else f'abs({by})'}"
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert "A → " in present.instances_text(found)


def test_hubs_of_what_is_active_together_have_those_readers_alone(graph):
    readers = graph.run(EDGES).query("coactivation > 0")["source"].value_counts()

    found = queries.hubs(graph, live=True, k=500)

    assert dict(zip(found["key"], found["readers"], strict=True)) == readers.to_dict() | {
        key: 0 for key in found["key"] if key not in readers
    }
    assert found.attrs["observation"]["text"] == "windows-0.npy"


@pytest.mark.parametrize("of", ["z", "drive", "twera", "coactivation"])
@pytest.mark.parametrize("by", ["readers", "sources", "through"])
def test_hubs_by_evidence_have_the_largest_sums_of_it(graph, of: str, by: str):
    table = graph.run(EDGES).query("coactivation > 0")
    sizes = table[of].abs()
    least = float(np.float32(sizes[sizes > 0].quantile(0.2)))
    table = table[sizes >= least].assign(size=sizes)
    sums = {name: table.groupby(end)["size"].sum() for name, end in (("readers", "source"), ("sources", "target"))}
    sums["through"] = (sums["readers"] * sums["sources"]).dropna()
    expected = sums[by].sort_values(ascending=False)

    found = queries.hubs(graph, by=by, of=of, live=True, min=least, k=500)

    assert dict(zip(found["key"], found["sum"], strict=True)) == pytest.approx(expected.to_dict(), rel=1e-4)
    assert found["sum"].is_monotonic_decreasing
    count = table["source"].value_counts()
    assert all(row.readers == count.get(row.key, 0) for row in found.itertuples())
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert "summed" in found.attrs["score"]


def between(key: str) -> tuple[int, int]:
    return int(key.split("/")[1].split("-")[0]), int(key.rpartition("/")[2])


@pytest.mark.parametrize(("of", "live"), [*product(BY, [False, True])])
def test_a_matrix_holds_any_number_of_what_is_active_together(graph, of: str, live: bool):
    table = graph.run(EDGES)
    table = table.query("coactivation > 0") if live else table
    least = float(table[of].abs().median())
    by_cell = {(between(e.target)[1], between(e.source)[1]): getattr(e, of) for e in table.itertuples() if joins(e)}
    expected = {cell: value for cell, value in by_cell.items() if not math.isnan(value) and abs(value) >= least}

    found = queries.matrix(graph, "tiny/tc-test", 0, 2, of=of, live=live, min=least).tocoo()

    cells = zip(found.row.tolist(), found.col.tolist(), strict=True)
    assert dict(zip(cells, found.data.tolist(), strict=True)) == expected
    assert 0 < len(expected) < len(by_cell)


def joins(edge) -> bool:
    return (between(edge.source)[0], between(edge.target)[0]) == (0, 2)


def ranked(table: pd.DataFrame, by: str, live: bool, least: float) -> pd.DataFrame:
    """What a question by a number is about, strongest first, ties by key."""
    size = table[by].abs()
    chosen = table.assign(size=size)[(size >= least) & ((table["coactivation"] > 0) | (not live))]
    return chosen.sort_values(["size", "source", "target"], ascending=[False, True, True], kind="stable")


@pytest.mark.parametrize(("by", "live"), [*product(BY, [0, 1])])
def test_named_queries_order_and_cut_by_any_number(graph, by: str, live: int):
    table = graph.run(EDGES)
    least = float(table[by].abs().quantile(0.3))
    order = {"by": by, "live": live, "limit": 1_000_000, "min": least}

    found = queries.query(graph, "strongest_edges", set="tiny/tc-test", source_layer=0, target_layer=2, **order)
    best = ranked(table[[joins(e) for e in table.itertuples()]], by, bool(live), least)
    assert list(zip(found["source"], found["target"], strict=True)) == list(
        zip(best["source"], best["target"], strict=True)
    )
    assert len(best) > 3

    key = table["target"].value_counts().index[0]
    found = queries.query(graph, "neighbourhood", key=key, **order)
    around = ranked(table[(table["source"] == key) | (table["target"] == key)], by, bool(live), least)
    assert sorted(found["key"]) == sorted(
        row.source if row.target == key else row.target for row in around.itertuples()
    )
    assert [abs(x) for x in found["n_both" if by == "coactivation" else by]] == pytest.approx(list(around["size"]))

    found = queries.query(graph, "hubs", set="tiny/tc-test", **order)
    counted = ranked(table, by, bool(live), least).groupby("source")["size"].agg(["count", "mean"])
    assert dict(zip(found["key"], found["readers"], strict=True)) == counted["count"].to_dict()
    assert dict(zip(found["key"], found["mean_size"], strict=True)) == pytest.approx(counted["mean"].to_dict())
    assert ("observation" in found.attrs) == (by in ("drive", "twera", "coactivation") or bool(live))


@pytest.mark.parametrize(("by", "live"), [*product(BY, [0, 1])])
def test_two_step_paths_multiply_any_number(graph, by: str, live: int):
    table = graph.run(EDGES)
    pairs = table.merge(table, left_on="target", right_on="source", suffixes=("_in", "_out"))
    ends = pairs.query("coactivation_in > 0 and coactivation_out > 0").groupby(["source_in", "target_out"]).size()
    source, target = ends.idxmax()
    chosen = pairs[(pairs["source_in"] == source) & (pairs["target_out"] == target)]
    if live:
        chosen = chosen.query("coactivation_in > 0 and coactivation_out > 0")
    sign = np.sign(chosen["weight_in"].astype(float) * chosen["weight_out"])
    product_ = (chosen[f"{by}_in"].abs().astype(float) * chosen[f"{by}_out"].abs() * sign).dropna()
    expected = dict(zip(chosen.loc[product_.index, "target_in"], product_, strict=True))

    found = queries.query(graph, "two_step_paths", source=source, target=target, by=by, live=live)

    assert dict(zip(found["key"], found["product"], strict=True)) == pytest.approx(expected, rel=1e-5)
    assert found["product"].abs().is_monotonic_decreasing
    assert len(expected) > 1


TOKENS = """
MATCH (t:Token)-[e:ACTIVATES]->(f:Feature)
RETURN t.key AS token, f.key AS key, e.weight AS weight, e.z AS z, e.share AS share, e.drive_active AS drive,
  e.twera AS twera, e.n_both AS coactivation
"""


@pytest.mark.parametrize(("by", "live"), [*product(BY, [0, 1])])
def test_shared_tokens_are_ranked_by_the_weaker_tie_in_any_number(graph, by: str, live: int):
    table = graph.run(TOKENS)
    both = table.merge(table, on="token", suffixes=("_a", "_b")).query("key_a < key_b")
    alive = both.query("coactivation_a > 0 and coactivation_b > 0")
    a, b = alive.groupby(["key_a", "key_b"]).size().idxmax()
    chosen = (alive if live else both).query("key_a == @a and key_b == @b")
    weaker = chosen[[f"{by}_a", f"{by}_b"]].abs().min(axis=1, skipna=False)
    expected = dict(zip(chosen["token"], weaker, strict=True))

    found = queries.query(graph, "shared_tokens", a=a, b=b, by=by, live=live)

    assert dict(zip(found["key"], found["score"], strict=True)) == pytest.approx(
        {token: score for token, score in expected.items() if not math.isnan(score)}, rel=1e-6
    )
    assert found["score"].is_monotonic_decreasing
    assert not found.empty


@pytest.mark.parametrize(("of", "live"), [("drive", False), ("twera", True), ("coactivation", False), ("z", True)])
def test_features_alike_by_evidence_have_the_cosine_of_it(graph, of: str, live: bool):
    tables = [graph.run(EDGES).rename(columns={"source": "from", "target": "key"}), graph.run(TOKENS)]
    every = pd.concat([tables[0], tables[1].rename(columns={"token": "from"})])
    every = every.query("coactivation > 0") if live else every
    every = every[every[of].notna()]
    profile = {key: dict(zip(rows["from"], rows[of].astype(float), strict=True)) for key, rows in every.groupby("key")}
    key = max(profile, key=lambda name: len(profile[name]))

    def cosine(one: dict[str, float], other: dict[str, float]) -> float:
        lengths = math.sqrt(sum(x * x for x in one.values()) * sum(x * x for x in other.values()))
        return sum(x * other[name] for name, x in one.items() if name in other) / (lengths or 1)

    found = queries.similar(graph, key, of=of, live=live, k=5)

    scores = sorted((cosine(profile[key], theirs) for name, theirs in profile.items() if name != key), reverse=True)
    for row in found.itertuples():
        assert row.score == pytest.approx(cosine(profile[key], profile[row.key]), rel=1e-4)
    # looked at are those that share a strong neighbour, which in so small a set are nearly all
    assert found["score"].iloc[0] == pytest.approx(scores[0], rel=1e-4)
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert found.attrs["score"] == f"cosine of {of}"


@pytest.mark.parametrize(("by", "live"), [("drive", True), ("twera", False), ("coactivation", False), ("weight", True)])
@pytest.mark.parametrize("width", [100, 80])
def test_a_card_by_evidence_lists_the_strongest_by_it(graph, by: str, live: bool, width: int):
    key = graph.run(EDGES).query("coactivation > 0")["target"].value_counts().index[0]

    card = queries.card(graph, key, k=3, by=by, live=live)
    shown = present.card_text(card, width=width)

    for side in ("inputs", "outputs"):
        parts = [getattr(queries, side)(graph, key, of=of, k=3, by=by, live=live) for of in ("tokens", "features")]
        assert list(card[side]["key"]) == [name for part in parts for name in part["key"]]
    assert card["observation"]["text"] == "windows-0.npy"
    assert by in shown.splitlines()[[line.startswith(" READS") for line in shown.splitlines()].index(True)]
    assert "windows-0.npy" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_word_that_a_named_query_does_not_know_is_refused_and_not_taken_for_z(graph, unseen):
    ends = {"source_layer": 0, "target_layer": 2}

    with pytest.raises(BadQuery, match="by is 'twerra'; it is one of z, weight, share, drive, twera, coactivation"):
        queries.query(graph, "strongest_edges", set="tiny/tc-test", by="twerra", **ends)
    with pytest.raises(BadQuery, match=r"by is 'drive'; it is one of z, weight, share$"):
        queries.query(graph, "predicted_tokens", key="tok:words/1", by="drive")
    with pytest.raises(BadSetting, match="'seen' of tiny/tc-test says nothing of attention heads"):
        queries.query(graph, "head_traffic", set="tiny/tc-test", layer=0, head=0, by="drive")
    for given in ({"by": "drive"}, {"live": 1}):
        with pytest.raises(BadSetting, match="atlas observe tiny/tc-test --text"):
            queries.query(unseen, "strongest_edges", set="tiny/tc-test", **ends, **given)


def test_no_question_about_evidence_is_answered_without_any(unseen, tiny):
    key = tiny.build.keys("Feature")[-1].as_py()

    for ask in (
        partial(queries.hubs, of="drive"),
        partial(queries.hubs, live=True),
        partial(queries.matrix, set_key="tiny/tc-test", source_layer=0, target_layer=2, of="twera"),
        partial(queries.matrix, set_key="tiny/tc-test", source_layer=0, target_layer=2, live=True),
        partial(queries.similar, key=key, of="drive"),
        partial(queries.similar, key=key, live=True),
        partial(queries.card, key=key, by="coactivation"),
    ):
        with pytest.raises(BadSetting, match="atlas observe tiny/tc-test --text"):
            ask(unseen)
    with pytest.raises(BadSetting, match="no matter of connections"):
        queries.similar(unseen, key, by="encoder", of="drive")
