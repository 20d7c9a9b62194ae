"""What an answer looks like: typed columns, and an envelope that says what the rows rest on.

Every answer is a DataFrame. Its ``attrs`` are the JSON envelope without the rows: ``weight`` (what the order goes by),
``cut`` (what was kept when the atlas was built), ``complete`` (whether anything that was cut could change the answer),
``model``, ``set``, ``run``, and a ``note`` where an empty or incomplete answer has a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from atlas.errors import BadSetting

Envelope = dict[Any, Any]
"""``attrs``: names to what JSON can hold. (Typed as loosely as pandas types its attribute.)"""

TYPES: dict[str, Any] = {
    "text": pd.StringDtype(storage="pyarrow", na_value=float("nan")),
    "int": pd.Int64Dtype(),
    "float": "float32",
    "double": "float64",
    "texts": pd.ArrowDtype(pa.list_(pa.string())),
    "ints": pd.ArrowDtype(pa.list_(pa.int64())),
    "floats": pd.ArrowDtype(pa.list_(pa.float32())),
    "flag": "bool",
}
"""Types of columns, by the word that a query's header uses. ``int`` may be missing: a token has no layer."""

NEIGHBOURS = {
    "key": "text",
    "type": "text",
    "layer": "int",
    "label": "text",
    "via": "text",
    "weight": "float",
    "z": "float",
    "share": "float",
}
"""Columns of ``inputs`` and ``outputs``."""

EVIDENCE = {"n_both": "int", "drive": "float", "twera": "float"}
"""Columns behind those where the question is about what was seen on a text."""

EVIDENCE_VIA = {"attended": "float", "drive": "float", "twera": "float"}
"""The same of what passes through attention heads."""


def typed(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The named columns in this order, each cast to its type; a column without a type stays as the store gave it."""
    if list(frame.columns) != list(columns):
        frame = frame.loc[:, list(columns)]
    if not isinstance(frame.index, pd.RangeIndex) or frame.index.start != 0 or frame.index.step != 1:
        frame = frame.reset_index(drop=True)
    lists = {name for name, kind in columns.items() if kind in ("texts", "ints", "floats")}
    others = {
        name: TYPES[kind]
        for name, kind in columns.items()
        if kind and name not in lists and frame[name].dtype != TYPES[kind]
    }
    if others:  # a cast costs more than many a query, so only what differs is cast
        frame = frame.astype(others)
    for name in lists:  # stores name the items of a list differently
        frame = frame.assign(**{name: pd.array(frame[name].tolist(), dtype=TYPES[columns[name]])})
    return frame


def empty(columns: Mapping[str, str], **envelope: Any) -> pd.DataFrame:
    """No rows, with the columns and types that rows would have had."""
    frame = rows((), columns)
    frame.attrs = {**envelope}
    return frame


def from_records(found: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A typed frame from rows that have at least these columns by name."""
    return rows((tuple(row[name] for name in columns) for row in found), columns)


def rows(found: Iterable[tuple[Any, ...]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A typed frame from tuples in the order of ``columns``."""
    by_column = list(zip(*found, strict=True)) or [()] * len(columns)
    data = {
        name: pd.array(list(values), dtype=TYPES[kind])
        for (name, kind), values in zip(columns.items(), by_column, strict=True)
    }
    return pd.DataFrame(data)


def choice(name: str, value: Any, among: tuple[str, ...]) -> str:
    """One of a few words. Raises BadSetting that lists them."""
    if isinstance(value, str) and value in among:
        return value
    raise BadSetting(f"{name} is {ascii(value)[:40]}; it is one of {', '.join(among)}")


def count(name: str, value: Any, least: int = 1) -> int:
    """A number of things. Raises BadSetting for none, for a fraction and for more than any engine takes."""
    if not isinstance(value, bool) and hasattr(value, "__index__") and least <= int(value) < 2**31:
        return int(value)
    raise BadSetting(f"{name} is {ascii(value)[:40]}; give a whole number, {least} or more")


def smallest(name: str, value: Any) -> float:
    """A threshold on sizes; None is none. Raises BadSetting for what no size can be compared with."""
    if value is None:
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    raise BadSetting(f"{name} is {ascii(value)[:40]}; give a number that is 0 or more")
