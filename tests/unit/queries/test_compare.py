"""Features of two sets that stand for each other: a disguised copy is seen through, a stranger is not mistaken."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import atlas
import queries
from atlas.errors import AtlasError, BadKey, BadSetting
from atlas.stores import Store
from queries import alike
from tests import toy
from tests.toy import Toy
from tests.toy_weights import within_layers
from tests.unit.exchange.builds import say
from tests.unit.queries.test_hostile import NASTY

SIZES = (60, 45, 35)
SAME = {"sizes": SIZES, "n_tokens": 90, "density": 0.12, "seed": 1}
SEED = 7
NOISE = 0.2
WORDS = ("rabbit hole", "queen of hearts", "tea party", "grin of the cat", "mock turtle soup")


@dataclass(frozen=True)
class Sets:
    graph: Store
    place: Path
    original: Toy
    copy: Toy
    partly: Toy
    """a copy whose last layer is drowned in noise"""
    foreign: Toy
    """a copy under another vocabulary"""
    stranger: Toy


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sets]:
    folder = tmp_path_factory.mktemp("compare")
    made = {
        "original": toy.write(folder / "a", model="original", **SAME),
        "copy": toy.write(folder / "b", model="copy", copied=(SEED, (NOISE,) * 3), **SAME),
        "partly": toy.write(folder / "c", model="partly", copied=(SEED, (NOISE, NOISE, 30.0)), **SAME),
        "foreign": toy.write(folder / "d", model="foreign", vocabulary="others", copied=(SEED, (NOISE,) * 3), **SAME),
        "stranger": toy.write(folder / "e", model="stranger", **(SAME | {"seed": 2})),
    }
    order = within_layers(SIZES, SEED)
    say(made["original"], "atlas", {row: WORDS[row % 5] + f" {row}" for row in range(0, 140, 3)})
    said = {new: WORDS[old % 5] + f" {old}" for new, old in enumerate(order.tolist()) if old % 3 == 0}
    say(made["copy"], "atlas", said)
    for one in made.values():
        atlas.load(one.build, folder / "atlas")
    with atlas.open(folder / "atlas") as graph:
        yield Sets(graph, folder / "atlas", **made)


def truth(one: Toy, other: Toy) -> dict[str, str]:
    """What each feature of a copy is in the original, by key: of the original to the copy's."""
    order = within_layers(SIZES, SEED)
    keys, there = one.keys("Feature"), other.keys("Feature")
    return {keys[old]: there[new] for new, old in enumerate(order.tolist())}


