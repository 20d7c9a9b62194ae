"""Answers as text, JSON, CSV and Cypher scripts. Pure functions: nothing here asks a store.

Tables for a terminal are in :mod:`queries.present_text`, cards in :mod:`queries.present_card`, pictures of circuits in
:mod:`queries.present_circuit` and :mod:`queries.present_graph`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from queries.circuits import Circuit
from queries.present_card import card_text
from queries.present_circuit import FORMS
from queries.present_evidence import examples_text
from queries.present_graph import graph_json
from queries.present_motifs import instances_text, motifs_text
from queries.present_text import footer, paths_text, table
from queries.present_translation import translation_text
from queries.translate import Translation

__all__ = [
    "card_json",
    "card_text",
    "circuit_as",
    "cypher_script",
    "examples_text",
    "footer",
    "instances_text",
    "motifs_text",
    "paths_text",
    "table",
    "to_csv",
    "to_json",
    "translation_json",
    "translation_text",
]

_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def to_json(frame: pd.DataFrame) -> str:
    """``{"rows": [...], ...}``: a row a line, then the envelope. NaN and infinity are null."""
    return _json({"rows": _records(frame)} | {str(name): value for name, value in frame.attrs.items()})


def to_csv(frame: pd.DataFrame, *, provenance: bool = False) -> str:
    """CSV with a header; lists are JSON, what is missing is empty. ``provenance``: a first line ``# {...}``."""
    lines = [f"# {_compact(frame.attrs)}"] if provenance else []
    lines.append(",".join(_csv(name) for name in frame.columns))
    lines += [",".join(_csv(value) for value in record.values()) for record in _records(frame)]
    return "\n".join(lines) + "\n"


def card_json(card: Mapping[str, Any]) -> str:
    """A card as JSON; its ``inputs`` and ``outputs`` are lists of rows."""
    return _json({name: _records(v) if isinstance(v, pd.DataFrame) else v for name, v in card.items()})


def circuit_as(form: str, circuit: Circuit) -> str:
    """A circuit as text (a tree), json, dot, graphml, mermaid, or neuronpedia (graph JSON)."""
    if form == "json":
        return _json({"nodes": _records(circuit.nodes), "edges": _records(circuit.edges), **circuit.attrs})
    if form == "neuronpedia":
        return graph_json(circuit)
    return FORMS[form](circuit)


def translation_json(image: Translation) -> str:
    """A circuit and its image in another set as JSON: ``nodes``, ``edges``, then what they rest on."""
    return _json({"nodes": _records(image.nodes), "edges": _records(image.edges), **image.attrs})


def cypher_script(noted: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Queries with their parameters, ready to paste into Neo4j Browser, each once."""
    parts = []
    for text, parameters in noted:
        given = ", ".join(f"{name}: {json.dumps(value)}" for name, value in parameters.items())
        part = f":param {{{given}}};\n\n{text.rstrip()};" if given else f"{text.rstrip()};"
        if part not in parts:
            parts.append(part)
    return "\n\n".join(parts)


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    # Through numpy where it is a number there: a Series would hand out float32 as the wider float of Python.
    columns = {
        name: [_plain(value) for value in (series.to_numpy() if series.dtype.kind == "f" else series)]
        for name, series in frame.items()
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _csv(value: Any) -> str:
    """One field, quoted where RFC 4180 asks for it; a bare carriage return too, which Python's writer lets through."""
    text = "" if value is None else _compact(value) if isinstance(value, list | dict) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(char in text for char in ',"\r\n') else text


def _plain(value: Any) -> Any:
    """A value as JSON has it. A float32 is written with the digits that it has."""
    match value:
        case list() | tuple() | np.ndarray():
            return [_plain(item) for item in value]
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case bool() | np.bool_():
            return bool(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case np.floating():
            return float(str(value)) if math.isfinite(value) else None
        case int() | np.integer():
            return int(value)
        case str():
            return value
    return None if pd.isna(value) else str(value)


def _json(content: Mapping[str, Any]) -> str:
    lines = []
    for name, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"    {_compact(row)}" for row in value)
            lines.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(name)}: {_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _compact(value: Any) -> str:
    """On one line, readable, and with nothing that a terminal would obey."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
