"""What every test shares: no settings of the person who runs them, and no clock in property tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Without an accelerator Triton interprets its kernels, so that their logic is tested; it looks when first imported.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("steady", deadline=None, print_blob=True)
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_ones_own() -> Iterator[None]:
    """A store or a home that the environment names must not be touched by tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "ATLAS_STORE",
            "ATLAS_HOME",
            "ATLAS_NEO4J_USER",
            "ATLAS_NEO4J_PASSWORD",
            "ATLAS_NEO4J_PASSWORD_FILE",
            "ATLAS_NEO4J_DATABASE",
        ):
            patch.delenv(name, raising=False)
        yield
