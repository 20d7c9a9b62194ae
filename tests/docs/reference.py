"""``docs/reference.md``: the graph, the commands, the named queries and the errors, written from their declarations.

``python -m tests.docs.reference`` writes the page; a test compares it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

import queries
from atlas import errors, schema
from atlas.cli import cli
from tests.docs.console import ROOT

PAGE = ROOT / "docs" / "reference.md"


def page() -> str:
    return "\n".join([*_graph(), *_commands(), *_queries(), *_errors()]).rstrip() + "\n"


def _graph() -> Iterator[str]:
    yield "# Reference\n\nWritten from the code: `python -m tests.docs.reference`.\n\n## The graph\n"
    yield f"{schema.__doc__.split('Units', 1)[1].join(['Units', '']).strip()}\n"
    for node in schema.NODES:
        yield f"### `(:{node.label})` {node.meaning}\n\n| property | type | meaning |\n|---|---|---|"
        yield from (f"| `{p.name}` | {p.type} | {_cell(p.meaning)} |" for p in node.stored)
        yield ""
    yield "### Relationships\n\n| relationship | meaning | unit of `weight` | properties |\n|---|---|---|---|"
    for edge in schema.EDGES:
        names = ", ".join(f"`{p.name}`" for p in edge.stored)
        pattern = f"`(:{edge.source})-[:{edge.type}]->(:{edge.target})`"
        yield f"| {pattern} | {edge.meaning} | {edge.unit} | {names} |"


def _commands() -> Iterator[str]:
    yield "\n## Commands\n"
    for name, command in sorted(cli.commands.items()):
        parent = click.Context(cli, info_name="atlas", **cli.context_settings)
        context = click.Context(command, info_name=name, parent=parent)
        usage = command.get_usage(context).removeprefix("Usage: ").replace("\n", " ")
        yield f"### `{' '.join(usage.split())}`\n\n{inspect.cleandoc(command.help or '')}\n"
        yield "| option | meaning |\n|---|---|"
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
                yield f"| `{_cell(record[0])}` | {_cell(record[1])} |"
        yield ""


def _queries() -> Iterator[str]:
    yield "## Named queries\n\n`atlas query NAME [name=value…]`; `--show` prints the Cypher.\n"
    yield "| name | answers | parameters | columns |\n|---|---|---|---|"
    for row in queries.catalog().itertuples():
        yield f"| `{row.name}` | {_cell(row.answers)} | {_cell(row.parameters)} | {_cell(row.columns)} |"


def _errors() -> Iterator[str]:
    yield f"\n## Errors\n\n{inspect.cleandoc(errors.__doc__ or '')}"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
