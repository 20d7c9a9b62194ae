"""Linear directions as virtual features: a probe or a steering vector gets edges and can be asked about."""

from __future__ import annotations

from pathlib import Path

import click

from atlas.cli.build import _engine, _load
from atlas.cli.options import progress, worker


@click.command()
@worker
@click.argument("set_key", metavar="MODEL/SET")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--layer", type=click.IntRange(min=0), required=True, help="The layer that it is read at.")
@click.option(
    "--site",
    type=click.Choice(["resid_mid", "resid_mid_centred", "norm_pre_gain", "norm_post_gain"]),
    default="resid_mid",
    show_default=True,
    help="Where in that layer.",
)
@click.option("--name", help="What to call it, where the file brings no name.  [the file's name]")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:n]")
@click.option("--build-only", is_flag=True, help="Stage the build, load it nowhere.")
def direction(
    store: str | None,
    quiet: bool,
    set_key: str,
    file: Path,
    layer: int,
    site: str,
    name: str | None,
    device: str,
    build_only: bool,
) -> None:
    """Register a vector as a virtual feature beside those of a set.

    FILE is .npy ([d_model], or a row for each) or .safetensors (a name for each). The set's build is made again as
    MODEL/SET-directions with the vectors behind the features of their layer, so each gets every kind of edge; the set
    itself stays as it is. Started several times by torchrun, the processes share the work.
    """
    engine = _engine()
    rank = engine.Rank.here()
    with progress(quiet) as show:
        where = {"layer": layer, "site": site, "name": name, "device": device}
        build = engine.register(set_key, file, **where, rank=rank, progress=show)
    if build is None:
        click.echo(f"rank {rank.rank} of {rank.of} has done its share; the last to finish writes the build")
        return
    if not quiet:
        own = [one for one in build.manifest["settings"]["directions"] if one["layer"] == layer]
        last = build.features_per_layer[build.layers.index(layer)]
        for at, one in enumerate(own, last - len(own)):
            click.echo(f"{build.model}/{layer}-{build.set}/{at}  {one['name']}")
    if not build_only:
        _load(build, store, quiet)
