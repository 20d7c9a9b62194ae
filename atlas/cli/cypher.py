"""Cypher: the named queries, and your own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import Output, answer, opened, question
from atlas.errors import BadQuery

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@question
@click.argument("name", required=False)
@click.argument("parameters", nargs=-1, metavar="[name=value]…")
@click.option("--list", "listed", is_flag=True, help="The named queries and what each answers.")
@click.option("--show", is_flag=True, help="The query's text, ready for Neo4j Browser.")
def query(output: Output, name: str | None, parameters: tuple[str, ...], listed: bool, show: bool) -> None:
    """One of the named Cypher queries."""
    import queries

    if listed or name is None:
        answer(output, queries.catalog(), text=_listing)
    elif show:
        click.echo(queries.query_text(name), nl=False)
    else:
        with opened(output) as graph:
            answer(output, queries.query(graph, name, **_values(parameters)))


@click.command()
@question
@click.argument("text")
@click.option("-p", "parameters", multiple=True, metavar="name=value", help="A parameter of the query; repeat.")
@click.option("--max-rows", type=click.IntRange(min=1), default=10_000, show_default=True, help="Stop after these.")
def cypher(output: Output, text: str, parameters: tuple[str, ...], max_rows: int) -> None:
    """Your own Cypher, read-only."""
    import queries

    with opened(output) as graph:
        found = queries.cypher(graph, text, _values(parameters), timeout=output.timeout, max_rows=max_rows)
        answer(output, found)


def _listing(frame: pd.DataFrame) -> str:
    """Each query with its parameters, below it what it answers: more than a table has room for."""
    rows = zip(frame["name"], frame["parameters"], frame["answers"], strict=True)
    return "\n".join(f"{' '.join(f'{name} {parameters}'.split())}\n    {answers}" for name, parameters, answers in rows)


def _values(parameters: tuple[str, ...]) -> dict[str, Any]:
    """Read ``name=value``: a value that is JSON is that number, list or text; any other is text as it stands."""
    values = {}
    for parameter in parameters:
        name, equals, text = parameter.partition("=")
        if not equals or not name.isidentifier():
            raise BadQuery(f"{parameter!r} is no parameter; write name=value")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values
