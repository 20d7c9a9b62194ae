"""``python -m atlas.server``: a Neo4j on this machine's loopback interface, with a home that is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from atlas import settings
from atlas.errors import AtlasError
from atlas.server import jars
from atlas.server.home import read_home
from atlas.server.process import PORT, Server, is_free

_HOME = click.option(
    "--home", type=click.Path(path_type=Path, file_okay=False), help="the server's folder [ATLAS_HOME/neo4j]"
)


@click.group(invoke_without_command=True)
@click.pass_context
def server(context: click.Context) -> None:
    """Start, stop and look at a local Neo4j; without a command, start."""
    if context.invoked_subcommand is None:
        context.invoke(start)


@server.command()
@_HOME
@click.option("--version", type=click.Choice(jars.VERSIONS), help=f"for a new home [{jars.CURRENT}]")
@click.option("--port", type=click.IntRange(1, 65535), help=f"for a new home [{PORT}, or a free one]")
@click.option("--heap", default="1g", show_default=True, help="memory for Java, as -Xmx takes it")
def start(home: Path | None = None, version: str | None = None, port: int | None = None, heap: str = "1g") -> None:
    """Start the server, download it first if need be, and say how to use it."""
    folder = (home or _default_home()).absolute()
    if (folder / "server.json").exists():
        known = read_home(folder)[0]
        version, port = version or known.version, port or known.port
        if version != known.version:
            raise AtlasError(f"{folder} belongs to Neo4j {known.version}, not {version}; give another --home")
        found = Server.found(folder)
        if found.running:
            return _tell(found, "runs already")
    version = version or jars.CURRENT
    if not jars.folder(version).is_dir():
        click.echo(f"downloading Neo4j {version} (once, about a minute)", err=True)
    fresh = Server(folder, version=version, port=port or (PORT if is_free(PORT) else 0), heap=heap)
    _tell(fresh.start(), "is up")


@server.command()
@_HOME
def stop(home: Path | None) -> None:
    """Stop the server; its data stays."""
    found = Server.found(home or _default_home())
    was = found.running
    found.stop()
    click.echo(f"stopped; the data stays in {found.home.path}" if was else "it was not running")


@server.command()
@_HOME
def status(home: Path | None) -> None:
    """Say whether the server runs, and where. Exit 1 where it does not."""
    found = Server.found(home or _default_home())
    if not found.running:
        click.echo(f"Neo4j {found.home.version} in {found.home.path} is not running")
        sys.exit(1)
    _tell(found, "runs")


def _default_home() -> Path:
    return settings.load().home / "neo4j"


def _tell(running: Server, how: str) -> None:
    home = running.home
    click.echo(f"Neo4j {home.version} {how} on {home.address} (process {running.pid}, folder {home.path})")
    click.echo(f"  export ATLAS_STORE={home.address} ATLAS_NEO4J_PASSWORD_FILE={home.password_file}")
    click.echo(f"  stop it: python -m atlas.server stop --home {home.path}")


def main() -> None:
    """Run, with an error of the atlas as one line."""
    try:
        server(prog_name="python -m atlas.server")
    except AtlasError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
