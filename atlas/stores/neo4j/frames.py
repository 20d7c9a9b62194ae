"""Records of the server as DataFrames with the types that the embedded store gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import neo4j.graph
import pandas as pd
import pyarrow as pa


def frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """One typed column for each name; nodes and relationships become dicts of their properties."""
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return pd.DataFrame({name: _series(list(column)) for name, column in zip(columns, values, strict=True)})


def _series(values: list[Any]) -> pd.Series:
    data = [plain(value) for value in values]
    try:
        return pa.array(data).to_pandas(types_mapper=_mapped)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pd.Series(data, dtype=object)


def _mapped(type: pa.DataType) -> Any:
    return pd.ArrowDtype(type) if pa.types.is_list(type) else None


def plain(value: Any) -> Any:
    """A value of the driver's as plain Python data."""
    if isinstance(value, neo4j.graph.Node):
        own = {k: plain(v) for k, v in value.items() if not k.startswith("_")}  # the rest is the store's
        return {"_label": ":".join(sorted(value.labels)), **own}
    if isinstance(value, neo4j.graph.Relationship):
        return {"_label": value.type, **{k: plain(v) for k, v in value.items()}}
    if isinstance(value, neo4j.graph.Path):
        return {"nodes": [plain(n) for n in value.nodes], "relationships": [plain(r) for r in value.relationships]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, type(None) | bool | int | float | str | bytes):
        return value
    return value.iso_format() if hasattr(value, "iso_format") else str(value)
