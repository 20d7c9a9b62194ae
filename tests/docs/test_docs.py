"""The documentation is true: examples print what they say, and nothing public goes unmentioned."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import queries
from atlas import errors
from atlas.cli import cli
from tests.docs import console, reference


@pytest.fixture(scope="module")
def bundled_atlas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("atlas")
        patch.setenv("ATLAS_HOME", str(home))
        patch.setenv("COLUMNS", "100")
        patch.delenv("ATLAS_STORE", raising=False)
        console.make_atlas(home)
        yield


@pytest.mark.parametrize("page", console.pages(), ids=lambda page: page.name)
def test_every_example_prints_what_the_page_says(page: Path, bundled_atlas: None):
    different = [
        f"$ {example.command}\n--- the page\n{example.printed}\n--- now\n{found}"
        for example in console.examples(page)
        if not console.alike(found := console.run(example.command), example.printed, example.roughly)
    ]

    assert not different, "\n\n".join([*different, "rewrite the examples: python -m tests.docs.console"])


def test_the_readme_shows_ten_commands():
    shown = {example.command.split()[1] for example in console.examples(console.ROOT / "README.md")}

    assert len(shown) >= 10


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_in_the_documentation(command: str):
    assert any(f"atlas {command}" in page.read_text(encoding="utf-8") for page in console.pages())


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_says_what_it_answers(command: str):
    assert len(cli.commands[command].get_short_help_str(200)) > 15


def test_every_public_question_has_a_docstring():
    bare = [name for name in queries.__all__ if not inspect.getdoc(getattr(queries, name))]

    assert bare == []


def test_the_tree_of_errors_is_drawn_whole():
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}

    assert {name for name in classes if name not in (errors.__doc__ or "")} == set()


def test_two_ways_to_round_one_number_are_alike_and_two_words_are_not():
    assert console.alike("token ▇▇▇ +31.2", "token ▇▇ +31.3")
    assert not console.alike("token ▇▇▇ +31.2", "token ▇▇ +33.3")
    assert not console.alike("rabbit +31.2", "hare +31.2")
    assert not console.alike("17 rows", "18 rows")
    assert console.alike("z −0.3, 940 expected", "z +1.1, 1,300 expected", roughly=True)
    assert not console.alike("z +12, 940 expected", "z +45, 940 expected", roughly=True)


def test_the_reference_page_is_what_the_code_declares():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "write it: python -m tests.docs.reference"
