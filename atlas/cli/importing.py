"""``atlas load --offline``: through Neo4j's own importer, which rewrites a whole database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas import settings
from atlas.cli.options import progress
from atlas.errors import AtlasError, BadSetting

if TYPE_CHECKING:
    from atlas.server import Server
    from atlas.staging import Build


def say_which_way(build: Build, store: str | None) -> None:
    """Before an online load: which way is quicker here, and why."""
    from atlas.stores import open_store
    from atlas.stores.neo4j import Neo4jStore, offline

    with open_store(store, read_only=False) as graph:
        if isinstance(graph, Neo4jStore):
            click.echo(offline.advice(graph, build), err=True)


def load(build: Build, store: str | None, files: Path | None, quiet: bool) -> None:
    """Import a build with those of all other sets of the server; with ``files``, prepare it for a server elsewhere."""
    from atlas.stores import open_store
    from atlas.stores.neo4j import Neo4jStore, offline

    address = settings.load(store).store
    if not settings.is_address(address):
        raise BadSetting(
            f"--offline is for a Neo4j server, and {address} is a folder; --store bolt://HOST:7687 names one"
        )
    if files is not None:
        with open_store(store, read_only=False) as graph:
            assert isinstance(graph, Neo4jStore)
            builds = offline.together(graph, build)
        with progress(quiet) as show:
            plan = offline.write(builds, files, show or _silent)
        click.echo(f"stop the server, and on its machine:\n  {plan.call}\nstart it, then:")
        click.echo(f"  cypher-shell -f {files}/after.cypher\n  atlas load {build.id}    # for descriptions")
        return
    server = _ours(address)
    ran = server.running
    server.start()
    with offline.opened(server) as graph:
        builds = offline.together(graph, build)
    if not ran:
        server.stop()
    with progress(quiet) as show:
        plan = offline.install(server, builds, show or _silent)
    if not quiet:
        click.echo(f"{address} holds {len(builds)} sets: {plan.nodes:,} nodes, {plan.edges:,} edges")


def _ours(address: str) -> Server:
    """The server of this machine that listens there. Raises AtlasError where it is none of ours."""
    from atlas.server import Server

    home = settings.load().home / "neo4j"
    try:
        server = Server.found(home)
    except BadSetting:
        server = None
    if server is None or server.home.port != int(address.rpartition(":")[2]):
        raise AtlasError(
            f"{address} is not the server in {home}, the only one that can be stopped from here; "
            "with --files FOLDER the importer's files are written there, and the call is printed"
        )
    return server


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
