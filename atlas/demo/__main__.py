"""``make demo``: the bundled model becomes an atlas, and the atlas answers a few questions.

Everything below is an ordinary ``atlas`` command; each is printed before its answer, to be typed again.
"""

from __future__ import annotations

import shlex
import time

import click

import atlas
import queries
from atlas import settings
from atlas.cli import cli
from atlas.errors import AtlasError, NoAtlas

WORD = "queen"


def quoted(argument: str) -> str:
    """An argument as a person would type it for a shell."""
    return f'"{argument}"' if "'" in argument else shlex.quote(argument)


def run(*arguments: str) -> None:
    """Print a command, then do it."""
    click.secho(f"\n$ atlas {' '.join(map(quoted, arguments))}", bold=True)
    cli.main(args=list(arguments), prog_name="atlas", standalone_mode=False)


def loaded() -> bool:
    """Whether the bundled model is in the atlas already: a second demo only asks."""
    try:
        with atlas.open() as graph:
            return "bunny" in set(queries.models(graph)["model"])
    except NoAtlas:
        return False


def strongest_last_feature() -> str:
    """A feature of the last layer with a lot behind it: the end of the circuit and the path shown."""
    with atlas.open() as graph:
        found = queries.search(graph, WORD, k=100)
        return str(found.sort_values(["layer", "score"], ascending=False)["key"].iloc[0])


def main() -> None:
    start = time.perf_counter()
    if not loaded():
        run("ingest", "bunny")
    run("models")
    run("search", WORD, "-k", "8")
    with atlas.open() as graph:
        first = str(queries.search(graph, WORD, k=1)["key"].iloc[0])
    last = strongest_last_feature()
    run("card", first)
    run("circuit", last)
    run("paths", f"token:' {WORD.title()}'", last, "-k", "3")
    place = settings.load().home
    click.secho(f"\nThat took {time.perf_counter() - start:.0f} s. The atlas is in {place}. To go on:", bold=True)
    click.echo(f"  export ATLAS_HOME={shlex.quote(str(place))}; . .venv/bin/activate")
    for line in (
        "atlas search witch",
        f"atlas inputs {first} --of tokens",
        f"atlas outputs {first} -k 10 --json",
        "atlas query --list",
        'atlas cypher "MATCH (f:Feature) RETURN f.layer AS layer, count(f) AS features ORDER BY layer"',
        "atlas --help",
    ):
        click.echo(f"  {line}")


if __name__ == "__main__":
    try:
        main()
    except AtlasError as error:
        raise SystemExit(f"Error: {error}") from None
