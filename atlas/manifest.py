"""The manifest of a staged build, read and held to its specification, which is :mod:`atlas.staging`'s.

It is written last, so a folder that has one is whole: whatever it names must be there, in the size that it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from pathlib import Path
from typing import Any

from atlas.errors import BadBuild
from atlas.model import MODEL_NAME, SET_NAME

FORMAT = 1
_FILE_NAME = re.compile(
    r"^((nodes|stats|edges/[A-Z_]+)/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.parquet|vectors/(en|de)coder\.npy)\Z"
)


def read_manifest(path: Path, needed: Set[str]) -> dict[str, Any]:
    """The manifest of the build in a folder, whose files are there in full; ``needed``: files that it must name.

    Raises :class:`atlas.errors.BadBuild` where the folder is no finished build.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        state = "is not finished: run the same ingest again to resume" if (path / "work").is_dir() else "is not a build"
        raise BadBuild(f"{path} {state} (it has no manifest.json)") from None
    except (OSError, ValueError) as error:
        raise BadBuild(f"{path}/manifest.json cannot be read ({error}); build it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else "no object"
        raise BadBuild(f"{path} has format {found}, this version reads format {FORMAT}; build it again")
    try:
        lacking = _lacking(manifest, needed)
    except (KeyError, TypeError, AttributeError) as error:
        lacking = f"{type(error).__name__}: {error}"
    if lacking:
        raise BadBuild(f"{path}/manifest.json is not one of format {FORMAT} ({lacking}); build it again")
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != entry["bytes"]:
            found = f"{file.stat().st_size} bytes" if file.is_file() else "nothing"
            raise BadBuild(f"{file} should have {entry['bytes']} bytes, found {found}; build it again")
    return manifest


def _lacking(manifest: dict[str, Any], needed: Set[str]) -> str:
    """What the specification asks of a manifest and this one has not; empty where it is whole."""
    layers, sizes = manifest["layers"], manifest["features_per_layer"]
    rules = {
        "model.name": bool(MODEL_NAME.match(manifest["model"]["name"])),
        "set.name": bool(SET_NAME.match(manifest["set"]["name"])),
        "run": bool(re.match(r"^[0-9a-f]{12}\Z", manifest["run"])),
        "layers": layers == sorted(set(layers)) and len(layers) > 0 and all(type(n) is int and n >= 0 for n in layers),
        "features_per_layer": len(sizes) == len(layers) and all(type(n) is int and n > 0 for n in sizes),
        "files": needed <= manifest["files"].keys() and all(map(_FILE_NAME.match, manifest["files"])),
        "both vectors": len({f"vectors/{name}.npy" in manifest["files"] for name in ("encoder", "decoder")}) == 1,
        "rows, bytes and sha256 of every file": all(
            type(entry["rows"]) is type(entry["bytes"]) is int and type(entry["sha256"]) is str
            for entry in manifest["files"].values()
        ),
    }
    return ", ".join(rule for rule, holds in rules.items() if not holds)
