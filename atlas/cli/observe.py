"""What fires on text: observe, examples, fires."""

from __future__ import annotations

import time
from typing import Any

import click

from atlas.cli.options import Output, answer, opened, progress, question, worker
from atlas.errors import AtlasError

_SET = click.option("--set", "set_key", metavar="MODEL/SET", help="The set that short keys such as 4/1201 belong to.")
_FROM = (
    click.option(
        "--model", help="The build's model, where it is not where it was: a folder, or a hub repo[@revision]."
    ),
    click.option("--transcoders", help="The build's transcoders, likewise."),
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:n]"),
)


@click.command()
@worker
@click.argument("name", metavar="MODEL/SET")
@click.option("--text", metavar="FILE|DATASET", help="Text, JSON lines, Parquet, or NAME[:CONFIG][@SPLIT] on the hub.")
@click.option("--ids", metavar="FILE.npy", help="Windows of token ids, one a row, run exactly as they are.")
@click.option("--tokens", type=click.IntRange(min=1), help="At most so many positions, drawn by the seed.")
@click.option("--field", default="text", show_default=True, help="The column that holds the text.")
@click.option(
    "--context", type=click.IntRange(min=2), help="Positions a window.  [default: 256, or what the model has]"
)
@click.option("--part", metavar="K/N", help="Only the k-th of n parts of the text.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--as", "name_as", metavar="NAME", help="What the observation is called.")
@click.option("--examples", type=click.IntRange(min=1), default=16, show_default=True, help="Of each kind, a feature.")
@click.option("--strongest", type=click.IntRange(min=1), default=16, show_default=True,
              help="Edges to find for each target, by TWERA and by drive, whatever their weight.")  # fmt: skip
@click.option("--memory", type=click.FloatRange(min=0.001), default=2.0, show_default=True, help="GB for sums.")
@click.option("--batch", type=click.IntRange(min=1), default=4096, show_default=True, help="Positions a forward pass.")
@click.option("--heads/--no-heads", default=True, show_default=True,
              help="Follow attention too, where the build has edges through heads.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and stop.")
@click.option("--list", "listing", is_flag=True, help="What was observed already.")
@click.option("--default", "make_default", metavar="NAME", help="Let questions use this observation.")
@click.option("--remove", metavar="NAME", help="Delete an observation.")
@click.option("--build-only", is_flag=True, help="Stage the observation, load it nowhere.")
def observe(
    store: str | None,
    quiet: bool,
    name: str,
    listing: bool,
    make_default: str | None,
    remove: str | None,
    dry_run: bool,
    build_only: bool,
    **options: Any,
) -> None:
    """Run text through a model, and keep what fires beside its weights.

    A run that is interrupted goes on where it stopped. Several observations of one set stand side by side; the first
    is the default until --default names another.
    """
    from atlas import builds, observations
    from queries import present

    build = builds.find(name)
    if listing:
        click.echo(present.table(observations.table(build)))
        return
    if remove:
        was_default = observations.default_name(build) == remove
        freed = f"{observations.remove(build, remove) / 1e6:,.1f} MB freed"
        other = observations.default_name(build) if was_default else None
        click.echo(f"{freed}; {other} is the default now" if other else freed, err=True)
        if was_default and not build_only:
            _reload(build, store, quiet)
        return
    if make_default:
        observations.make_default(build, make_default)
        if not build_only:
            _reload(build, store, quiet)
        return
    if bool(options["text"]) == bool(options["ids"]):
        raise click.UsageError("give --text or --ids")
    engine = _engine()
    places = {place: options.pop(place) for place in ("model", "transcoders", "device")}
    if dry_run:
        click.echo(str(engine.planned(build, places, options)))
        return
    subject = engine.subject(build, **places)
    request, settings, name_as = engine.asked(subject, **options)
    start = time.perf_counter()
    with progress(quiet) as show:
        found = engine.observe(subject, request, settings, name=name_as, progress=show)
    if not quiet:
        click.echo(
            f"{build.set_key}: {found.positions:,} positions of {found.manifest['corpus']['name']} as {found.name}, "
            f"{found.extra().num_rows:,} edges beyond the cut, in {time.perf_counter() - start:.1f} s"
        )
        click.echo(present.table(found.layers().to_pandas()))
    worst = min(found.layers().to_pylist(), key=lambda layer: layer["explained"])
    if worst["explained"] < 0:
        click.echo(
            f"Warning: layer {worst['layer']} explains {worst['explained']:.0%} of what its MLP writes: it was trained "
            "for another model or reads at another site, and what fires means little",
            err=True,
        )
    if not build_only and observations.default_name(build) == found.name:
        _reload(build, store, quiet)


for _option in reversed(_FROM):
    observe = _option(observe)


@click.command()
@question
@click.argument("key")
@_SET
@click.option("-k", type=click.IntRange(min=1), default=8, show_default=True, help="How many.")
@click.option("--kind", type=click.Choice(["strongest", "sample"]), default="strongest", show_default=True)
@click.option("--observation", metavar="NAME", help="Another text than the default one.")
def examples(output: Output, key: str, set_key: str | None, **options: Any) -> None:
    """Contexts in which a feature fires."""
    import queries
    from queries import present

    with opened(output) as graph:
        found = queries.examples(graph, key, set=set_key, **options)
        answer(output, found, text=present.examples_text)


@click.command()
@question
@click.argument("text")
@click.option("--set", "set_key", metavar="MODEL/SET", help="The set, where the atlas has several.")
@click.option("-k", type=click.IntRange(min=1), default=5, show_default=True, help="Features a token.")
@click.option("--edges", is_flag=True, help="Instead, the stored edges between features that fire at one token.")
@click.option("--model", help="The build's model, where it is not where it was.")
@click.option("--transcoders", help="The build's transcoders, likewise.")
def fires(
    output: Output, text: str, set_key: str | None, k: int, edges: bool, model: str | None, transcoders: str | None
) -> None:
    """Which features fire on a sentence, and which stored edges between them are at work."""
    import queries
    from atlas import builds

    with opened(output) as graph:
        build = builds.find(queries.run_of(graph, set_key))
        subject = _engine().subject(build, model=model, transcoders=transcoders, device="cpu")
        fired = _engine().fires(subject, text)
        found = queries.fired_edges(graph, fired, k=k) if edges else queries.fired(graph, fired, k=k)
        answer(output, found)


def _engine() -> Any:
    try:
        from ingest.evidence import surface
    except ImportError as error:
        raise AtlasError(
            f"running a model needs the extra that brings torch ({error.name} is missing): "
            "pip install 'feature-atlas[ingest]'"
        ) from error
    return surface


def _reload(build: Any, store: str | None, quiet: bool) -> None:
    """Let a store that has the build show its default observation."""
    import atlas

    with progress(quiet) as show:
        atlas.load(build, store, show)
