"""What was seen on a text, beside a staged build: statistics of features and edges, and examples. Read without torch.

Specification, format 1. Keywords as in RFC 2119. ::

    BUILD/observations/
      default                   name of the observation that stores load and questions use
      NAME/
        manifest.json           written last: its presence means "finished"
        run.json                when and how long; outside every hash
        layers.parquet          one row a layer of the set: LAYER
        features.parquet        one row a feature, in the order of the build's row numbers: FEATURE
        edges/KIND.parquet      one row a kept edge, in the order of the build's files: source, target, EVIDENCE
        edges/KIND_VIA/L0005H003.parquet   the same of one head, in the order of the build's file of that name: source,
                                target, EVIDENCE_VIA; optional
        extra/FEEDS.parquet     edges the build did not keep: source, target, weight, EVIDENCE; sorted (target, source)
        examples.parquet        where features fire: EXAMPLE, sorted by (feature, kind, rank)
        windows.parquet         window int64, ids list<int32>: the windows that hold an example
        work/                   parts of an unfinished observation; a finished one has none

* An observation is no part of the build's hash: builds stay what their inputs make them, observations come and go.
* The manifest names the build's run and MUST match it: a reader refuses another build's observation.
* Nothing here is needed to answer by weight, z or share. ``extra`` edges carry ``weight`` only; ``z`` and ``share``
  follow from the build's statistics as for kept ones (:meth:`atlas.staging.Build.derive`).
* ``extra`` holds each live target's strongest live sources; into a feature that is not live nothing is looked for.
* A statistic that is undefined is null: no lift without firing on both sides, no TWERA where the target never fires.
* Edges through heads have evidence where the build had heads and the text was read for them: then the manifest says
  ``"heads": true`` and there MUST be a file for each of the build's files of those kinds. An observation without them
  reads as null. What the statistics are says :mod:`ingest.evidence.through`; into a logit only drive is defined.
* ``kept_by`` is a set of bits: 1 weight, 2 z, 4 twera, 8 drive.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.errors import BadBuild, BadSetting
from atlas.staging import Build

FORMAT = 1
KEPT_BY = ("weight", "z", "twera", "drive")
MOST_EXAMPLES = 10_000
"""of each kind, of a feature"""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)

_NAME = re.compile(r"[^\W_][\w.-]{0,99}")
_FLOATS = pa.list_(pa.float32())
EVIDENCE = pa.schema(
    [
        ("n_both", pa.int64()),
        ("lift", pa.float32()),
        ("drive_active", pa.float32()),
        ("drive_mean", pa.float32()),
        ("era", pa.float32()),
        ("twera", pa.float32()),
        ("kept_by", pa.int8()),
    ]
)
EVIDENCE_VIA = pa.schema(
    [(name, pa.float32()) for name in ("attended", "lift", "drive_active", "drive_mean", "era", "twera")]
)
_ENDS = [("source", pa.int32()), ("target", pa.int32())]
EDGE = pa.schema([*_ENDS, *EVIDENCE])
EDGE_VIA = pa.schema([*_ENDS, *EVIDENCE_VIA])
EXTRA = pa.schema([*_ENDS, ("weight", pa.float32()), *EVIDENCE])
FEATURE = pa.schema(
    [
        ("n_fires", pa.int64()),
        ("density", pa.float32()),
        ("mean_active", pa.float32()),
        ("mean", pa.float32()),
        ("max_active", pa.float32()),
        ("inv_sigma", pa.float32()),
        ("token_share", pa.float32()),
        ("live", pa.bool_()),
        ("always_on", pa.bool_()),
        ("quantiles", _FLOATS),
        ("bin_edges", _FLOATS),
        ("bin_counts", pa.list_(pa.int64())),
        ("top_tokens", pa.list_(pa.int32())),
        ("top_token_shares", _FLOATS),
    ]
)
LAYER = pa.schema(
    [
        ("layer", pa.int32()),
        ("positions", pa.int64()),
        ("l0", pa.float64()),
        ("explained", pa.float64()),
        ("explained_positions", pa.int64()),
        ("inv_sigma", pa.float64()),
        ("inv_sigma_post", pa.float64()),
        ("dead", pa.int64()),
        ("always_on", pa.int64()),
    ]
)
EXAMPLE = pa.schema(
    [
        ("feature", pa.int32()),
        ("kind", pa.int8()),
        ("rank", pa.int16()),
        ("value", pa.float32()),
        ("window", pa.int64()),
        ("position", pa.int32()),
        ("around", _FLOATS),
    ]
)
STRONGEST, SAMPLE = 0, 1
"""kinds of example: the strongest, one a window, strongest first; a uniform sample of all firings, strongest first"""


@dataclass(frozen=True)
class Observation:
    """A finished observation of one build. Make one with :func:`find`."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def positions(self) -> int:
        """Counted positions: neither BOS nor padding."""
        return int(self.manifest["positions"])

    def features(self) -> pa.Table:
        """One row a feature; columns :data:`FEATURE`."""
        return self._read("features.parquet")

    def layers(self) -> pa.Table:
        """One row a layer; columns :data:`LAYER`."""
        return self._read("layers.parquet")

    def edges(self, kind: str) -> pa.Table:
        """Evidence for the kept edges, row for row; columns :data:`EDGE`."""
        return self._read(f"edges/{kind}.parquet")

    @property
    def heads(self) -> bool:
        """Whether edges through heads have evidence."""
        return bool(self.manifest.get("heads"))

    def through(self, kind: str, name: str) -> pa.Table:
        """Evidence for the edges of one kind through one head, row for row; columns :data:`EDGE_VIA`.

        ``name``: the head's, :func:`atlas.through.file_name`. Where :attr:`heads` is false there is none to read.
        """
        return self._read(f"edges/{kind}/{name}.parquet")

    def extra(self) -> pa.Table:
        """Edges that evidence alone keeps; columns :data:`EXTRA`."""
        return self._read("extra/FEEDS.parquet")

    def examples(self, feature: int) -> pa.Table:
        """Where one feature fires, by its row number; columns :data:`EXAMPLE` and ``ids``, its window's tokens."""
        found = pq.read_table(self.path / "examples.parquet", filters=[("feature", "=", feature)])
        windows = sorted(set(found["window"].to_pylist()))
        texts = pq.read_table(self.path / "windows.parquet", filters=[("window", "in", windows)]) if windows else None
        ids = dict(zip(texts["window"].to_pylist(), texts["ids"].to_pylist(), strict=True)) if texts else {}
        column = pa.array([ids[window] for window in found["window"].to_pylist()], pa.list_(pa.int32()))
        return found.append_column("ids", column)

    def _read(self, name: str) -> pa.Table:
        try:
            return pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise BadBuild(f"{self.path / name} cannot be read ({error}); observe the text again") from error


