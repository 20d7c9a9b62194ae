"""Questions about whole sets: shapes that recur, features that are hubs, what stands for what in another set."""

from __future__ import annotations

import sys
from typing import Any

import click

from atlas.cli.options import Output, answer, opened, progress, question

_NUMBERS = ["z", "weight", "share", "drive", "twera", "coactivation"]
_HUBS = ["readers", "sources", "through"]
_SHAPES = ["chain", "fan-in", "fan-out", "feed-forward-loop", "bi-fan"]


@click.command()
@question
@click.option("--set", "set_key", metavar="MODEL/SET", help="The set, where the atlas has several.")
@click.option("--shape", type=click.Choice(_SHAPES), help="One of the five; all if not said.")
@click.option("--signs", is_flag=True, help="Also by sign: coherent or incoherent, and the eight kinds of loops.")
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Rewired sets to compare with; each costs about as much again as counting.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Of swaps before a sample.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the rewiring.")
@click.option(
    "--min", "minimum", type=click.FloatRange(min=0), help="Only edges of this abs(z) or more; with --by, of this size."
)
@click.option("--live", is_flag=True, help="Only what is active together on the observed text.")
@click.option("--instances", type=click.IntRange(min=1), metavar="N", help="Instead, the N strongest of the shape.")
@click.option("--score", type=click.Choice(["product", "bottleneck"]), default="product", show_default=True)
@click.option("--sign", type=click.Choice(["+", "-", "both"]), default="both", show_default=True, help="Of instances.")
@click.option("--hubs", type=click.IntRange(min=1), metavar="N", help="Instead, the N features with most readers.")
@click.option(
    "--by",
    type=click.Choice([*_NUMBERS, *_HUBS]),
    help="The number that --min and --instances go by, z if not said; with --hubs what makes one, readers if not said.",
)
@click.option(
    "--of",
    type=click.Choice(_NUMBERS),
    help="With --hubs: by the sum of this number over their connections instead of how many; --min is then of it.",
)
def motifs(output: Output, set_key: str | None, minimum: float | None, **options: Any) -> None:
    """Shapes that recur, against chance; their strongest instances; hubs.

    Chance is the same set rewired at random, each feature keeping its readers and sources by layer and sign.
    """
    import queries
    from queries import present

    picked = {name: options.pop(name) for name in ("instances", "score", "sign", "hubs", "of")}
    by = options.pop("by")
    with opened(output) as graph:
        if picked["hubs"] and picked["instances"]:
            raise click.UsageError("--hubs and --instances exclude each other")
        if picked["of"] and not picked["hubs"]:
            raise click.UsageError("--of goes with --hubs; shapes are by --by")
        if by and by not in (_HUBS if picked["hubs"] else _NUMBERS):
            raise click.UsageError(f"--by is one of {', '.join(_HUBS if picked['hubs'] else _NUMBERS)} here")
        if picked["hubs"]:
            wanted = {"k": picked["hubs"], "live": options["live"], "of": picked["of"]}
            answer(output, queries.hubs(graph, set_key, by=by or "readers", min=minimum, **wanted))
        elif picked["instances"]:
            if not options["shape"]:
                raise click.UsageError("--instances needs --shape")
            wanted = {"k": picked["instances"], "by": by or "z", "live": options["live"]}
            wanted |= {"score": picked["score"], "sign": picked["sign"]}
            found = queries.motif_instances(graph, set_key, shape=options["shape"], min=minimum, **wanted)
            answer(output, found, text=present.instances_text)
        else:
            with progress(output.quiet or not sys.stderr.isatty()) as show:
                found = queries.motifs(graph, set_key, by=by or "z", min=minimum, progress=show, **options)
            answer(output, found, text=present.motifs_text)


@click.command()
@question
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--by",
    type=click.Choice(["tokens", "inputs", "outputs", "description", "all"]),
    default="tokens",
    show_default=True,
    help="What is compared.",
)
@click.option("-k", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--only", type=click.Choice(["a", "b"]), help="Instead, what only one of them has.")
@click.option(
    "--max-p",
    "p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.01,
    show_default=True,
    help="How often chance may find a counterpart as good.",
)
@click.option("--keep", "kept", is_flag=True, help="Keep the mutual ones as MATCHES in the atlas.")
def compare(output: Output, a: str, b: str, k: int, only: str | None, kept: bool, **options: Any) -> None:
    """Two models or sets: features that stand for each other, and what only one has."""
    import queries
    from queries.compare import first

    if kept and only:
        raise click.UsageError("--keep and --only exclude each other")
    with opened(output) as graph:
        found = queries.compare(graph, a, b, only=only, k=None if kept else k, **options)
    if kept:
        count = queries.keep(found, output.store)
        found = first(found, k)
        found.attrs["note"] += f"; {count:,} kept as MATCHES"
    answer(output, found)
