"""Circuits as a tree for a terminal, and as DOT, GraphML and Mermaid for other tools."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pandas as pd

from queries.circuits import Circuit
from queries.cuts import EVIDENCE
from queries.present_text import cut, footer, number, quoted, signed, visible


def tree(circuit: Circuit, width: int = 100) -> str:
    """A branch for each key: below a node what leads to it (or what it leads to), the strongest first.

    A node is unfolded once, where it is nearest to the keys; elsewhere ``↑`` says that it stands above or below.
    """
    if circuit.edges.empty:
        return str(circuit.attrs.get("note", "nothing"))
    nodes = {row["key"]: row for row in circuit.nodes.to_dict("records")}
    direction = circuit.attrs.get("direction", "in")
    lines: list[str] = []
    for inward in (True, False):
        if direction not in ("both", "in" if inward else "out") and not (direction == "between" and not inward):
            continue
        below: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for edge in circuit.edges.to_dict("records"):
            here, there = (edge["target"], edge["source"]) if inward else (edge["source"], edge["target"])
            below[here].append((there, edge))
        for root in circuit.roots:
            if lines:
                lines.append("")
            arrow = "reads" if inward else "writes to"
            lines.append(_cut(f"{root}  {_label(nodes[root])}  {arrow}", width))
            _branch(lines, root, "", 1, below, nodes, {root}, width, _shown(circuit))
    line = footer(circuit.edges, "connection")
    return "\n".join([*lines, "", line] if line else lines)


def _branch(
    lines: list[str],
    at: str,
    indent: str,
    level: int,
    below: dict[str, list[tuple[str, Any]]],
    nodes: dict[str, Any],
    unfolded: set[str],
    width: int,
    by: str,
) -> None:
    children = sorted(below.get(at, []), key=lambda child: (-abs(float(child[1][by])), child[0], child[1]["via"]))
    for place, (key, edge) in enumerate(children):
        last = place == len(children) - 1
        node = nodes[key]
        unfolds = bool(below.get(key)) and node["type"] == "Feature"
        again = unfolds and (key in unfolded or node["depth"] != level)
        mark = " ↑" if again else ""
        size = number(float(edge["z"]), "z") if by == "z" else signed(float(edge[by]))
        head = f" via {edge['via']}" if edge["via"] else ""
        lines.append(_cut(f"{indent}{'└─' if last else '├─'} {size:>6}  {key}{head}  {_label(node)}{mark}", width))
        if unfolds and not again:
            unfolded.add(key)
            _branch(lines, key, indent + ("   " if last else "│  "), level + 1, below, nodes, unfolded, width, by)


def _shown(circuit: Circuit) -> str:
    """The number beside each connection: z, or what was seen on a text where the circuit was asked by it."""
    by = str(circuit.attrs.get("weight"))
    return by if by in EVIDENCE else "z"


def dot(circuit: Circuit) -> str:
    """Graphviz: a box a feature, an ellipse a token; dashed edges hold down."""
    lines = ["digraph circuit {", "  rankdir=BT;", "  node [shape=box];"]
    for node in circuit.nodes.to_dict("records"):
        shape = ", shape=ellipse" if node["type"] == "Token" else ""
        lines.append(f"  {_dot(node['key'])} [label={_dot(node['key'], _label(node))}{shape}];")
    for edge in circuit.edges.to_dict("records"):
        style = ", style=dashed" if edge["weight"] < 0 else ""
        label = f"label={_dot(_size(edge))}, weight_raw={edge['weight']:.6g}{style}"
        lines.append(f"  {_dot(edge['source'])} -> {_dot(edge['target'])} [{label}];")
    return "\n".join([*lines, "}"])


def graphml(circuit: Circuit) -> str:
    """GraphML with every column as typed data, for Gephi, yEd, networkx."""
    tables = (("node", circuit.nodes, ("key",)), ("edge", circuit.edges, ("source", "target")))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
    ]
    for element, frame, ends in tables:
        for column in frame.columns.difference(ends, sort=False):
            kind = _graphml_type(frame.dtypes[column])
            lines.append(f'  <key id="{element}_{column}" for="{element}" attr.name="{column}" attr.type="{kind}"/>')
    lines.append('  <graph edgedefault="directed">')
    for element, frame, ends in tables:
        for row in frame.to_dict("records"):
            named = zip(("id",) if element == "node" else ends, ends, strict=True)
            opening = " ".join(f"{attribute}={quoteattr(visible(str(row[end])))}" for attribute, end in named)
            data = "".join(
                f'<data key="{element}_{column}">{escape(visible(str(value)))}</data>'
                for column, value in row.items()
                if column not in ends and not pd.isna(value)
            )
            lines.append(f"    <{element} {opening}>{data}</{element}>")
    return "\n".join([*lines, "  </graph>", "</graphml>"])


def mermaid(circuit: Circuit) -> str:
    """A Mermaid flowchart; dotted arrows hold down."""
    ids = {key: f"n{place}" for place, key in enumerate(circuit.nodes["key"])}
    lines = ["flowchart BT"]
    for node in circuit.nodes.to_dict("records"):
        opening, closing = ("([", "])") if node["type"] == "Token" else ("[", "]")
        lines.append(f'  {ids[node["key"]]}{opening}"{_mermaid(node["key"])}<br/>{_mermaid(_label(node))}"{closing}')
    for edge in circuit.edges.to_dict("records"):
        arrow = "-.->" if edge["weight"] < 0 else "-->"
        lines.append(f'  {ids[edge["source"]]} {arrow}|"{_mermaid(_size(edge))}"| {ids[edge["target"]]}')
    return "\n".join(lines)


FORMS: dict[str, Callable[[Circuit], str]] = {"text": tree, "dot": dot, "graphml": graphml, "mermaid": mermaid}


def _size(edge: Mapping[Any, Any]) -> str:
    """An arrow's z, and the head that it passes through."""
    return f"{number(float(edge['z']), 'z')} {edge['via']}".rstrip()


def _label(node: Mapping[Any, Any]) -> str:
    return quoted(node["label"]) if node["type"] == "Token" else visible(node["label"])


def _cut(line: str, width: int) -> str:
    return cut(line, width).rstrip()


def _dot(*lines: str) -> str:
    """A quoted string of DOT. In it a backslash begins an escape, so those of the text are doubled."""
    return '"' + "\\n".join(visible(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'


def _graphml_type(kind: Any) -> str:
    if pd.api.types.is_integer_dtype(kind):
        return "long"
    return "double" if pd.api.types.is_float_dtype(kind) else "string"


def _mermaid(text: str) -> str:
    """Text in which nothing is markup: every character that is no letter, digit or plain mark becomes ``#code;``."""
    return "".join(char if char.isalnum() or char in " .,:/_-+'" else f"#{ord(char)};" for char in text)