def folder(build: Build) -> Path:
    """Where a build's observations are."""
    return build.path / "observations"


def check_name(name: str) -> None:
    """Raises BadSetting for what is no name: an observation is a folder, beside the file ``default``."""
    if not _NAME.fullmatch(name) or name == "default":
        raise BadSetting(
            f"{ascii(name)[:60]} is no name for an observation; write letters, digits, '.', '_' or '-', a letter or "
            "a digit first, and not default"
        )


def names(build: Build) -> list[str]:
    """Finished observations, by name."""
    return sorted(path.parent.name for path in folder(build).glob("*/manifest.json"))


def default_name(build: Build) -> str | None:
    """The observation that stores load; None where nothing was observed."""
    found = names(build)
    try:
        chosen = (folder(build) / "default").read_text().strip()
    except FileNotFoundError:
        chosen = ""
    return chosen if chosen in found else found[0] if found else None


def find(build: Build, name: str | None = None) -> Observation:
    """An observation by name, or the default one. Raises :class:`atlas.errors.BadBuild` where there is none."""
    chosen = name or default_name(build)
    if chosen is None:
        raise BadBuild(
            f"nothing was observed for {build.set_key}; run `atlas observe {build.set_key} --text FILE` first"
        )
    if chosen not in names(build):
        raise BadBuild(f"{build.set_key} has no observation {chosen!r}; it has {', '.join(names(build)) or 'none'}")
    path = folder(build) / chosen
    manifest = json.loads((path / "manifest.json").read_text())
    if manifest.get("format") != FORMAT or manifest.get("build") != build.run:
        raise BadBuild(f"{path} is of another build or format; observe the text again")
    for file, entry in manifest["files"].items():
        size = (path / file).stat().st_size if (path / file).is_file() else -1
        if size != entry["bytes"]:
            raise BadBuild(f"{path / file} should have {entry['bytes']} bytes, found {max(size, 0)}; observe it again")
    return Observation(path, manifest)


def make_default(build: Build, name: str) -> None:
    """Let stores and questions use this one; what is loaded already changes with the next load."""
    find(build, name)
    part = folder(build) / "default.part"
    part.write_text(f"{name}\n")
    part.replace(folder(build) / "default")


def remove(build: Build, name: str) -> int:
    """Delete an observation, finished or not; returns the bytes freed."""
    path = folder(build) / name
    if path.parent != folder(build) or not path.is_dir():
        raise BadBuild(f"{build.set_key} has no observation {name!r}; it has {', '.join(names(build)) or 'none'}")
    freed = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    shutil.rmtree(path)
    return freed


def table(build: Build) -> pd.DataFrame:
    """One row an observation: ``name, default, text, positions, extra_edges, date, run``."""
    rows = []
    for name in names(build):
        found = find(build, name)
        run = json.loads((found.path / "run.json").read_text()) if (found.path / "run.json").exists() else {}
        rows.append(
            (
                name,
                name == default_name(build),
                found.manifest["corpus"]["name"],
                found.positions,
                found.manifest["files"]["extra/FEEDS.parquet"]["rows"],
                str(run.get("finished", ""))[:10],
                found.manifest["run"],
            )
        )
    columns = ["name", "default", "text", "positions", "extra_edges", "date", "run"]
    return pd.DataFrame(rows, columns=columns).astype(
        dict.fromkeys(("name", "text", "date", "run"), "str")
        | {"default": "bool", "positions": "int64", "extra_edges": "int64"}
    )
