"""The notebooks run from the first cell to the last, and print what they say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.docs import console, notebooks


@pytest.fixture(scope="module")
def bundled_atlas(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("atlas")
        patch.setenv("ATLAS_HOME", str(home))
        patch.delenv("ATLAS_STORE", raising=False)
        console.make_atlas(home)
        yield


@pytest.mark.parametrize("page", notebooks.pages(), ids=lambda page: page.stem)
def test_a_notebook_runs_and_prints_what_is_stored_in_it(page: Path, bundled_atlas: None):
    stored = notebooks.printed(nbformat.read(page, as_version=4))

    different = [
        f"{source}\n--- stored\n{then}\n--- now\n{now}"
        for (source, then), (_, now) in zip(stored, notebooks.printed(notebooks.executed(page)), strict=True)
        if not console.alike(now, then, roughly=page.stem.startswith("compare"))
    ]

    assert not different, "\n\n".join([*different, "rewrite them: python -m tests.docs.notebooks"])


def test_there_is_a_notebook_for_each_way_to_work():
    assert [page.stem for page in notebooks.pages()] == ["compare_two_sets", "explore_a_feature", "follow_a_circuit"]
