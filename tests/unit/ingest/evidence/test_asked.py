"""Questions by what was seen: ordered by drive and TWERA, cut to what is live, with examples and what fires."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers.pre_tokenizers import WhitespaceSplit

import atlas
import queries
from atlas.errors import BadBuild, BadKey, BadSetting
from atlas.model import Activation, ReadSite, WriteSite
from ingest.evidence import surface
from ingest.evidence.observe import Options, observe
from queries import present
from tests.unit.ingest.evidence.observed import dense, ids_file, subject
from tests.unit.queries.walks import walks

STRONGEST = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ATLAS_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def tiny(home: Path):
    return subject(home, "gpt2", activation=Activation.RELU, read=ReadSite.NORM_POST_GAIN, write=WriteSite.MLP_RAW)


@pytest.fixture(scope="module")
def unseen(tiny, home: Path):
    atlas.load(tiny.build, home / "unseen")
    with atlas.open(home / "unseen") as graph:
        yield graph


@pytest.fixture(scope="module")
def graph(tiny, unseen, home: Path):
    observe(tiny, ids_file(home), Options(examples=4, strongest=STRONGEST), name="seen")
    atlas.load(tiny.build, home / "seen")
    with atlas.open(home / "seen") as opened:
        yield opened


@pytest.fixture(scope="module")
def truth(tiny, graph, home: Path):
    return dense(tiny, ids_file(home))


def busiest(tiny, truth) -> tuple[str, int]:
    """A feature of the last layer that fires often."""
    row = int(np.argmax((truth.a > 0).sum(0) * (truth.layer == 2)))
    return tiny.build.keys("Feature")[row].as_py(), row


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
        assert found.attrs["observation"]["text"] == "windows-0.npy"
        assert found[by].abs().is_monotonic_decreasing
        beyond = queries.inputs(graph, key, of="features", by=by, k=200)
        assert not beyond.attrs["complete"]


def test_live_leaves_out_what_is_never_active_together(graph, tiny, truth):
    key, _ = busiest(tiny, truth)

    everything = queries.inputs(graph, key, k=500)
    alive = queries.inputs(graph, key, k=500, live=True)

    assert set(alive["key"]) < set(everything["key"])
    assert (alive["n_both"] > 0).all()
    assert "n_both" not in everything
    together = queries.inputs(graph, key, k=500, by="coactivation")
    assert together["n_both"].is_monotonic_decreasing


EDGES = """
MATCH (a:Feature)-[e:FEEDS]->(b:Feature)
RETURN a.key AS source, b.key AS target, e.weight AS weight, e.drive_active AS drive, e.twera AS twera,
  e.n_both AS coactivation
"""


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
        assert found.attrs["observation"]["text"] == "windows-0.npy"
        deeper = queries.circuit(graph, key, depth=2, width=2, by=by)
        assert len(deeper.edges) > 2
        assert deeper.nodes["score"].iloc[0] == 1.0
    start = queries.inputs(graph, key, of="features", k=1, by="drive")["key"].iloc[0]
    between = queries.circuit(graph, start, to=key, by="drive", live=True)
    (score,) = between.nodes.loc[between.nodes["key"] == key, "score"]
    assert score == pytest.approx(abs(queries.paths(graph, start, key, k=1, by="drive", live=True)["score"].iloc[0]))


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
    into = queries.paths(graph, key, token, by="drive", live=True)
    out = queries.paths(graph, token, key, by="twera", live=True)
    assert into.attrs["score"] == out.attrs["score"] == "product"


def test_a_question_about_evidence_without_any_says_what_to_do(unseen, tiny):
    key = tiny.build.keys("Feature")[-1].as_py()

    for given in ({"by": "drive"}, {"by": "twera"}, {"live": True}):
        first = tiny.build.keys("Feature")[0].as_py()
        for ask, keys in ((queries.inputs, (key,)), (queries.circuit, (key,)), (queries.paths, (first, key))):
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
