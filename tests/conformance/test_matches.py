"""Matches of two sets in every store: kept with their run, replaced by newer ones, gone with either set."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from atlas.errors import BadKey, StoreError
from atlas.matches import Matches, matches
from atlas.provenance import Run
from atlas.stores import Store
from tests.conformance.conftest import Place
from tests.toy import Toy

KEPT = (
    "MATCH (a:Feature)-[e:MATCHES]->(b:Feature) RETURN a.key AS a, b.key AS b, e.score AS score, e.null_p AS null_p, "
    "e.method AS method, e.run AS run"
)
RUNS = "MATCH (r:Run) RETURN r.key AS key"


@pytest.fixture
def toys(stage: Callable[..., Toy]) -> dict[str, Toy]:
    return {name: stage(model=name, seed=seed) for seed, name in enumerate(("zebra", "ant", "bystander"))}


@pytest.fixture
def store(toys: dict[str, Toy], place: Place) -> Iterator[Store]:
    with place.writing() as opened:
        opened.create()
        for toy in toys.values():
            opened.add(toy.build)
        yield opened


def matching(one: Toy, other: Toy, rows: list[int], method: str = "tokens", seed: int = 0) -> Matches:
    """Each of some features of one toy with the next of the other."""
    sets = {one.set_key: one.run, other.set_key: other.run}
    pairs = [(one.keys("Feature")[row], other.keys("Feature")[row + 1], 0.5 + row / 64, 0.25) for row in rows]
    return matches(sets, method, Run({"sets": sets}, {"method": method, "seed": seed}), pairs)


def kept(store: Store) -> set[tuple[object, ...]]:
    return set(store.run(KEPT).itertuples(index=False, name=None))


def runs(store: Store) -> set[str]:
    return set(store.run(RUNS)["key"])


def test_matches_are_kept_with_their_score_and_run_from_the_set_that_comes_first(toys: dict[str, Toy], store: Store):
    found = matching(toys["zebra"], toys["ant"], [3, 9])

    store.match(found)

    ant, zebra = toys["ant"].keys("Feature"), toys["zebra"].keys("Feature")
    assert kept(store) == {
        (ant[4], zebra[3], 0.5 + 3 / 64, 0.25, "tokens", found.run.id),
        (ant[10], zebra[9], 0.5 + 9 / 64, 0.25, "tokens", found.run.id),
    }
    run = store.run("MATCH (r:Run {key: $key}) RETURN r.inputs AS inputs, r.settings AS settings", key=found.run.id)
    assert toys["ant"].run in run["inputs"].iloc[0]


def test_a_newer_matching_by_the_same_method_replaces_the_old_one_and_no_other(toys: dict[str, Toy], store: Store):
    old, new = matching(toys["ant"], toys["zebra"], [1, 2]), matching(toys["zebra"], toys["ant"], [5], seed=1)
    by_words = matching(toys["ant"], toys["zebra"], [7], method="description")
    elsewhere = matching(toys["ant"], toys["bystander"], [8])
    before = runs(store)
    for one in (old, by_words, elsewhere, new):
        store.match(one)

    assert {row[-1] for row in kept(store)} == {by_words.run.id, elsewhere.run.id, new.run.id}
    assert len(kept(store)) == 3
    assert runs(store) == before | {by_words.run.id, elsewhere.run.id, new.run.id}


def test_the_same_matches_again_change_nothing(toys: dict[str, Toy], store: Store):
    found = matching(toys["ant"], toys["zebra"], [1, 2])
    store.match(found)
    before = kept(store), runs(store)

    store.match(found)

    assert (kept(store), runs(store)) == before


@pytest.mark.parametrize("gone", ["ant", "zebra"])
def test_matches_go_with_either_set_and_a_bystanders_stay(gone: str, toys: dict[str, Toy], store: Store):
    stays = next(name for name in ("ant", "zebra") if name != gone)
    store.match(matching(toys["ant"], toys["zebra"], [1, 2]))
    other = matching(toys[stays], toys["bystander"], [4])
    store.match(other)

    store.remove(gone)

    assert {row[-1] for row in kept(store)} == {other.run.id}
    assert runs(store) == {toys[stays].run, toys["bystander"].run, other.run.id}


def test_matches_survive_another_model_that_comes_and_goes(
    toys: dict[str, Toy], store: Store, stage: Callable[..., Toy]
):
    store.match(matching(toys["ant"], toys["zebra"], [1, 2]))
    before = kept(store), runs(store)

    store.add(stage(model="guest", seed=8).build)
    store.remove("guest")

    assert (kept(store), runs(store)) == before


def test_a_new_build_of_a_set_takes_its_matches_away(toys: dict[str, Toy], store: Store, stage: Callable[..., Toy]):
    found = matching(toys["ant"], toys["zebra"], [1, 2])
    store.match(found)

    newer = stage(model="ant", seed=77)
    store.add(newer.build)

    assert kept(store) == set()
    with pytest.raises(BadKey, match=f"holds it as run {newer.run}"):
        store.match(found)


def test_a_reader_and_a_stranger_are_refused(toys: dict[str, Toy], store: Store, place: Place):
    found = matching(toys["ant"], toys["zebra"], [1])
    store.remove("ant")

    with pytest.raises(BadKey, match="does not hold it"):
        store.match(found)
    with place.reading() as reader, pytest.raises(StoreError, match="for reading"):
        reader.match(found)
