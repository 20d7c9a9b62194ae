"""What is in the atlas and whether it is sound: models, sets, remove, doctor."""

from __future__ import annotations

import click

from atlas.cli.options import Output, answer, opened, progress, question, worker


@click.command()
@question
def models(output: Output) -> None:
    """The models in the atlas."""
    import queries

    with opened(output) as graph:
        answer(output, queries.models(graph))


@click.command()
@question
@click.option("--model", help="Only of this model.")
def sets(output: Output, model: str | None) -> None:
    """The sets of transcoders in the atlas."""
    import queries

    with opened(output) as graph:
        answer(output, queries.sets(graph, model=model))


@click.command()
@worker
@click.argument("name", metavar="MODEL[/SET]")
def index(store: str | None, quiet: bool, name: str) -> None:
    """Make ready for search by meaning; on a server, in its own vector index.

    Reads what is said of each set's features into vectors, where that is not done. Described or loaded anew, a set
    wants this again; until then search makes do with vectors of its own.
    """
    import queries
    from atlas import settings
    from atlas.stores import open_store

    # vectors stand beside a folder, not in it: whoever may read it may ask for them
    reading = not settings.is_address(settings.load(store).store)
    with open_store(store, read_only=reading) as graph, progress(quiet) as show:
        found = queries.index(graph, name, progress=show)
    if not quiet:
        for row in found.to_dict("records"):
            click.echo(f"{row['set']}: {row['texts']:,} texts, in the {row['kept']}")


@click.command()
@worker
@click.argument("name", metavar="MODEL[/SET]")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(store: str | None, quiet: bool, name: str, yes: bool) -> None:
    """Take one model or set out of the atlas; all others stay as they are."""
    from atlas.stores import open_store

    model, _, chosen = name.partition("/")
    with open_store(store, read_only=False) as graph:
        if not yes:
            click.confirm(f"Remove {name} from {graph.address}?", abort=True, err=True)
        with progress(quiet) as show:
            removed = graph.remove(model, chosen or None, show)
    if not quiet:
        click.echo(f"{name} is out: {removed:,} nodes and their edges")


@click.command()
@question
@click.option("--mend", is_flag=True, help="Mend what can be mended.")
def doctor(output: Output, mend: bool) -> None:
    """Compare the atlas with the builds it came from; say what is wrong and how to mend it."""
    from atlas.stores import open_store

    with open_store(output.store, read_only=not mend, timeout=output.timeout) as graph:
        findings = graph.doctor(mend=mend)
    answer(output, findings)
    if "wrong" in set(findings["state"]):
        raise click.exceptions.Exit(1)
