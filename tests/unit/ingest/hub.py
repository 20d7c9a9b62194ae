"""A machine without a network, and what huggingface-hub's cache holds of a repository on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def without_a_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The hub's library keeps its cache in ``cache`` and reaches nobody."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cached_repository(cache: Path, repo: str, commit: str = COMMIT) -> Path:
    """The folder of a repository's files at the commit that its branch ``main`` points to."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    files = place / "snapshots" / commit
    files.mkdir(parents=True)
    return files
