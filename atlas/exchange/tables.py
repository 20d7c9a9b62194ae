"""Descriptions as plain tables: one row a description, for spreadsheets and data frames."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from atlas.descriptions import Descriptions
from atlas.staging import Build


def frame(build: Build, runs: list[Descriptions]) -> pa.Table:
    """Columns ``key, layer, idx, description, method, explainer, text, scores, created, run``, sorted by feature."""
    features = build.nodes("Feature")
    parts = []
    for one in runs:
        nodes, rows = one.nodes(), one.texts["feature"]
        columns = {name: pc.take(features[name].combine_chunks(), rows) for name in ("key", "layer", "idx")}
        columns |= {"description": nodes["key"]}
        columns |= {name: nodes[name] for name in ("method", "explainer", "text", "scores", "created", "run")}
        parts.append(pa.table(columns))
    if not parts:
        return pa.table({name: pa.array([], pa.string()) for name in ("key", "description", "text")})
    return pa.concat_tables(parts).sort_by([("layer", "ascending"), ("idx", "ascending"), ("description", "ascending")])


def write(build: Build, runs: list[Descriptions], out: Path) -> Path:
    """A ``.csv`` or ``.parquet`` file, by its name."""
    table = frame(build, runs)
    beside = out.with_name(f".{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        pyarrow.csv.write_csv(table, beside)
    else:
        pq.write_table(table, beside, compression="zstd")
    beside.replace(out)
    return out