def profiles(one: Toy, kind: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for source, target, _, z, _ in one.edges[kind]:
        token, feature = (source, target) if kind == "ACTIVATES" else (target, source)
        found[feature][token] = z
    return found


def cosines(one: Toy, other: Toy) -> np.ndarray:
    """The mean of two cosines for every pair of features, by hand."""
    total = np.zeros((len(one.keys("Feature")), len(other.keys("Feature"))))
    for kind in ("ACTIVATES", "PROMOTES"):
        mine, theirs = profiles(one, kind), profiles(other, kind)
        for row, a in enumerate(one.keys("Feature")):
            for column, b in enumerate(other.keys("Feature")):
                x, y = mine.get(a, {}), theirs.get(b, {})
                lengths = math.sqrt(sum(z * z for z in x.values()) * sum(z * z for z in y.values()))
                if lengths:
                    total[row, column] += sum(z * y[token] for token, z in x.items() if token in y) / lengths / 2
    return total


def test_a_shuffled_and_noised_copy_is_recovered_one_to_one(sets: Sets):
    found = queries.compare(sets.graph, "original", "copy")

    assert dict(zip(found["key_a"], found["key_b"], strict=True)) == truth(sets.original, sets.copy)
    assert found["mutual"].all()
    assert (found["null_p"] <= 0.01).all()
    assert found.attrs["matched"] == len(found) == sum(SIZES)
    assert found.attrs["only_a"] == found.attrs["only_b"] == 0
    assert found.attrs["run"] == [sets.original.run, sets.copy.run]


def test_between_strangers_chance_is_never_taken_for_a_find(sets: Sets):
    pooled = [
        queries.compare(sets.graph, one, "stranger", by=by)
        for one, by in (("original", "tokens"), ("original", "inputs"), ("foreign", "outputs"))
    ]

    p = np.concatenate([found["null_p"] for found in pooled])
    for level in (0.01, 0.05, 0.1, 0.25, 0.5):
        assert (p <= level).mean() <= level + 3 * math.sqrt(level / len(p))
    assert sum(found.attrs["matched"] for found in pooled) <= 0.02 * len(p)


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_null_p_is_even_where_scores_fall_off_exponentially(scale: float):
    scores = np.sort(np.random.default_rng(0).exponential(scale, (4_000, 900)), axis=1)[:, ::-1][:, :32]

    p = alike._by_chance(scores, 900)

    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_two_features_that_stand_for_one_do_not_hide_each_other():
    scores = np.sort(np.random.default_rng(1).exponential(0.02, (200, 900)), axis=1)[:, ::-1][:, :32]
    scores[:, :2] = 0.9, 0.88

    assert (alike._by_chance(scores, 900) < 1e-3).all()


def test_scores_are_the_cosines_and_mutual_is_best_of_both(sets: Sets):
    by_hand = cosines(sets.original, sets.stranger)
    keys, there = sets.original.keys("Feature"), sets.stranger.keys("Feature")

    found = queries.compare(sets.graph, "original", "stranger")

    for row in found.itertuples():
        at, partner = keys.index(row.key_a), there.index(row.key_b)
        assert row.score == pytest.approx(by_hand[at].max(), rel=1e-4)
        assert by_hand[at, partner] == pytest.approx(row.score, rel=1e-4)
        assert row.mutual == (int(by_hand[:, partner].argmax()) == at)
    assert list(found["score"]) == sorted(found["score"], reverse=True)


def test_how_much_is_looked_at_at_once_does_not_matter(sets: Sets, monkeypatch: pytest.MonkeyPatch):
    whole = queries.compare(sets.graph, "original", "stranger")
    monkeypatch.setattr(alike, "_TERMS_AT_ONCE", 100)

    assert queries.compare(sets.graph, "original", "stranger").equals(whole)


@pytest.mark.parametrize("only", ["a", "b"])
def test_what_only_one_has_is_what_chance_would_match_as_well(only: str, sets: Sets):
    found = queries.compare(sets.graph, "original", "partly", only=only)

    layers = {int(key.split("/")[1].split("-")[0]) for key in found[f"key_{only}"]}
    assert layers == {2}
    assert len(found) >= 0.9 * SIZES[2]
    assert len(found) == found.attrs[f"only_{only}"]
    assert (found["null_p"] > 0.01).all()


def test_two_vocabularies_meet_in_the_texts_they_share(sets: Sets):
    found = queries.compare(sets.graph, "original", "foreign")

    expected = truth(sets.original, sets.foreign)
    assert sum(expected[row.key_a] == row.key_b for row in found.itertuples()) >= 0.98 * len(found)
    # two of the toy's tokens decode alike, and one text is there twice: these name nothing
    texts = [row["text"] for row in sets.original.nodes["Token"]]
    assert found.attrs["shared_tokens"] == sum(texts.count(text) == 1 for text in texts) < len(texts)


def test_features_of_which_the_same_is_said_match_by_description(sets: Sets):
    found = queries.compare(sets.graph, "original", "copy", by="description")

    expected = truth(sets.original, sets.copy)
    described = {sets.original.keys("Feature")[row] for row in range(0, 140, 3)}
    best = found[found["score"] > 0.999]
    assert {row.key_a: row.key_b for row in best.itertuples()} == {key: expected[key] for key in described}
    rest = found[~found["key_a"].isin(described)]
    assert (rest["key_b"] == "").all()
    assert (rest["null_p"] == 1).all()


def test_words_count_beside_tokens_where_both_features_have_some(sets: Sets):
    tokens = queries.compare(sets.graph, "original", "copy").set_index("key_a")["score"]
    words = queries.compare(sets.graph, "original", "copy", by="description").set_index("key_a")["score"]

    found = queries.compare(sets.graph, "original", "copy", by="all")

    described = {sets.original.keys("Feature")[row] for row in range(0, 140, 3)}
    for row in found.itertuples():
        expected = (2 * tokens[row.key_a] + words[row.key_a]) / 3 if row.key_a in described else tokens[row.key_a]
        assert row.score == pytest.approx(expected, rel=1e-5)


def test_a_circuit_is_looked_up_where_its_matches_are(sets: Sets, tmp_path: Path):
    place = tmp_path / "atlas"
    for one in (sets.original, sets.copy):
        atlas.load(one.build, place)
    with atlas.open(place) as graph:
        found = queries.compare(graph, "original", "copy")
        circuit = queries.circuit(graph, "original/2-tc-40/4", depth=2, width=4)
        with pytest.raises(BadSetting, match="atlas compare original/tc-40 copy/tc-40 --keep"):
            queries.translate(graph, circuit, "copy")

    assert queries.keep(found, place) == len(found)

    expected = truth(sets.original, sets.copy)
    there = {(a, b): (w, z) for kind in sets.copy.edges.values() for a, b, w, z, _ in kind}
    with atlas.open(place) as graph:
        image = queries.translate(graph, circuit, "copy")
        kept = queries.query(graph, "matches", key="original/2-tc-40/4")
        with pytest.raises(BadKey, match="itself"):
            queries.translate(graph, circuit, "original")
    assert (kept["key"].iloc[0], kept["run"].iloc[0]) == (expected["original/2-tc-40/4"], found.attrs["compared_by"])
    for row in image.nodes.itertuples():
        assert row.key_there == (row.key if row.type == "Token" else expected[row.key])
    states = set()
    for row in image.edges.itertuples():
        ends = row.source_there, row.target_there
        states.add(row.there)
        assert row.there == ("kept" if ends in there else "not kept")
        if ends in there:
            assert (row.weight_there, row.z_there) == pytest.approx(there[ends])
    assert "kept" in states
    assert image.attrs["edges_there"] == (image.edges["there"] == "kept").sum()
    assert image.attrs["compared_by"] == [found.attrs["compared_by"]]


def test_two_models_are_joined_through_their_tokens_in_one_statement(sets: Sets):
    key = "original/1-tc-40/3"
    mine = profiles(sets.original, "ACTIVATES")[key]
    overlaps = {
        feature: sum(z * mine[token] for token, z in theirs.items() if token in mine)
        for feature, theirs in profiles(sets.copy, "ACTIVATES").items()
        if mine.keys() & theirs.keys()
    }

    found = queries.query(sets.graph, "counterparts", key=key, set="copy/tc-40", limit=5)

    best = sorted(overlaps, key=lambda feature: (-overlaps[feature], feature))[:5]
    assert list(found["key"]) == best
    assert list(found["overlap"]) == pytest.approx([overlaps[feature] for feature in best], rel=1e-4)
    assert found["key"].iloc[0] == truth(sets.original, sets.copy)[key]


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (("original", "original"), {}, "two different sets"),
        (("original", "nobody"), {}, "no set 'nobody'"),
        (("original", "copy"), {"by": "smell"}, "tokens, inputs"),
        (("original", "copy"), {"only": "c"}, "only is 'c'"),
        (("original", "copy"), {"p": 0}, "p is 0"),
        (("original", "copy"), {"k": 0}, "k is 0"),
        (("original", "stranger"), {"by": "description"}, "atlas describe stranger/tc-40"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(arguments, given, said: str, sets: Sets):
    with pytest.raises(AtlasError, match=said) as refused:
        queries.compare(sets.graph, *arguments, **given)

    assert "\n" not in str(refused.value)


def test_rows_that_are_no_comparison_are_not_kept(sets: Sets):
    with pytest.raises(BadSetting, match="no comparison"):
        queries.keep(queries.sets(sets.graph), sets.place)
    with pytest.raises(BadSetting, match="only"):
        queries.keep(queries.compare(sets.graph, "original", "partly", only="a"), sets.place)


def test_nasty_names_are_refused_in_a_line(sets: Sets):
    circuit = queries.circuit(sets.graph, "original/1-tc-40/3", depth=1)
    for text in NASTY:
        for ask in (
            lambda text=text: queries.compare(sets.graph, text, "copy"),
            lambda text=text: queries.compare(sets.graph, "original", "copy", by=text),
            lambda text=text: queries.translate(sets.graph, circuit, text),
        ):
            with pytest.raises(AtlasError) as refused:
                ask()
            assert "\n" not in str(refused.value)
