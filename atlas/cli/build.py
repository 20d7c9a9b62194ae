"""From a model to a loaded graph: sources, ingest, load, builds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from atlas.cli.options import Output, answer, progress, question, worker
from atlas.errors import AtlasError, BadSetting


@click.command()
@question
def sources(output: Output) -> None:
    """Published pairs of model and transcoders that are known by name."""
    from atlas import releases
    from queries import present

    answer(output, releases.table(), text=lambda frame: present.table(releases.shown(frame), width=200))


@click.command()
@worker
@click.argument("name", required=False)
@click.option("--model", help="A local folder, or a hub repo[@revision].")
@click.option("--transcoders", help="A local folder, a hub repo[/folder][@revision], or saelens:RELEASE.")
@click.option("--as", "name_as", metavar="MODEL/SET", help="What the atlas shall call them.")
@click.option("--layers", metavar="A-B", help="Only these layers, such as 0-5 or 0,3,7.")
@click.option("--keep-per-layer", type=click.IntRange(min=0), help="FEEDS in and out, per other layer, by weight.")
@click.option("--keep", type=click.IntRange(min=0), help="FEEDS in and out, over all layers, by z.")
@click.option("--keep-tokens", type=click.IntRange(min=0), help="Tokens and logits of each feature, of each sign.")
@click.option("--keep-features-per-token", type=click.IntRange(min=0), help="Features of each token, either way.")
@click.option("--heads/--no-heads", default=False, help="Also what goes through attention's heads, and past features.")
@click.option("--keep-heads", type=click.IntRange(min=1), help="With --heads: of each end through each head.  [8]")
@click.option("--min-z", type=click.FloatRange(min=0, min_open=True), help="Also everything of this abs(z) or more.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:n]")
@click.option("--exact-sums", is_flag=True, help="Shares to a millionth on an accelerator too, in float32: slower.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, and stop.")
@click.option("--build-only", is_flag=True, help="Stage the build, load it nowhere.")
@click.option("--slurm", type=click.IntRange(min=1), metavar="N", help="Stage the build as a Slurm array of N tasks.")
@click.option("--slurm-set", multiple=True, metavar="KEY=VALUE", help="With --slurm: slurm_partition=gpu; repeat.")
@click.option("--allow-pickle", is_flag=True, help="Read files that can carry code, with the code left out.")
@click.option("--with-skips", is_flag=True, help="Let paths run through the set's linear skips, as a set of its own.")
@click.option("--vectors/--no-vectors", default=None, help="Keep features' vectors for `similar`.  [up to 1 GB]")
@click.option("--check/--no-check", default=True, help="First run the model on a page: does the set explain it?")
@click.option("--force", is_flag=True, help="Go on with a set that fits another convention better.")
def ingest(
    store: str | None,
    quiet: bool,
    name: str | None,
    model: str | None,
    transcoders: str | None,
    name_as: str | None,
    dry_run: bool,
    build_only: bool,
    slurm: int | None,
    slurm_set: tuple[str, ...],
    **options: Any,
) -> None:
    """Compute all connections of a model's features and load them.

    NAME is one that `atlas sources` lists, or give --model and --transcoders. A build that was interrupted goes on
    where it stopped. Started several times by torchrun, the processes share the work.
    """
    from atlas import releases

    if name is not None:
        if model or transcoders:
            raise click.UsageError("give NAME, or --model and --transcoders, not both")
        release = releases.find(name)
        model, transcoders, name_as = release.model, release.transcoders, name_as or release.name_as
    if not model or not transcoders:
        raise click.UsageError("give a NAME that `atlas sources` lists, or both --model and --transcoders")
    engine = _engine()
    checking: dict[str, Any] = {name: options.pop(name) for name in ("check", "force")}
    asked: dict[str, Any] = dict(model=model, transcoders=transcoders, name=name_as, **_build_options(engine, options))
    if dry_run:
        click.echo(str(engine.plan(**asked)))
        return
    if slurm is not None:
        _submit(asked | checking, slurm, slurm_set)
        return
    if slurm_set:
        raise click.UsageError("--slurm-set goes with --slurm")
    if not quiet:
        checking["say"] = lambda said: click.echo(said, err=True)
    rank = engine.Rank.here()
    start = time.perf_counter()
    with progress(quiet) as show:
        asked |= {**checking, "progress": show}
        build = engine.share(rank=rank, **asked) if rank else engine.build(**asked)
    if build is None:
        click.echo(f"rank {rank.rank} of {rank.of} has done its share; the last to finish writes the build")
        return
    if not quiet:
        click.echo(
            f"{build.id}: {sum(build.features_per_layer):,} features, {build.n_edges:,} edges, "
            f"{build.bytes / 1e6:,.1f} MB in {time.perf_counter() - start:.1f} s"
        )
        if line := engine.compared(build):
            click.echo(line)
    if not build_only:
        _load(build, store, quiet)


def _submit(asked: dict[str, Any], ranks: int, said: tuple[str, ...]) -> None:
    from ingest import slurm

    if any("=" not in pair for pair in said):
        raise BadSetting("--slurm-set takes KEY=VALUE, such as slurm_partition=gpu or timeout_min=120")
    pairs: dict[str, Any] = dict(pair.split("=", 1) for pair in said)
    given: dict[str, Any] = {key: int(value) if value.isdigit() else value for key, value in pairs.items()}
    cluster = pairs.get("cluster")
    given.pop("cluster", None)
    jobs = slurm.submit(asked, ranks, cluster=cluster, parameters=given)
    click.echo(
        f"{len(jobs)} tasks submitted: {', '.join(job.job_id for job in jobs)}; logs are in {jobs[0].paths.folder}. "
        "The last to finish writes the build; `atlas builds` shows it, `atlas load` loads it."
    )


@click.command()
@worker
@click.argument("build")
@click.option("--offline", is_flag=True, help="Neo4j: through its importer, which rewrites all sets and restarts it.")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --offline: only write the importer's files there and print the call, for a server elsewhere.",
)
def load(store: str | None, quiet: bool, build: str, offline: bool, files: Path | None) -> None:
    """Load a finished build into a store; needs no torch.

    For a Neo4j server it says first which way is quicker, over the network or offline, and why.
    """
    from atlas import builds, settings
    from atlas.cli import importing

    if files is not None and not offline:
        raise click.UsageError("--files goes with --offline")
    found = builds.find(build)
    if offline:
        return importing.load(found, store, files, quiet)
    if not quiet and settings.is_address(settings.load(store).store):
        importing.say_which_way(found, store)
    _load(found, store, quiet)


@click.command()
@question
@click.option("--prune", multiple=True, metavar="BUILD", help="Delete a staged build; repeat.")
@click.option("--yes", is_flag=True, help="With --prune: do not ask.")
def builds(output: Output, prune: tuple[str, ...], yes: bool) -> None:
    """What is staged on this machine."""
    from atlas import builds as staged

    if prune:
        click.echo(
            "A store keeps answering without its build, but to rebuild it, load it elsewhere or change the engine's "
            "version, what is pruned must be computed again.",
            err=True,
        )
        if not yes:
            click.confirm(f"Delete {', '.join(prune)}?", abort=True, err=True)
        click.echo(f"{staged.prune(list(prune)) / 1e6:,.1f} MB freed", err=True)
        return
    answer(output, staged.table())


def _engine() -> Any:
    try:
        import ingest as engine
    except ImportError as error:
        raise AtlasError(
            f"computing needs the extra that brings torch ({error.name} is missing): "
            "pip install 'feature-atlas[ingest]'"
        ) from error
    return engine


def _build_options(engine: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Options as the Python function takes them; what was not given keeps its default there."""
    names = {
        "keep_per_layer": "per_layer",
        "keep": "z",
        "keep_tokens": "tokens",
        "keep_features_per_token": "features_per_token",
    }
    kept = {field: given.pop(option) for option, field in names.items()}
    layers, heads = given.pop("layers"), given.pop("heads")
    kept["heads"], kept["exact_sums"] = given.pop("keep_heads"), given.pop("exact_sums")
    if kept["heads"] and not heads:
        raise click.UsageError("--keep-heads goes with --heads")
    if heads:
        kept["heads"] = kept["heads"] or engine.KEEP_HEADS
    return {
        **{option: value for option, value in given.items() if value is not None},
        "keep": engine.Keep(**{field: value for field, value in kept.items() if value is not None}),
        "layers": chosen_layers(layers) if layers else None,
    }


def chosen_layers(text: str) -> list[int]:
    try:
        spans = [[int(end) for end in part.split("-")] for part in text.split(",")]
        chosen = sorted({layer for span in spans for layer in range(span[0], span[-1] + 1)})
        if not chosen or any(len(span) > 2 for span in spans):
            raise ValueError
    except ValueError:
        raise BadSetting(f"--layers {text!r} is no list of layers; write 0-5 or 0,3,7") from None
    return chosen


def _load(build: Any, store: str | None, quiet: bool) -> None:
    import atlas

    start = time.perf_counter()
    with progress(quiet) as show:
        atlas.load(build, store, show)
    if not quiet:
        from atlas import settings

        seconds = time.perf_counter() - start
        click.echo(f"{build.set_key} is in {settings.load(store).store} ({build.n_edges:,} edges, {seconds:.1f} s)")
