"""Each store against plain Python: query templates on random layered graphs, with parameters and with literals.

Embedded engines have been wrong here in ways that no error shows: rows of an earlier call of the same text, and chains
with a predicate on their middle relationship. So every template is asked several times over with other values, in a
mixed order, and every answer is computed from the rows in Python.
"""

# ruff: noqa: E741  (l is the parameter $l of the templates)
from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from atlas.stores import Store
from tests.conformance.conftest import Place
from tests.toy import Toy

Rows = list[tuple[Any, ...]]
_ROUNDS = 4


@dataclass
class Truth:
    """A toy graph as Python sees it."""

    layer: dict[str, int]
    out: dict[str, list[tuple[str, float]]]
    into: dict[str, list[tuple[str, float]]]
    tokens: list[tuple[str, str, float]]

    def chains(self, key: str, hops: int) -> Iterator[tuple[list[str], list[float]]]:
        """Every path of so many FEEDS edges from a feature: its nodes and its weights."""
        if not hops:
            yield [key], []
            return
        for target, weight in self.out.get(key, []):
            for keys, weights in self.chains(target, hops - 1):
                yield [key, *keys], [weight, *weights]


@dataclass(frozen=True)
class Template:
    query: str
    answer: Callable[..., Rows]


def _outs(t: Truth, a: str, **_: Any) -> Rows:
    return list(t.out.get(a, []))


def _top(t: Truth, a: str, k: int, **_: Any) -> Rows:
    return sorted(t.into.get(a, []), key=lambda row: (-abs(row[1]), row[0]))[:k]


def _within(t: Truth, a: str, hops: int) -> Rows:
    return [(keys[-1], len(weights)) for n in range(1, hops + 1) for keys, weights in t.chains(a, n)]


