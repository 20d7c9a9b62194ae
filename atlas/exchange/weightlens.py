"""WeightLens' own JSON: ``feature_analysis_layer_{L}.json``, an array of one object a feature, sorted by feature.

The data sets ``egolimblevskaia/weightlens-*-transcoder-descriptions`` are folders of these files. A file is ASCII with
escapes, indented by two, without a final newline; reading one and writing it again gives the same bytes, the odd name
``top_negative_tokens_ids`` and nulls included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas import descriptions
from atlas.descriptions import Descriptions
from atlas.descriptions.staging import Staging, scores, texts
from atlas.errors import BadDescriptions
from atlas.provenance import Run
from atlas.staging import Build, sha256

METHODS = ("weightlens", "weightlens-paper")
NAME = re.compile(r"^feature_analysis_layer_(\d+)\.json$")
_NUMBERS, _WHOLES, _STRINGS = (int, float), (int,), (str,)
_EMBEDDING = {
    "top_positive_tokens": _STRINGS,
    "top_negative_tokens": _STRINGS,
    "positive_tokens_activation": _NUMBERS,
    "top_positive_token_ids": _WHOLES,
    "top_positive_tokens_contribution": _NUMBERS,
    "top_negative_tokens_ids": _WHOLES,
    "top_negative_tokens_contribution": _NUMBERS,
    "top_positive_tokens_relative_contribution": _NUMBERS,
    "top_negative_tokens_relative_contribution": _NUMBERS,
}
_LOGITS = {"top_positive_tokens": _STRINGS, "top_negative_tokens": _STRINGS}
_SOURCE = {
    "from_layer": _WHOLES,
    "from_feature_idx": _WHOLES,
    "contribution": _NUMBERS,
    "relative_contribution": _NUMBERS,
}
_WORDS = 8
Record = dict[str, Any]


def write(found: Descriptions, out: Path) -> list[Path]:
    """Every feature of every layer, a file a layer; returns the files.

    Raises :class:`atlas.errors.BadDescriptions` for a run that does not hold WeightLens' records.
    """
    if found.method not in METHODS:
        raise BadDescriptions(
            f"{found.build.set_key}: descriptions by {found.method} are not WeightLens'; run `atlas describe "
            f"{found.build.set_key} --preset weightlens` first"
        )
    out.mkdir(parents=True, exist_ok=True)
    details = found.details()
    layer_of, files = found.build.layer_of, []
    rows = details["feature"].to_numpy()
    for layer in found.build.layers:
        mine = pa.array(layer_of[rows] == layer)
        records = details.filter(mine)["record"].to_pylist()
        if not records:
            continue
        path = out / f"feature_analysis_layer_{layer}.json"
        beside = path.with_name(f".{path.name}")
        with beside.open("w", encoding="ascii") as file:
            dump((json.loads(record) for record in records), file)
        beside.replace(path)
        files.append(path)
    return files


def dump(records: Iterable[Record], file: Any) -> None:
    """As ``json.dump(list, file, indent=2)`` writes them, one at a time."""
    separator = "[\n"
    for record in records:
        text = json.dumps(record, indent=2)
        file.write(separator + "  " + text.replace("\n", "\n  "))
        separator = ",\n"
    file.write("[]" if separator == "[\n" else "\n]")


def read(build: Build, place: Path) -> Descriptions:
    """Take in a folder of such files, or one of them; all or nothing.

    Raises :class:`atlas.errors.BadDescriptions` for a file that is cut off, of another shape, of another set or with
    features that the set does not have.
    """
    files = _files(place)
    hashes = {path.name: sha256(path) for path in files}
    run = Run({"build": build.run, "set": build.set_key, "files": hashes}, {"import": "weightlens"})
    staging = Staging(build, "weightlens", run)
    if found := staging.finished():
        return found
    sizes = dict(zip(build.layers, build.features_per_layer, strict=True))
    first, start = {}, 0
    for layer, size in sizes.items():
        first[layer], start = start, start + size
    rows: dict[int, Record] = {}
    for path in files:
        here = _load(path)
        for number, record in enumerate(here):
            where = f"{path.name}, entry {number}"
            _check(record, where)
            layer, idx = record["feature"]["layer"], record["feature"]["feature_idx"]
            if layer not in sizes or not 0 <= idx < sizes[layer]:
                has = f"layer {layer} has {sizes[layer]} features" if layer in sizes else f"it has no layer {layer}"
                raise BadDescriptions(
                    f"{where} describes feature {idx} of layer {layer}, but {build.set_key}: {has}; is it "
                    "of another set?"
                )
            if first[layer] + idx in rows:
                raise BadDescriptions(f"{where} describes feature {layer}/{idx} a second time")
            rows[first[layer] + idx] = record
        _same_vocabulary(build, here, path)
    lines = [json.dumps(rows[row], ensure_ascii=False) for row in sorted(rows)]
    details = pa.table({"feature": pa.array(sorted(rows), pa.int32()), "record": pa.array(lines, pa.string())})
    said = [(row, _text(rows[row]), _scores(rows[row])) for row in sorted(rows) if rows[row]["description"]]
    about = {"settings": run.settings, "imported_from": place.name}
    return staging.finish(texts(said, f"WeightLens, from {place.name}"), details, about)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BadDescriptions(f"{place} is not there; give a folder of feature_analysis_layer_N.json, or one such file")
    found = [(int(match[1]), path) for path in place.iterdir() if (match := NAME.match(path.name))]
    if not found:
        raise BadDescriptions(f"{place} has no feature_analysis_layer_N.json; WeightLens writes one a layer")
    return [path for _, path in sorted(found)]


def _load(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadDescriptions(f"{path} is no whole JSON file ({error}); fetch or write it again") from error
    if not isinstance(content, list):
        raise BadDescriptions(f"{path} holds {_kind(content)}, expected an array of one object a feature")
    return content


def _check(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise BadDescriptions(f"{where} is {_kind(record)}, expected an object")
    for name, parts in (("feature", {}), ("embedding", _EMBEDDING), ("output_logits", _LOGITS)):
        if not isinstance(record.get(name), dict):
            raise BadDescriptions(f"{where} has no object {name!r}; is it WeightLens' JSON?")
        for part, types in parts.items():
            _check_list(record[name].get(part), types, f"{where}: {name}.{part}")
    for name in ("layer", "feature_idx"):
        if not _is(record["feature"].get(name), _WHOLES):
            raise BadDescriptions(
                f"{where}: feature.{name} is {_kind(record['feature'].get(name))}, expected a whole number"
            )
    embedding = record["embedding"]
    for other in ("positive_tokens_activation", "top_positive_token_ids", "top_positive_tokens_contribution"):
        if len(embedding[other]) != len(embedding["top_positive_tokens"]):
            raise BadDescriptions(f"{where}: embedding.{other} is not as long as embedding.top_positive_tokens")
    sources = record.get("feature_to_feature_contributions")
    if not isinstance(sources, list):
        raise BadDescriptions(f"{where} has no list 'feature_to_feature_contributions'")
    for source in sources:
        if not isinstance(source, dict) or not all(_is(source.get(name), types) for name, types in _SOURCE.items()):
            raise BadDescriptions(
                f"{where}: feature_to_feature_contributions has an entry without {', '.join(_SOURCE)}"
            )
    for name in ("description", "description_soft"):
        if record.get(name, 0) is not None:
            _check_list(record.get(name), _STRINGS, f"{where}: {name}")
    if not isinstance(record.get("validation"), bool) or not _is(record.get("validation_soft"), _NUMBERS):
        raise BadDescriptions(f"{where}: validation must be true or false, and validation_soft a number")


def _check_list(value: Any, types: tuple[type, ...], where: str) -> None:
    if not isinstance(value, list) or not all(_is(entry, types) for entry in value):
        names = {_NUMBERS: "numbers", _WHOLES: "whole numbers", _STRINGS: "texts"}
        raise BadDescriptions(f"{where} is {_kind(value)}, expected a list of {names[types]}")


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list of something else"
    names = {dict: "an object", str: "a text", bool: "true or false", type(None): "not there"}
    return names.get(type(value), repr(value)[:40])


def _same_vocabulary(build: Build, records: Iterable[Record], place: Path) -> None:
    """Whether token ids mean the same words here; strings may differ where a byte is no character."""
    tokens = build.nodes("Token")["text"].to_pylist()
    right = wrong = 0
    for record in records:
        embedding = record["embedding"]
        for token, text in zip(embedding["top_positive_token_ids"], embedding["top_positive_tokens"], strict=True):
            if not 0 <= token < len(tokens) or (
                tokens[token] != text and "�" not in text and "<0x" not in tokens[token]
            ):
                wrong += 1
            else:
                right += 1
    if wrong > right:
        raise BadDescriptions(
            f"{place}: of {right + wrong} tokens {wrong} say something else in the vocabulary of {build.model}; it is "
            "made for another model"
        )


def _text(record: Record) -> str:
    own = dict(
        zip(record["embedding"]["top_positive_tokens"], record["embedding"]["positive_tokens_activation"], strict=True)
    )
    said = sorted(record["description"], key=lambda text: -own.get(text, 0.0))
    shown = list(dict.fromkeys(text.strip() or repr(text) for text in said))
    return ", ".join(shown[:_WORDS])


def _scores(record: Record) -> str:
    return scores(
        validation=record["validation"], validation_soft=record["validation_soft"], tokens=len(record["description"])
    )


def newest(build: Build, run: str | None = None) -> Descriptions:
    """The WeightLens run of a build that was asked for last, or the one named.

    Raises :class:`atlas.errors.BadDescriptions`.
    """
    found = [one for one in descriptions.staged(build) if one.method in METHODS and run in (None, one.run)]
    if not found:
        return descriptions.find(build, METHODS[0], run)
    return max(found, key=lambda one: (one.times().get("asked", one.manifest["created"]), one.number))
