"""Questions by what was seen: ordered by drive and TWERA, cut to what is live, with examples and what fires."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial, reduce
from itertools import combinations, pairwise

import numpy as np
import pytest
from tokenizers.pre_tokenizers import WhitespaceSplit

import queries
from atlas.errors import BadBuild, BadKey, BadSetting
from ingest.evidence import surface
from queries import present
from queries.present_text import signed
from tests.unit.ingest.evidence.observed import EDGES, STRONGEST, busiest, signed_edges
from tests.unit.queries.walks import walks


def test_inputs_by_drive_and_twera_are_the_strongest_of_all_features_kept_or_not(graph, tiny, truth):
    key, row = busiest(tiny, truth)
    keys = tiny.build.keys("Feature").to_pylist()
    live = truth.live & (truth.layer < 2)
    mean_active = np.array([a[a > 0].mean() if (a > 0).any() else 0 for a in truth.a.T])
    scores = {
        "drive": truth.weights[:, row] * mean_active * live,
        "twera": truth.weights[:, row] * (truth.a.T @ truth.a[:, row]) * live,
    }

    for by, score in scores.items():
        found = queries.inputs(graph, key, of="features", by=by, k=STRONGEST)

        best = np.argsort(-np.abs(score), kind="stable")[:STRONGEST]
        assert found["key"].tolist() == [keys[i] for i in best]
        assert found.attrs["complete"]
        assert "of sources that are live" in found.attrs["note"]
        assert found.attrs["observation"]["text"] == "windows-0.npy"
        assert found[by].abs().is_monotonic_decreasing
        beyond = queries.inputs(graph, key, of="features", by=by, k=200)
        assert not beyond.attrs["complete"]


def test_by_evidence_no_answer_about_a_feature_that_hardly_fires_is_called_complete_unless_it_is(graph, tiny, truth):
    keys = tiny.build.keys("Feature").to_pylist()
    mean_active = np.array([a[a > 0].mean() if (a > 0).any() else 0 for a in truth.a.T])
    missed = 0

    for row in np.flatnonzero(~truth.live & (truth.layer > 0)).tolist():
        scores = {
            "drive": truth.weights[:, row] * mean_active,
            "twera": truth.weights[:, row] * (truth.a.T @ truth.a[:, row]) / max(truth.a[:, row].sum(), 1e-300),
        }
        for by, score in scores.items():
            found = queries.inputs(graph, keys[row], of="features", by=by, k=2)
            best = [keys[i] for i in np.argsort(-np.abs(score), kind="stable")[:2] if score[i]]
            missed += found["key"].tolist() != best
            assert not found.attrs["complete"] or found["key"].tolist() == best

    assert missed, "no target that is not live has a stronger source than those kept: nothing was tried"


def test_live_leaves_out_what_is_never_active_together(graph, tiny, truth):
    key, _ = busiest(tiny, truth)

    everything = queries.inputs(graph, key, k=500)
    alive = queries.inputs(graph, key, k=500, live=True)

    assert set(alive["key"]) < set(everything["key"])
    assert (alive["n_both"] > 0).all()
    assert "n_both" not in everything
    together = queries.inputs(graph, key, k=500, by="coactivation")
    assert together["n_both"].is_monotonic_decreasing


@pytest.mark.parametrize("by", ["drive", "twera", "coactivation"])
@pytest.mark.parametrize("score", ["product", "bottleneck"])
def test_paths_by_evidence_are_the_best_of_all_paths_of_what_is_active_together(graph, tiny, truth, by, score):
    end, _ = busiest(tiny, truth)
    table = graph.run(EDGES).query("coactivation > 0")
    edges = {(e.source, e.target): float(np.copysign(abs(getattr(e, by)), e.weight)) for e in table.itertuples()}
    starts = table.loc[table["target"] == end, "source"]
    start = next(key for key in table.loc[table["target"].isin(starts), "source"] if (key, end) in edges)

    found = queries.paths(graph, start, end, k=50, score=score, by=by, live=True)

    every = walks(edges, start, end)
    size = min if score == "bottleneck" else (lambda x, y: x * y)
    expected = sorted((reduce(size, map(abs, walk.weights)) for walk in every), reverse=True)[:50]
    assert len(expected) > 1
    np.testing.assert_allclose(found["score"].abs(), expected, rtol=1e-5)
    for path in found.itertuples():
        steps = list(pairwise(path.keys))
        np.testing.assert_allclose(getattr(path, by), [abs(edges[step]) for step in steps], rtol=1e-6)
        assert np.sign(path.score) == np.prod([np.sign(edges[step]) for step in steps])
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert found.attrs["weight"] == by
    least = float(np.median([min(sizes) for sizes in found[by]]))
    bounded = queries.paths(graph, start, end, k=50, score=score, by=by, live=True, min=least)
    assert len(bounded) == sum(min(sizes) >= least for sizes in found[by])


def test_a_circuit_by_evidence_grows_along_the_strongest_by_it(graph, tiny, truth):
    key, _ = busiest(tiny, truth)

    for by in ("drive", "twera"):
        found = queries.circuit(graph, key, depth=1, width=STRONGEST, by=by, live=True)
        best = queries.inputs(graph, key, k=STRONGEST, by=by, live=True)
        assert set(found.edges["source"]) == set(best["key"])
        sizes = dict(zip(best["key"], best[by], strict=True))
        assert found.edges.set_index("source")[by].to_dict() == sizes
        shown = [line.split()[1] for line in present.circuit_as("text", found).splitlines() if line[:1] in ("├", "└")]
        assert shown == [signed(size) for size in sorted(sizes.values(), key=abs, reverse=True)]
        assert found.attrs["observation"]["text"] == "windows-0.npy"
        deeper = queries.circuit(graph, key, depth=2, width=2, by=by)
        assert len(deeper.edges) > 2
        assert deeper.nodes["score"].iloc[0] == 1.0
    start = queries.inputs(graph, key, of="features", k=1, by="drive")["key"].iloc[0]
    between = queries.circuit(graph, start, to=key, by="drive", live=True)
    assert (between.edges["drive"] * between.edges["weight"] > 0).all()
    (score,) = between.nodes.loc[between.nodes["key"] == key, "score"]
    assert score == pytest.approx(abs(queries.paths(graph, start, key, k=1, by="drive", live=True)["score"].iloc[0]))


@pytest.mark.parametrize("by", ["drive", "twera", "coactivation"])
@pytest.mark.parametrize("total", [False, True])
def test_reach_by_evidence_is_what_all_paths_of_what_is_active_together_say(graph, by: str, total: bool):
    table = graph.run(EDGES).query("coactivation > 0")
    edges = signed_edges(table, by)
    start = table["source"].value_counts().index[0]
    least = float(np.quantile(np.abs(list(edges.values())), 0.2))
    by_end = defaultdict(list)
    for walk in walks({ends: size for ends, size in edges.items() if abs(size) >= least}, start):
        by_end[walk.nodes[-1]].append(math.prod(walk.weights))
    expected = {end: sum(scores) if total else max(scores, key=abs) for end, scores in by_end.items()}

    found = queries.reach(graph, start, by=by, live=True, total=total, min=least, k=500)
    everything = queries.reach(graph, start, total=total, k=500)

    assert dict(zip(found["key"], found["score"], strict=True)) == pytest.approx(expected, rel=1e-4)
    assert max(map(len, by_end.values())) > 1
    assert set(found["key"]) < set(everything["key"])
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert found.attrs["weight"] == by
    assert not found.attrs["complete"]
    assert "observation" not in everything.attrs


@pytest.mark.parametrize("by", ["drive", "twera", "coactivation", "z"])
@pytest.mark.parametrize("of", ["inputs", "outputs"])
def test_what_nodes_share_by_evidence_is_ranked_by_the_weakest_tie_that_is_live(graph, by: str, of: str):
    here, there = ("target", "source") if of == "inputs" else ("source", "target")
    table = graph.run(EDGES)
    sides = table.groupby(here)[there].agg(set)
    live = table.query("coactivation > 0").groupby(here)[there].agg(set)

    def shared(pair: tuple[str, str]) -> tuple[int, tuple[str, str]]:
        alive, every = (one[pair[0]] & one[pair[1]] for one in (live, sides))
        return min(len(alive), len(every - alive)), pair

    a, b = max(combinations(live.index, 2), key=shared)
    size = table.set_index([here, there])[by].abs()
    expected = {key: float(min(size[a, key], size[b, key])) for key in live[a] & live[b]}

    found = queries.common(graph, [a, b], of=of, by=by, live=True, k=500)
    named = queries.query(graph, f"common_{of}", a=a, b=b, by=by, live=1)
    strong = queries.common(graph, [a, b], of=of, by=by, live=True, k=500, min=max(expected.values()))

    features = found[found["type"] == "Feature"]
    for rows in (features, named):
        assert dict(zip(rows["key"], rows["score"], strict=True)) == pytest.approx(expected, rel=1e-6)
        assert rows["score"].is_monotonic_decreasing
    assert found["score"].is_monotonic_decreasing
    assert 0 < len(strong) == (found["score"] >= max(expected.values())).sum()
    assert (live[a] & live[b]) < (sides[a] & sides[b])
    assert found.attrs["observation"]["text"] == "windows-0.npy"
    assert found.attrs["weight"] == by
    assert by == "z" or not found.attrs["complete"]


def test_an_order_that_does_not_fit_is_refused_in_one_line(graph, tiny, truth):
    key, _ = busiest(tiny, truth)
    first = tiny.build.keys("Feature")[0].as_py()
    token = "token:'word3'"

    for given, said in (
        ({"by": "twera"}, "a logit does not fire"),
        ({"score": "share", "by": "drive"}, "product of shares"),
        ({"by": "luck"}, "by"),
    ):
        with pytest.raises(BadSetting, match=said):
            queries.paths(graph, first, token if given.get("by") == "twera" else key, **given)
        if given.get("by") != "twera":
            with pytest.raises(BadSetting, match=said):
                queries.reach(graph, first, **given)
    for ask in (
        partial(queries.common, keys=[first, key]),
        queries.motifs,
        partial(queries.motif_instances, shape="chain"),
    ):
        with pytest.raises(BadSetting, match="by is 'luck'; it is one of z, weight"):
            ask(graph, by="luck")
    into = queries.paths(graph, key, token, by="drive", live=True)
    out = queries.paths(graph, token, key, by="twera", live=True)
    assert into.attrs["score"] == out.attrs["score"] == "product"


def test_a_question_about_evidence_without_any_says_what_to_do(unseen, tiny):
    key = tiny.build.keys("Feature")[-1].as_py()

    for given in ({"by": "drive"}, {"by": "twera"}, {"live": True}):
        first = tiny.build.keys("Feature")[0].as_py()
        for ask, keys in (
            (queries.inputs, (key,)),
            (queries.circuit, (key,)),
            (queries.paths, (first, key)),
            (queries.reach, (first,)),
            (queries.common, ([first, key],)),
            (queries.motifs, ()),
            (partial(queries.motif_instances, shape="chain"), ()),
        ):
            with pytest.raises(BadSetting, match="atlas observe tiny/tc-test --text"):
                ask(unseen, *keys, **given)
    assert queries.card(unseen, key)["evidence"] is None


def test_examples_and_the_card_show_where_a_feature_fires(graph, tiny, truth):
    key, row = busiest(tiny, truth)

    found = queries.examples(graph, key, k=3)
    card = queries.card(graph, key)

    assert found["value"].iloc[0] == pytest.approx(truth.a[:, row].max(), rel=1e-6)
    for example in found.itertuples():
        assert max(example.activations) >= example.value
        assert example.text.count("[") == 1
        assert f"[{example.tokens[example.position]}]" in example.text
    assert card["evidence"]["n_fires"] == (truth.a[:, row] > 0).sum()
    assert sum(card["evidence"]["histogram"]["counts"]) == card["evidence"]["n_fires"]
    shown = present.card_text(card)
    mass = np.bincount(truth.token, weights=truth.a[:, row])
    (first, *_) = card["evidence"]["top_tokens"]
    assert first["text"] == tiny.build.nodes("Token")["text"][int(mass.argmax())].as_py()
    assert first["share"] == pytest.approx(mass.max() / mass.sum(), rel=1e-5)
    assert f'mostly on "{first["text"]}" {first["share"]:.0%}' in shown
    assert "FIRES" in shown
    assert f"{card['evidence']['density']:.2%}" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert "[" in present.examples_text(found)
    with pytest.raises(BadKey, match="only features fire"):
        queries.examples(graph, "token:'word3'")
    with pytest.raises(BadBuild, match="no observation 'other'"):
        queries.examples(graph, key, observation="other")


def test_what_fires_on_a_sentence_is_what_the_model_computes_and_which_stored_edges_join_it(graph, tiny):
    tiny.tokenizer.backend_tokenizer.pre_tokenizer = WhitespaceSplit()

    fires = surface.fires(tiny, "word3 word4 word5")
    found = queries.fired(graph, fires, k=2)
    edges = queries.fired_edges(graph, fires, k=4)

    assert found["token"].unique().tolist() == ["word3", "word4", "word5"]
    assert (found.groupby("position").size() <= 2).all()
    value = {(int(f.position), int(f.feature)): f.value for f in fires.itertuples()}
    rows = {key: row for row, key in enumerate(tiny.build.keys("Feature").to_pylist())}
    for edge in edges.itertuples():
        assert edge.contribution == pytest.approx(edge.weight * value[edge.position, rows[edge.source]], rel=1e-5)
        assert (edge.position, rows[edge.target]) in value
    assert len(edges)
