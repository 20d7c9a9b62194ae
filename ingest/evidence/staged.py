"""Tables of one observation, and writing them down (:mod:`atlas.observations` has the format)."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas import observations
from atlas.staging import sha256
from ingest.evidence.corpus import Corpus
from ingest.evidence.counting import Shape, Sums
from ingest.evidence.relations import Totals

_ROWS_A_GROUP = 4096
_IDS_A_CHUNK = 1 << 26


def examples(sums: Sums) -> pa.Table:
    """A block's examples; columns :data:`atlas.observations.EXAMPLE`."""
    columns: dict[str, list[np.ndarray]] = {name: [] for name in observations.EXAMPLE.names}
    for kind, name in ((observations.STRONGEST, "top"), (observations.SAMPLE, "some")):
        window, value = sums.arrays[f"{name}_window"], sums.arrays[f"{name}_value"]
        row, slot = np.nonzero(window >= 0)
        # A sample is kept in the order of its hash; it is shown strongest first.
        order = np.lexsort((window[row, slot], -value[row, slot], row))
        row, slot = row[order], slot[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        columns["feature"].append(row + sums.rows.start)
        columns["kind"].append(np.full(len(row), kind))
        columns["rank"].append(rank)
        columns["value"].append(value[row, slot])
        columns["window"].append(window[row, slot])
        columns["position"].append(sums.arrays[f"{name}_position"][row, slot])
        columns["around"].append(sums.arrays[f"{name}_around"][row, slot])
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    order = np.lexsort((whole["rank"], whole["kind"], whole["feature"]))
    arrays = {
        name: pa.array(values[order], observations.EXAMPLE.field(name).type)
        for name, values in whole.items()
        if name != "around"
    }
    around = whole["around"][order]
    offsets = np.arange(0, around.size + 1, around.shape[1], dtype=np.int32)
    arrays["around"] = pa.ListArray.from_arrays(offsets, pa.array(around.ravel(), pa.float32()))
    return pa.table(arrays, schema=observations.EXAMPLE)


def windows(text: Corpus, used: np.ndarray) -> pa.Table:
    """Token ids of some windows. A list's offsets are int32, so those of many stand in several chunks."""
    chunks = []
    for some in np.array_split(used, len(used) * text.longest // _IDS_A_CHUNK + 1):
        ids = [text.ids[text.starts[window] : text.starts[window + 1]] for window in some.tolist()]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int32)
        chunks.append(pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([np.empty(0, np.int32), *ids]))))
    return pa.table({"window": used, "ids": pa.chunked_array(chunks)})


def layers(
    numbers: list[int], fits: list[dict[str, Any]], totals: Totals, features: pa.Table, shape: Shape
) -> pa.Table:
    """Figures by layer; columns :data:`atlas.observations.LAYER`."""
    fires, always_on = features["n_fires"].to_numpy(), features["always_on"].to_numpy()
    spans = [slice(int(a), int(b)) for a, b in zip(shape.first[:-1], shape.first[1:], strict=True)]
    return pa.table(
        {
            "layer": numbers,
            "positions": [totals.positions] * len(numbers),
            "l0": [float(fires[span].sum() / totals.positions) for span in spans],
            "explained": [fit["explained"] for fit in fits],
            "explained_positions": [fit["positions"] for fit in fits],
            "inv_sigma": totals.inverse["in"] / totals.positions,
            "inv_sigma_post": totals.inverse["out"] / totals.positions,
            "dead": [int((fires[span] == 0).sum()) for span in spans],
            "always_on": [int(always_on[span].sum()) for span in spans],
        },
        schema=observations.LAYER,
    )


def write(
    folder: Path,
    tables: dict[str, pa.Table],
    manifest: dict[str, Any],
    started: datetime,
    device: str,
    there: list[str],
) -> None:
    """Write everything, the manifest last, and clear the work away. ``there``: tables that are written already."""
    entries = {}
    for name, table in sorted(tables.items()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, compression="zstd", compression_level=1, row_group_size=_row_group(name))
    for name in [*sorted(tables), *there]:
        path = folder / name
        rows = pq.read_metadata(path).num_rows
        entries[name] = {"rows": rows, "bytes": path.stat().st_size, "sha256": sha256(path)}
    finished = datetime.now(UTC)
    run = {"started": started.isoformat(), "finished": finished.isoformat(), "device": device}
    (folder / "run.json").write_text(json.dumps(run) + "\n")
    part = folder / "manifest.part"
    part.write_text(json.dumps({**manifest, "files": entries}, indent=1, sort_keys=True) + "\n")
    os.replace(part, folder / "manifest.json")
    shutil.rmtree(folder / "work")


def _row_group(name: str) -> int:
    """Small where one feature's rows are looked up, large where everything is read."""
    return _ROWS_A_GROUP if name in ("examples.parquet", "windows.parquet") else 1 << 20
