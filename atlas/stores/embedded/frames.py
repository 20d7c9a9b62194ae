"""Rows of the engine as DataFrames."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa


def to_frame(rows: pa.Table, types: list[str]) -> pd.DataFrame:
    """One typed column for each name; ``types`` are the engine's own names for them.

    Text becomes pandas' ``str``, whole numbers int64 (Int64 where some are missing), floats stay as wide as they are
    stored, lists become Arrow lists; nodes, relationships and paths become dicts of their properties, with ``_label``.
    """
    columns = zip(rows.column_names, rows.columns, types, strict=True)
    return pd.DataFrame({name: _series(column, type) for name, column, type in columns})


def to_rows(rows: pa.Table, types: list[str]) -> list[dict[str, Any]]:
    """The same as plain data: text, numbers, lists; None for what is missing."""
    plain = [_plain(column, type) for column, type in zip(rows.columns, types, strict=True)]
    return [dict(zip(rows.column_names, values, strict=True)) for values in zip(*plain, strict=True)]


def _plain(column: pa.ChunkedArray, engine_type: str) -> list[Any]:
    if "NODE" in engine_type or "REL" in engine_type:
        return [_entity(value) for value in column.to_pylist()]
    if isinstance(column.type, pa.BaseExtensionType):
        return [str(value) for value in column.to_pylist()]
    if pa.types.is_decimal(column.type):
        return [None if value is None else int(value) for value in column.to_pylist()]
    return column.to_pylist()


def _series(column: pa.ChunkedArray, engine_type: str) -> pd.Series:
    if "NODE" in engine_type or "REL" in engine_type:
        return pd.Series([_entity(value) for value in column.to_pylist()], dtype=object)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([pa.array([str(value) for value in column.to_pylist()], pa.string())])
    elif pa.types.is_decimal(column.type) or pa.types.is_integer(column.type):
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:  # a sum beyond 64 bits
            column = column.cast(pa.float64())
    dtypes: dict[pa.DataType, Any] = {pa.string(): pd.StringDtype(na_value=float("nan"))}
    if column.null_count:
        dtypes |= {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    if pa.types.is_nested(column.type):
        dtypes[column.type] = pd.ArrowDtype(column.type)
    return column.to_pandas(types_mapper=dtypes.get)


def _entity(value: Any) -> Any:
    """Nodes and relationships without the engine's own ids; paths as lists of both."""
    if isinstance(value, list):
        return [_entity(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "_NODES" in value:
        return {"nodes": _entity(value["_NODES"]), "relationships": _entity(value["_RELS"])}
    inner = {"_ID", "_SRC", "_DST", "_LABEL"}
    kept = {name: item for name, item in value.items() if name not in inner and item is not None}
    return {"_label": value["_LABEL"], **kept}
