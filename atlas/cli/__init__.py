"""The command ``atlas``: one file for each family of commands, one place where errors become a line.

Modules of this package import click and the standard library at their top, nothing else: ``atlas --help`` must not
wait for pandas, and no question may load torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from atlas.cli import ask, build, cypher, describe, directions, manage, observe, patterns, train
from atlas.errors import AtlasError

_FAMILIES = {
    "Make an atlas": ("sources", "ingest", "load", "builds", "train", "describe", "observe", "direction"),
    "Look at it": ("models", "sets", "search", "card", "inputs", "outputs", "common", "similar", "examples", "fires"),
    "Follow it": ("circuit", "paths", "reach", "motifs", "compare"),
    "Ask in Cypher": ("query", "cypher"),
    "Keep it": ("index", "remove", "doctor", "export", "import"),
}


class _Families(click.Group):
    """Lists commands by what they are for, in the order a newcomer needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for family, names in _FAMILIES.items():
            rows = [(name, self.commands[name].get_short_help_str(90)) for name in names if name in self.commands]
            with formatter.section(family):
                formatter.write_dl(rows)


@click.group(cls=_Families, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="feature-atlas")
def cli() -> None:
    """A language model's features and everything that connects them, as a graph you can query."""


for module in (build, directions, ask, patterns, cypher, describe, manage, observe, train):
    for command in vars(module).values():
        if isinstance(command, click.Command):
            cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 answered, 1 an error of the atlas, 2 usage, 130 interrupted."""
    try:
        code = cli.main(args=arguments, prog_name="atlas", standalone_mode=False)
    except AtlasError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. The atlas is as it was; run the same command again to go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; a second write at exit would complain.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)
