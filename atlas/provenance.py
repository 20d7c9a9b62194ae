"""Where a result came from: code, inputs, settings, and the short name that stands for all three.

A run's name is the first 12 hex digits of the SHA-256 over its inputs and settings as canonical JSON.
Times, machine and device are noted beside it, outside the hash: the same input gives the same run anywhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from atlas.errors import AtlasError


def version() -> str:
    """Version of the installed distribution."""
    try:
        return metadata.version("feature-atlas")
    except metadata.PackageNotFoundError:
        raise AtlasError("feature-atlas is not installed; run `pip install -e .` in its folder") from None


def canonical(value: Any) -> str:
    """One text for equal values: sorted names, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class Run:
    """One computation. ``inputs``: hashes and revisions; ``settings``: everything asked that changes the result."""

    inputs: dict[str, Any]
    settings: dict[str, Any]
    code: str = field(default_factory=version)

    @property
    def id(self) -> str:
        text = canonical({"inputs": self.inputs, "settings": self.settings, "code": self.code})
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def row(self) -> dict[str, str]:
        """The Run node."""
        return {
            "key": self.id,
            "code": self.code,
            "inputs": canonical(self.inputs),
            "settings": canonical(self.settings),
        }