TEMPLATES = {
    "a node by key": Template(
        "MATCH (n:Feature {key: $a}) RETURN n.key AS key, n.layer AS layer", lambda t, a, **_: [(a, t.layer[a])]
    ),
    "a node by a predicate": Template(
        "MATCH (n:Feature) WHERE n.key = $a RETURN n.layer AS layer", lambda t, a, **_: [(t.layer[a],)]
    ),
    "nodes of a layer": Template(
        "MATCH (n:Feature) WHERE n.layer = $l RETURN n.key AS key",
        lambda t, l, **_: [(key,) for key, layer in t.layer.items() if layer == l],
    ),
    "nodes in a list": Template(
        "MATCH (n:Feature) WHERE n.key IN [$a, $b] RETURN n.key AS key", lambda t, a, b, **_: [(key,) for key in {a, b}]
    ),
    "nodes by prefix": Template(
        "MATCH (n:Feature) WHERE n.key STARTS WITH $a RETURN n.key AS key",
        lambda t, a, **_: [(key,) for key in t.layer if key.startswith(a)],
    ),
    "edges out": Template(
        "MATCH (:Feature {key: $a})-[e:FEEDS]->(n:Feature) RETURN n.key AS key, e.weight AS w", _outs
    ),
    "edges in": Template(
        "MATCH (:Feature {key: $a})<-[e:FEEDS]-(n:Feature) RETURN n.key AS key, e.weight AS w",
        lambda t, a, **_: list(t.into.get(a, [])),
    ),
    "edges in of some size": Template(
        "MATCH (:Feature {key: $a})<-[e:FEEDS]-(n:Feature) WHERE abs(e.weight) >= $w RETURN n.key AS key",
        lambda t, a, w, **_: [(key,) for key, weight in t.into.get(a, []) if abs(weight) >= w],
    ),
    "strongest edges in": Template(
        "MATCH (:Feature {key: $a})<-[e:FEEDS]-(n:Feature) RETURN n.key AS key, e.weight AS w "
        "ORDER BY abs(e.weight) DESC, key LIMIT $k",
        _top,
    ),
    "one edge": Template(
        "MATCH (:Feature {key: $a})-[e:FEEDS]->(:Feature {key: $b}) RETURN e.weight AS w",
        lambda t, a, b, **_: [(weight,) for key, weight in t.out.get(a, []) if key == b],
    ),
    "two hops": Template(
        "MATCH (:Feature {key: $a})-[:FEEDS]->(m:Feature)-[:FEEDS]->(n:Feature) RETURN m.key AS m, n.key AS n",
        lambda t, a, **_: [(keys[1], keys[2]) for keys, _w in t.chains(a, 2)],
    ),
    "two hops to an end": Template(
        "MATCH (:Feature {key: $a})-[x:FEEDS]->(m:Feature)-[y:FEEDS]->(:Feature {key: $b}) "
        "RETURN m.key AS m, x.weight AS x, y.weight AS y",
        lambda t, a, b, **_: [(keys[1], *weights) for keys, weights in t.chains(a, 2) if keys[2] == b],
    ),
    "two hops, both of some size": Template(
        "MATCH (:Feature {key: $a})-[x:FEEDS]->(m:Feature)-[y:FEEDS]->(n:Feature) "
        "WHERE abs(x.weight) >= $w AND abs(y.weight) >= $w RETURN m.key AS m, n.key AS n",
        lambda t, a, w, **_: [(k[1], k[2]) for k, ws in t.chains(a, 2) if all(abs(x) >= w for x in ws)],
    ),
    "three hops": Template(
        "MATCH (:Feature {key: $a})-[:FEEDS]->(:Feature)-[:FEEDS]->(:Feature)-[:FEEDS]->(n:Feature) RETURN n.key AS n",
        lambda t, a, **_: [(keys[3],) for keys, _w in t.chains(a, 3)],
    ),
    "three hops with a predicate on the middle": Template(
        "MATCH (:Feature {key: $a})-[:FEEDS]->(x:Feature)-[e:FEEDS]->(y:Feature)-[:FEEDS]->(n:Feature) "
        "WHERE e.weight > $w RETURN x.key AS x, y.key AS y, n.key AS n",
        lambda t, a, w, **_: [tuple(keys[1:]) for keys, ws in t.chains(a, 3) if ws[1] > w],
    ),
    "three hops with predicates on all": Template(
        "MATCH (:Feature {key: $a})-[d:FEEDS]->(x:Feature)-[e:FEEDS]->(y:Feature)-[f:FEEDS]->(n:Feature) "
        "WHERE d.weight > 0 AND e.weight > $w AND f.weight < 0 RETURN x.key AS x, y.key AS y, n.key AS n",
        lambda t, a, w, **_: [tuple(k[1:]) for k, ws in t.chains(a, 3) if ws[0] > 0 and ws[1] > w and ws[2] < 0],
    ),
    "up to three hops": Template(
        "MATCH p = (:Feature {key: $a})-[:FEEDS*1..3]->(n:Feature) RETURN n.key AS n, length(p) AS hops",
        lambda t, a, **_: _within(t, a, 3),
    ),
    "up to two hops to a layer": Template(
        "MATCH p = (:Feature {key: $a})-[:FEEDS*1..2]->(n:Feature) WHERE n.layer = $l "
        "RETURN n.key AS n, length(p) AS hops",
        lambda t, a, l, **_: [row for row in _within(t, a, 2) if t.layer[row[0]] == l],
    ),
    "readers in common": Template(
        "MATCH (:Feature {key: $a})-[:FEEDS]->(n:Feature)<-[:FEEDS]-(:Feature {key: $b}) RETURN DISTINCT n.key AS n",
        lambda t, a, b, **_: [
            (key,) for key in {k for k, _w in t.out.get(a, [])} & {k for k, _w in t.out.get(b, [])} if a != b
        ],
    ),
    "optional edges": Template(
        "MATCH (n:Feature) WHERE n.layer = $l OPTIONAL MATCH (n)-[e:FEEDS]->(:Feature {key: $b}) "
        "RETURN n.key AS n, e.weight AS w",
        lambda t, l, b, **_: [(key, dict(t.out.get(key, [])).get(b)) for key, layer in t.layer.items() if layer == l],
    ),
    "those with an edge": Template(
        "MATCH (n:Feature) WHERE EXISTS { MATCH (n)-[:FEEDS]->(:Feature {key: $b}) } RETURN n.key AS n",
        lambda t, b, **_: [(key,) for key in {key for key, _w in t.into.get(b, [])}],
    ),
    "those without an edge": Template(
        "MATCH (n:Feature) WHERE n.layer = $l AND NOT EXISTS { MATCH (n)-[:FEEDS]->(:Feature {key: $b}) } "
        "RETURN n.key AS n",
        lambda t, l, b, **_: [
            (key,) for key, layer in t.layer.items() if layer == l and b not in dict(t.out.get(key, []))
        ],
    ),
    "how many edges": Template(
        "MATCH (n:Feature) WHERE n.layer = $l RETURN n.key AS n, COUNT { MATCH (n)-[:FEEDS]->(:Feature) } AS edges",
        lambda t, l, **_: [(key, len(t.out.get(key, []))) for key, layer in t.layer.items() if layer == l],
    ),
    "sums by layer": Template(
        "MATCH (:Feature {key: $a})-[e:FEEDS]->(n:Feature) RETURN n.layer AS layer, count(*) AS n, "
        "max(e.weight) AS high, min(e.weight) AS low",
        lambda t, a, **_: [
            (layer, len(ws), max(ws), min(ws))
            for layer in {t.layer[key] for key, _w in t.out.get(a, [])}
            for ws in [[w for key, w in t.out[a] if t.layer[key] == layer]]
        ],
    ),
    "a union": Template(
        "MATCH (:Feature {key: $a})-[:FEEDS]->(n:Feature) RETURN n.key AS n "
        "UNION MATCH (:Feature {key: $a})<-[:FEEDS]-(n:Feature) RETURN n.key AS n",
        lambda t, a, **_: [(key,) for key in {k for k, _w in [*t.out.get(a, []), *t.into.get(a, [])]}],
    ),
    "the strongest, then on": Template(
        "MATCH (:Feature {key: $a})-[e:FEEDS]->(m:Feature) WITH m, e ORDER BY abs(e.weight) DESC, m.key LIMIT $k "
        "RETURN m.key AS m, e.weight AS w",
        lambda t, a, k, **_: sorted(t.out.get(a, []), key=lambda row: (-abs(row[1]), row[0]))[:k],
    ),
    "cases": Template(
        "MATCH (:Feature {key: $a})-[e:FEEDS]->(n:Feature) "
        "RETURN n.key AS n, CASE WHEN e.weight > $w THEN 'high' ELSE 'low' END AS which",
        lambda t, a, w, **_: [(key, "high" if weight > w else "low") for key, weight in t.out.get(a, [])],
    ),
    "tokens of a feature": Template(
        "MATCH (:Feature {key: $a})<-[e:ACTIVATES]-(n:Token) RETURN n.key AS n, e.weight AS w",
        lambda t, a, **_: [(token, weight) for token, feature, weight in t.tokens if feature == a],
    ),
}


