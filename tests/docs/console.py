"""Worked examples in the documentation: run them, compare them, write them anew.

An example is a fenced ``console`` block: a line that begins with ``$ atlas`` is a command, the rest is what it prints.
A block that is fenced as ``console roughly`` rests on random samples, whose numbers change with the last digit of any
weight: there only words and sizes are compared.
``python -m tests.docs.console`` makes the bundled atlas in a temporary folder and rewrites the examples of every page.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```console( roughly)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
_BAR = re.compile("[▁▂▃▄▅▆▇█]+")


@dataclass(frozen=True)
class Example:
    """One command of a page and what the page says it prints."""

    page: str
    command: str
    printed: str
    roughly: bool


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> Iterator[Example]:
    for roughly, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield Example(page.name, command, printed.rstrip(), bool(roughly))


def run(command: str) -> str:
    """What a command prints on either stream, errors included; its exit code is part of the answer when it is not 0."""
    from atlas.cli import main

    program, *arguments = shlex.split(command)
    if program != "atlas":
        raise ValueError(f"only atlas commands are examples, found {command!r}")
    written = io.StringIO()
    streams = contextlib.redirect_stdout(written), contextlib.redirect_stderr(written)
    with streams[0], streams[1], contextlib.suppress(SystemExit):
        main(arguments)
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def alike(found: str, printed: str, roughly: bool = False) -> bool:
    """Equal word for word, and number for number but for the last digit shown: processors round differently.

    A bar is drawn from a number, so it may be one step longer or shorter. ``roughly``: numbers up to a factor of two,
    small ones up to their sign.
    """
    if roughly:
        found, printed = (re.sub("[+−]", "", text) for text in (found, printed))
    if _skeleton(found) != _skeleton(printed):
        return False
    pairs = zip(_NUMBER.findall(found), _NUMBER.findall(printed), strict=True)
    return all(_close(one, other) or (roughly and _near(one, other)) for one, other in pairs)


def _skeleton(text: str) -> str:
    return re.sub(r"[ ]+", " ", _BAR.sub("|", _NUMBER.sub("#", text)))


def _close(one: str, other: str) -> bool:
    decimals = len(other.partition(".")[2].partition("e")[0])
    value, expected = float(one.replace(",", "")), float(other.replace(",", ""))
    return math.isclose(value, expected, rel_tol=1e-3, abs_tol=1.01 * 10**-decimals if decimals else 0)


def _near(one: str, other: str) -> bool:
    value, expected = float(one.replace(",", "")), float(other.replace(",", ""))
    return abs(value - expected) <= max(3.0, 0.5 * max(abs(value), abs(expected)))


def rewrite(page: Path) -> None:
    def answered(block: re.Match[str]) -> str:
        commands = [line[2:] for line in block[2].splitlines() if line.startswith("$ ")]
        return (
            f"```console{block[1] or ''}\n"
            + "\n\n".join(f"$ {command}\n{run(command)}" for command in commands)
            + "\n```"
        )

    page.write_text(_BLOCK.sub(answered, page.read_text(encoding="utf-8")), encoding="utf-8")


def make_atlas(home: Path) -> None:
    """The bundled model as an atlas in ``home``, and the environment that finds it."""
    os.environ.update(ATLAS_HOME=str(home), COLUMNS="100")
    os.environ.pop("ATLAS_STORE", None)
    printed = run("atlas ingest bunny -q")
    if printed:
        raise RuntimeError(printed)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        make_atlas(Path(folder))
        for page in pages():
            rewrite(page)
            print(f"{page.relative_to(ROOT)}: {len(list(examples(page)))} examples", file=sys.stderr)
