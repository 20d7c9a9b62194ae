"""Neuronpedia's exports of explanations: ``explanations/batch-N.jsonl.gz``, a JSON object a line.

Rows name ``modelId``, ``layer`` (layer and source, such as ``20-gemmascope-transcoder-16k``), ``index`` as text,
``description``, ``typeName`` (how it was made), ``explanationModelName`` (by which model), ``authorId`` and, in some, a
date; batches are sorted by index *as text*. One feature may have several explanations: each becomes a description.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.descriptions import Descriptions
from atlas.descriptions.staging import Staging, scores
from atlas.errors import BadDescriptions
from atlas.provenance import Run
from atlas.staging import Build, sha256

METHOD = "neuronpedia"
_BATCH = 10_000
_KNOWN = ("description", "index", "layer", "modelId")
_ACTIVATIONS = ("maxActApprox", "frac_nonzero", "pos_str", "neg_str")
_DETAILS = pa.schema([("feature", pa.int32()), ("row", pa.string())])


def read(build: Build, place: Path) -> Descriptions:
    """Take in one batch or a folder of them; all or nothing.

    Raises :class:`atlas.errors.BadDescriptions` for a file that is cut off or of another shape, and where rows are of
    another set or name features that this one does not have.
    """
    files = _files(place)
    run = Run(
        {"build": build.run, "set": build.set_key, "files": {path.name: sha256(path) for path in files}},
        {"import": METHOD},
    )
    staging = Staging(build, METHOD, run)
    if found := staging.finished():
        return found
    names = _names(build)
    found_rows: list[tuple[int, int, dict[str, Any]]] = []
    elsewhere: dict[str, int] = {}
    for path in files:
        for number, row in _rows(path):
            layer, _, source = str(row["layer"]).partition("-")
            if str(row["modelId"]) not in names["models"] or source not in names["sources"]:
                other = f"{row['modelId']}/{row['layer']}"
                elsewhere[other] = elsewhere.get(other, 0) + 1
                continue
            feature = _feature(build, layer, str(row["index"]), f"{path.name} line {number}")
            found_rows.append((feature, len(found_rows), row))
    if not found_rows:
        others = ", ".join(sorted(elsewhere)[:3]) or "nothing"
        raise BadDescriptions(
            f"{place} describes {others}, not {build.set_key}; export that set, or name it with --set"
        )
    found_rows.sort(key=lambda entry: entry[:2])
    columns = {
        "feature": pa.array([feature for feature, _, _ in found_rows], pa.int32()),
        "text": pa.array([row["description"].strip() for _, _, row in found_rows], pa.string()),
        "explainer": pa.array([row.get("explanationModelName") or "" for _, _, row in found_rows], pa.string()),
        "scores": pa.array([_scores(row) for _, _, row in found_rows], pa.string()),
        "created": pa.array([str(row.get("createdAt") or "")[:10] for _, _, row in found_rows], pa.string()),
    }
    lines = pa.array([json.dumps(row, ensure_ascii=False) for _, _, row in found_rows], pa.string())
    details = pa.table({"feature": columns["feature"], "row": lines}, schema=_DETAILS)
    about = {"settings": run.settings, "imported_from": place.name, "left_out": elsewhere}
    return staging.finish(pa.table(columns), details, about)


def write(found: Descriptions, out: Path) -> list[Path]:
    """Descriptions as explanations in Neuronpedia's layout, ``batch-N.jsonl.gz``; imported rows as they came."""
    out.mkdir(parents=True, exist_ok=True)
    build = found.build
    keys = build.keys("Feature").to_pylist()
    if found.method == METHOD:
        rows = [json.loads(row) for row in found.details()["row"].to_pylist()]
    else:
        rows = []
        for key, said in zip(found.keys.to_pylist(), found.texts.to_pylist(), strict=True):
            model, layer, index = keys[said["feature"]].split("/")
            rows.append(
                {
                    "id": key,
                    "modelId": model,
                    "layer": layer,
                    "index": index,
                    "description": said["text"],
                    "typeName": found.method,
                    "explanationModelName": said["explainer"],
                    "authorId": "",
                    "createdAt": said["created"],
                }
            )
    rows.sort(key=lambda row: str(row["index"]))
    files = []
    for number, first in enumerate(range(0, len(rows), _BATCH)):
        path = out / f"batch-{number}.jsonl.gz"
        beside = path.with_name(f".{path.name}")
        with beside.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            for row in rows[first : first + _BATCH]:
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        beside.replace(path)
        files.append(path)
    return files


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BadDescriptions(f"{place} is not there; give a batch-N.jsonl.gz or a folder of them")
    found = sorted(path for path in place.rglob("*") if path.name.endswith((".jsonl.gz", ".jsonl")))
    if not found:
        raise BadDescriptions(f"{place} has no batch-N.jsonl.gz; Neuronpedia exports explanations in such files")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if isinstance(row, dict) and not {*_ACTIVATIONS}.isdisjoint(row):
                    raise BadDescriptions(
                        f"{path} line {number} is of an export of features; their activations are not taken in, since "
                        "some were computed on another tensor than the set reads: give the folder explanations/"
                    )
                if (
                    not isinstance(row, dict)
                    or not isinstance(row.get("description"), str)
                    or not row.keys() >= {*_KNOWN}
                ):
                    raise BadDescriptions(
                        f"{path} line {number} has no {', '.join(_KNOWN)}; is it an export of explanations?"
                    )
                yield number, row
    except (EOFError, OSError, ValueError) as error:
        raise BadDescriptions(f"{path} ends or breaks after line {number} ({error}); fetch it again") from error


def _names(build: Build) -> dict[str, set[str]]:
    """What Neuronpedia may call this model and set: our own names, and its own where the set states them."""
    stated = str(build.nodes("TranscoderSet")["neuronpedia_id"][0])
    model, _, source = stated.rpartition("/")
    return {"models": {build.model, model} - {""}, "sources": {build.set, source} - {""}}


def _feature(build: Build, layer: str, index: str, where: str) -> int:
    sizes = dict(zip(build.layers, build.features_per_layer, strict=True))
    if not (layer.isdigit() and index.isdigit()) or int(index) >= sizes.get(int(layer), 0):
        raise BadDescriptions(f"{where} describes feature {layer}/{index}, which {build.set_key} does not have")
    return int(index) + sum(size for other, size in sizes.items() if other < int(layer))


def _scores(row: dict[str, Any]) -> str:
    given = row.get("scores")
    return scores(type=row.get("typeName") or None, author=row.get("authorId") or None, scores=given or None)
