"""From what people type to a node, or to an error that names the nearest."""

from __future__ import annotations

import pytest

import queries
from atlas.errors import Ambiguous, BadKey
from atlas.model import FeatureKey, TokenKey
from tests.unit.queries.asked import Asked


@pytest.mark.parametrize(
    ("typed", "within", "key"),
    [
        ("toy/2-tc-40/12", None, "toy/2-tc-40/12"),
        ("https://www.neuronpedia.org/toy/2-tc-40/12", None, "toy/2-tc-40/12"),
        ("2/12", "toy/tc-40", "toy/2-tc-40/12"),
        ("L2 F12", "tc-40", "toy/2-tc-40/12"),
        ("2_12_9", "toy", "toy/2-tc-40/12"),
        ("3/2", "other", "other/3-tc-x/2"),
        ("toy-tc-40-release:blocks.2.hook_mlp_in:12", None, "toy/2-tc-40/12"),
        ("toy-tc-40-release:layer_2/width_13/average_l0_7:12", None, "toy/2-tc-40/12"),
        ("tok:toy-words/7", None, "tok:toy-words/7"),
        ("token:' rabbit'", None, "tok:toy-words/1"),
        ("token:'\n'", None, "tok:toy-words/6"),
        (FeatureKey("other", 9, "tc-x", 2), None, "other/9-tc-x/2"),
        (TokenKey("toy-words", 3), None, "tok:toy-words/3"),
    ],
)
def test_every_way_of_writing_a_key_finds_its_node(typed, within, key: str, asked: Asked):
    assert queries.resolve(asked.graph, typed, set=within).key == key


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("toi/2-tc-40/1", "did you mean 'toy'?"),
        ("toy/2-tc-41/1", "did you mean 'toy/tc-40'?"),
        ("toy/2-tc-40/13", "layer 2 of toy/tc-40 has the features 0 to 12"),
        ("other/2-tc-x/1", "other/tc-x has the layers 1, 3-5, 9"),
        ("tok:toy-wrds/1", "did you mean 'toy-words'?"),
        ("tok:toy-words/17", "has no token 17"),
        ("token:'Rabbit'", "there is token:' rabbit', token:'rabbit'"),
        ("toy-tc-41-release:layer_2:1", "did you mean 'toy-tc-40-release'?"),
        ("toy-tc-40-release:nothing:1", "names no layer"),
        ("toy/L1H0", "attention head"),
        ("rabbit", "is not a key"),
        (17, "is no key"),
    ],
)
def test_a_key_that_names_nothing_is_answered_with_the_nearest_that_does(typed, said: str, asked: Asked):
    with pytest.raises(BadKey) as error:
        queries.resolve(asked.graph, typed)

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("typed", "candidates"),
    [("2/1", ("toy/tc-40", "other/tc-x")), ("token:'\ufffd'", ("tok:toy-words/10", "tok:toy-words/11"))],
)
def test_a_key_that_names_several_nodes_lists_them(typed: str, candidates, asked: Asked):
    with pytest.raises(Ambiguous) as error:
        queries.resolve(asked.graph, typed)

    assert all(candidate in str(error.value) for candidate in candidates)


def test_models_and_sets_count_what_is_there(asked: Asked):
    models = queries.models(asked.graph).set_index("model")
    sets = queries.sets(asked.graph).set_index("set")

    assert models["features"].to_dict() == {"other": 40, "toy": 40}
    assert models["edges"].to_dict() == {"other": asked.other.n_edges, "toy": asked.toy.n_edges}
    assert list(sets.loc["other/tc-x", "layers"]) == [1, 3, 4, 5, 9]
    assert list(sets.loc["toy/tc-40", "features_per_layer"]) == [7, 11, 13, 6, 3]
    assert list(queries.sets(asked.graph, model="toy")["set"]) == ["toy/tc-40"]
    with pytest.raises(BadKey, match="did you mean 'other'"):
        queries.sets(asked.graph, model="othr")
