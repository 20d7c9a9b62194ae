"""A whole set's graph as files for other tools: Parquet tables with keys, or one GraphML document.

The Parquet folder holds ``nodes/LABEL.parquet`` and ``edges/TYPE.parquet`` with the columns of :mod:`atlas.schema`, and
``descriptions.parquet`` where something is said of the features: pandas, DuckDB or Spark read it as it stands.
GraphML is http://graphml.graphdrawing.org, for Gephi, yEd and networkx.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from xml.sax.saxutils import escape, quoteattr

import pyarrow as pa
import pyarrow.parquet as pq

from atlas import descriptions, schema
from atlas.errors import BadSetting
from atlas.exchange import tables
from atlas.observed import Observed, observed
from atlas.staging import ALWAYS, Build, with_keys
from atlas.through import VIA

Progress = Callable[[str, int, int], None]
_SHOWN = {"Feature": ("label", "layer", "idx"), "Token": ("text", "token_id")}


def parquet(build: Build, out: Path, progress: Progress) -> Path:
    """Write the tables of one set into the new folder ``out``. Raises BadSetting where something is there."""
    seen = observed(build)
    with _appears(out) as beside:
        for label in build.labels:
            table = seen.nodes(label)
            with _writer(beside / "nodes" / f"{label}.parquet", table.schema) as writer:
                writer.write_table(table)
        done = 0
        for kind in build.kinds:
            columns = schema.EDGE[kind].stored_arrow
            with _writer(beside / "edges" / f"{kind}.parquet", columns) as writer:
                for table in _keyed(seen, kind):
                    writer.write_table(table.cast(columns))
                    done += len(table)
                    progress("edges", done, seen.n_edges)
        if said := descriptions.staged(build):
            tables.write(build, said, beside / "descriptions.parquet")
    return out


def graphml(build: Build, out: Path, progress: Progress) -> Path:
    """Write one set's features, tokens and connections as a new file. Raises BadSetting where one is there."""
    seen = observed(build)
    with _appears(out) as beside, beside.open("w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        nodes = {label: seen.nodes(label).select(["key", *shown]) for label, shown in _SHOWN.items()}
        carried = _carried(seen)
        _declare(file, "node", {"type": pa.string()} | {f.name: f.type for t in nodes.values() for f in t.schema})
        _declare(file, "edge", {"type": pa.string()} | carried)
        file.write('<graph edgedefault="directed">\n')
        for label, table in nodes.items():
            for row in table.to_pylist():
                file.write(f"<node id={quoteattr(row.pop('key'))}>{_data('node', {'type': label, **row})}</node>\n")
        done = 0
        for kind in build.kinds:
            for table in _keyed(seen, kind):
                said = [name for name in carried if name in table.column_names]
                for row in table.select(["source", "target", *said]).to_pylist():
                    ends = f"source={quoteattr(row.pop('source'))} target={quoteattr(row.pop('target'))}"
                    file.write(f"<edge {ends}>{_data('edge', {'type': kind, **row})}</edge>\n")
                done += len(table)
                progress("edges", done, seen.n_edges)
        file.write("</graph>\n</graphml>\n")
    return out


def _keyed(seen: Observed, kind: str) -> Iterator[pa.Table]:
    for table in seen.edges(kind):
        yield with_keys(seen, kind, table)


def _carried(seen: Observed) -> dict[str, pa.DataType]:
    """What an edge says: its weights, and evidence where a text was observed."""
    edge = schema.EDGE[ALWAYS[0]]
    names = [p.name for p in (edge.stored if seen.observation else edge.properties)]
    carried = {name: edge.stored_arrow.field(name).type for name in names}
    if "Head" in seen.labels:
        through = schema.EDGE[VIA[0]]
        names = [p.name for p in (through.stored if seen.observation else through.properties)]
        carried |= {name: through.stored_arrow.field(name).type for name in names}
    return carried


def _declare(file: TextIO, element: str, columns: dict[str, pa.DataType]) -> None:
    for name, kind in columns.items():
        if name == "key":
            continue
        word = "long" if pa.types.is_integer(kind) else "double" if pa.types.is_floating(kind) else "string"
        file.write(f'<key id="{element}_{name}" for="{element}" attr.name="{name}" attr.type="{word}"/>\n')


def _data(element: str, row: dict[str, object]) -> str:
    return "".join(
        f'<data key="{element}_{name}">{escape(_xml(str(value)))}</data>'
        for name, value in row.items()
        if value is not None
    )


def _xml(text: str) -> str:
    """XML 1.0 has no control characters, in no form: each becomes its picture, and what is no character its sign."""
    return "".join("\ufffd" if c in "\ufffe\uffff" else chr(0x2400 + ord(c)) if ord(c) < 32 else c for c in text)


@contextmanager
def _appears(out: Path) -> Iterator[Path]:
    """A place beside ``out`` that becomes it when all went well."""
    if out.exists():
        raise BadSetting(f"{out} is there already; name a new one, or remove it")
    beside = out.with_name(f".{out.name}.part")
    _clear(beside)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield beside
        beside.replace(out)
    finally:
        _clear(beside)


def _clear(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _writer(place: Path, columns: pa.Schema) -> pq.ParquetWriter:
    place.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(place, columns, compression="zstd")
