"""What a path has to pass and must not: features and layers given by a person, as conditions on a graph of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import BadKey, BadSetting
from atlas.model import FeatureKey, TokenKey
from queries.held import Held, shown
from queries.resolve import Key, Node, resolve, spans

if TYPE_CHECKING:
    from atlas.stores import Store
    from atlas.stores.adjacency import Adjacency

Place = Key | int
"""A feature, or a layer: its number, or a text such as ``2`` or ``0-3``."""
_LAYERS = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", re.ASCII)


@dataclass(frozen=True)
class Route:
    """Features and layers that a path passes, and those that it leaves out between its ends."""

    through: tuple[Node, ...] = ()
    through_layers: tuple[int, ...] = ()
    avoid: tuple[Node, ...] = ()
    avoid_layers: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.through or self.through_layers or self.avoid or self.avoid_layers)

    def contradiction(self, ends: Iterable[Node]) -> str:
        """Why no path between these can be like that, if none can; an end may lie in a layer to be avoided."""
        ends = list(ends)
        at: dict[int | None, str] = {}
        for node in self.through:
            if at.setdefault(node.layer, node.key) != node.key:
                return f"{at[node.layer]} and {node.key} lie in the same layer; a path visits a layer once"
            if node in self.avoid or (node.layer in self.avoid_layers and node not in ends):
                return f"{node.key} is to be passed and avoided"
        both = set(self.through_layers) & set(self.avoid_layers) - {end.layer for end in ends}
        return f"layer {min(both)} is to be passed and avoided" if both else ""

    @property
    def said(self) -> list[str]:
        """The conditions in words."""
        names = [
            (word, [node.key for node in nodes] + ([f"layer {spans(layers)}"] if layers else []))
            for word, nodes, layers in (
                ("through", self.through, self.through_layers),
                ("avoiding", self.avoid, self.avoid_layers),
            )
        ]
        return [f"{word} {', '.join(some)}" for word, some in names if some]


@dataclass(frozen=True)
class Conditions:
    """A route over the numbered nodes of one adjacency."""

    inner: np.ndarray
    """bool [n_nodes]: may have something behind it on a path"""
    last: np.ndarray
    """bool [n_nodes]: may be the last node of a path"""
    nearest: list[int]
    """for each layer, the first node that a connection into it may come from"""
    entered: tuple[int, int]
    """a path from outside may enter at the nodes from the first to before the second"""


def read(
    graph: Store, own: Held, through: Place | Iterable[Place] | None, avoid: Place | Iterable[Place] | None
) -> Route:
    """What a person gave, looked up. Raises BadKey for what is no feature or layer of the set."""
    features, layers = _places(graph, own, through, "through")
    others, other_layers = _places(graph, own, avoid, "avoid")
    return Route(tuple(features), tuple(layers), tuple(others), tuple(other_layers))


def conditions(route: Route, adjacency: Adjacency, first: Sequence[int], start: int | None) -> Conditions:
    """A route as masks. ``first``: number of each layer's first node, and of all; ``start``: the first node, if it is
    one. Raises BadKey for layers that the set does not have."""
    layers = list(adjacency.layers)
    for name, given in (("through", route.through_layers), ("avoid", route.avoid_layers)):
        for layer in given:
            if layer not in layers:
                raise BadKey(f"{name}: there is no layer {layer}; the set has the layers {spans(layers)}")
    n_nodes = first[-1]
    inner, last = np.ones(n_nodes, bool), np.ones(n_nodes, bool)
    for layer in route.avoid_layers:
        at = layers.index(layer)
        inner[first[at] : first[at + 1]] = False
    for node in route.avoid:
        inner[_number(node, layers, first)] = False
    if start is not None:
        inner[start] = True
    required = {layers.index(layer) for layer in route.through_layers}
    for node in route.through:
        at = layers.index(_layer(node))
        required.add(at)
        only = np.zeros(first[at + 1] - first[at], bool)
        only[_number(node, layers, first) - first[at]] = True
        inner[first[at] : first[at + 1]] &= only
        last[first[at] : first[at + 1]] &= only
    latest, earliest = max(required, default=0), min(required, default=len(layers) - 1)
    if required:
        last[: first[latest]] = False
        if start is not None and start >= first[earliest + 1]:
            inner[:], last[:] = False, False
    nearest = [first[max((at for at in required if at < layer), default=0)] for layer in range(len(layers))]
    return Conditions(inner, last, nearest, (0, first[earliest + 1]))


def _number(node: Node, layers: Sequence[int], first: Sequence[int]) -> int:
    return first[layers.index(_layer(node))] + int(node.properties["idx"])


def _layer(node: Node) -> int:
    assert node.layer is not None  # a token has none, and _places lets only features through
    return node.layer


def _places(graph: Store, own: Held, given: Place | Iterable[Place] | None, name: str) -> tuple[list[Node], list[int]]:
    nodes: dict[str, Node] = {}
    layers: set[int] = set()
    for place in _several(given, name):
        if isinstance(place, int) and not isinstance(place, bool):
            layers.add(place)
        elif isinstance(place, str) and (match := _LAYERS.fullmatch(place)):
            begin, end = int(match[1]), int(match[2] or match[1])
            if begin > end:
                raise BadSetting(f"{name}: {place!r} begins after its end; write {end}-{begin}")
            layers.update(range(begin, min(end, begin + 9_999) + 1))
        elif isinstance(place, str | FeatureKey | TokenKey):
            node = resolve(graph, place, set=own.key)
            if node.type != "Feature":
                raise BadKey(f"{name}: {node.key} is a token; a token is an end of a path, never between")
            if node.set != own.key:
                raise BadKey(f"{name}: {node.key} is no feature of {own.key}, whose features these paths run through")
            nodes[node.key] = node
        else:
            raise BadKey(f"{name}: {shown(place)} is no feature and no layer")
    return list(nodes.values()), sorted(layers)


def _several(given: Any, name: str) -> Iterable[Any]:
    if given is None:
        return ()
    if isinstance(given, str | int | FeatureKey | TokenKey):
        return (given,)
    if not isinstance(given, Iterable):
        raise BadKey(f"{name}: {shown(given)} is no feature and no layer")
    return given