@pytest.fixture
def loaded(place: Place, stage: Callable[..., Toy]) -> Iterator[tuple[Store, list[Truth]]]:
    toys = [stage(), stage(model="other", set="tc-9", sizes=(5, 4, 6, 3), n_tokens=23, density=0.6, seed=3)]
    with place.writing() as store:
        store.create()
        for toy in toys:
            store.add(toy.build)
    with place.reading() as store:
        yield store, [_truth(toy) for toy in toys]


def _truth(toy: Toy) -> Truth:
    out: dict[str, list[tuple[str, float]]] = {}
    into: dict[str, list[tuple[str, float]]] = {}
    for source, target, weight, _z, _share in toy.edges["FEEDS"]:
        out.setdefault(source, []).append((target, weight))
        into.setdefault(target, []).append((source, weight))
    tokens = [(source, target, weight) for source, target, weight, _z, _share in toy.edges["ACTIVATES"]]
    return Truth({row["key"]: row["layer"] for row in toy.nodes["Feature"]}, out, into, tokens)


def _values(template: Template, truth: Truth, chance: random.Random) -> dict[str, Any]:
    early = [key for key, layer in truth.layer.items() if layer < 2]
    drawn = {
        "a": chance.choice(early),
        "b": chance.choice(list(truth.layer)),
        "l": chance.choice(sorted(set(truth.layer.values()))),
        "w": chance.choice([0.0, 0.25, 0.5, -0.5]),
        "k": chance.choice([1, 2, 3, 7]),
    }
    return {name: value for name, value in drawn.items() if f"${name}" in template.query}


def _literal(query: str, values: dict[str, Any]) -> str:
    for name, value in values.items():
        query = query.replace(f"${name}", json.dumps(value))
    return query


def _plain(value: Any) -> Any:
    if value is None or value != value:  # a missing number arrives as NaN in a column of numbers
        return None
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _bag(rows: Any) -> list[tuple[Any, ...]]:
    return sorted((tuple(_plain(_python(value)) for value in row) for row in rows), key=repr)


def _python(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def test_the_stores_answer_every_template_as_plain_python_does(loaded: tuple[Store, list[Truth]]):
    store, truths = loaded
    chance = random.Random(5)
    asked = [(name, round_) for name in TEMPLATES for round_ in range(_ROUNDS)]
    chance.shuffle(asked)
    wrong = []

    for name, _round in asked:
        template, truth = TEMPLATES[name], chance.choice(truths)
        values = _values(template, truth, chance)
        others = [other for other in truths if other is not truth] if not {"a", "b"} & values.keys() else []
        expected = [row for one in (truth, *others) for row in template.answer(one, **values)]
        if name in ("optional edges", "those without an edge"):  # anchored in every model's layer
            expected = [row for one in truths for row in template.answer(one, **values)]
        for text, parameters in ((template.query, values), (_literal(template.query, values), {})):
            found = store.run(text, **parameters).itertuples(index=False, name=None)
            if _bag(found) != _bag(expected):
                wrong.append((name, "parameters" if parameters else "literals", values))

    assert wrong == []
