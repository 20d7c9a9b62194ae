"""The arrows of the house, and what may not load what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = ("atlas", "ingest", "queries")


def modules_loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_every_import_follows_the_arrows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)

    assert lint_imports(config_filename="pyproject.toml", no_cache=True) == 0


@pytest.mark.parametrize("statement", ["import atlas", "import queries", "import atlas.cli"])
def test_questions_never_load_torch(statement: str):
    assert not modules_loaded_by(statement) & {"torch", "transformers", "transformer_lens", "sae_lens", "numba"}


def test_the_command_line_waits_for_no_data_library():
    assert not modules_loaded_by("import atlas.cli") & {"pandas", "pyarrow", "ladybug", "neo4j", "scipy"}


def test_no_file_is_longer_than_four_hundred_lines():
    files = [path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_room_is_called_utils():
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")}

    assert not names & {"utils", "util", "helpers", "misc", "common"}
