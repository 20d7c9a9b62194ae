"""Questions about nodes and what connects them: search, card, inputs, outputs, common, circuit, paths, reach."""

from __future__ import annotations

from typing import Any

import click

from atlas.cli.options import Output, answer, opened, progress, question

_SET = click.option("--set", "set_key", metavar="MODEL/SET", help="The set that short keys such as 4/1201 belong to.")
_COUNT = click.option("-k", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
_SIGN = click.option("--sign", type=click.Choice(["+", "-", "both"]), default="both", show_default=True)
_BY = click.option(
    "--by",
    type=click.Choice(["z", "weight", "share", "drive", "twera", "coactivation"]),
    default="z",
    show_default=True,
    help="Order.",
)
_LIVE = click.option("--live", is_flag=True, help="Only what is active together on the observed text.")
_OF = click.option(
    "--of", default="all", show_default=True, metavar="all|features|tokens|heads|L5H3", help="Of which kind."
)
_VIA = click.option("--via", metavar="heads|L5H3", help="Also through attention heads, or through one.")
_SCORE = click.option(
    "--score", type=click.Choice(["product", "share", "bottleneck"]), default="product", show_default=True
)
_MADE_OF = click.option(
    "--by",
    type=click.Choice(["weight", "z", "share", "drive", "twera", "coactivation"]),
    help="Of what the product or bottleneck is, instead of weight or z.",
)
_AVOID = click.option("--avoid", multiple=True, metavar="PLACE", help="A feature or layers to leave out; repeatable.")
_EDGES = click.option(
    "--min", "minimum", type=click.FloatRange(min=0), help="Only edges of this abs(z) or more; with --by, of this size."
)


@click.command()
@question
@click.argument("text")
@click.option(
    "--by",
    type=click.Choice(["text", "token", "meaning", "all"]),
    default="text",
    show_default=True,
    help="Words, a token, what is meant, or words and meaning.",
)
@click.option("--model", help="Only in this model.")
@_SET
@click.option("--layer", metavar="A-B", help="Only features of these layers.")
@click.option("--min", "minimum", type=click.FloatRange(min=0), help="Only scores of so much or more.")
@_COUNT
def search(output: Output, text: str, set_key: str | None, minimum: float | None, **options: Any) -> None:
    """Features by their words, by a token or by what is meant."""
    import queries

    with opened(output) as graph, progress(output.quiet) as show:
        found = queries.search(graph, text, set=set_key, min=minimum, progress=show, **options)
    answer(output, found)


@click.command()
@question
@click.argument("key")
@click.option(
    "--by",
    type=click.Choice(["inputs", "outputs", "description", "encoder", "decoder"]),
    default="inputs",
    show_default=True,
    help="In what.",
)
@click.option("--model", help="Only features of this model.")
@_SET
@_COUNT
@click.option(
    "--of",
    type=click.Choice(["z", "weight", "share", "drive", "twera", "coactivation"]),
    default="z",
    show_default=True,
    help="By inputs or outputs: the cosine of which number.",
)
@_LIVE
def similar(output: Output, key: str, set_key: str | None, **options: Any) -> None:
    """Features like a feature: in what they read, write, in what is said of them, or in their vectors."""
    import queries

    with opened(output) as graph, progress(output.quiet) as show:
        found = queries.similar(graph, key, set=set_key, progress=show, **options)
    answer(output, found)


@click.command()
@question
@click.argument("key")
@_SET
@click.option("-k", type=click.IntRange(min=1), default=4, show_default=True, help="Rows of each kind.")
@_BY
@_LIVE
def card(output: Output, key: str, set_key: str | None, **options: Any) -> None:
    """Everything about one node on one screen."""
    import queries
    from queries import present

    with opened(output) as graph:
        found = queries.card(graph, key, set=set_key, **options)
        if output.show_cypher:
            return
        if output.csv:
            raise click.UsageError("a card is no table: use --json, or atlas inputs and atlas outputs with --csv")
        if output.json:
            click.echo(present.card_json(found))
        else:
            click.echo(present.card_text(found, width=_width()))


def _neighbours(name: str, short: str) -> click.Command:
    @click.command(name, help=short)
    @question
    @click.argument("key")
    @_SET
    @_OF
    @_COUNT
    @_BY
    @_SIGN
    @click.option("--min", "minimum", type=click.FloatRange(min=0), help="Only from this size on, in the unit of --by.")
    @click.option("--layer", metavar="A-B", help="Only features of these layers.")
    @_LIVE
    def command(output: Output, key: str, set_key: str | None, minimum: float | None, **options: Any) -> None:
        import queries

        with opened(output) as graph:
            found = getattr(queries, name)(graph, key, set=set_key, min=minimum, **options)
            answer(output, found)

    return command


inputs = _neighbours("inputs", "What a node reads: tokens and earlier features, strongest first.")
outputs = _neighbours("outputs", "What a node writes to: later features and logits, strongest first.")


@click.command()
@question
@click.argument("keys", nargs=-1, required=True, metavar="KEY KEY…")
@_SET
@click.option("--of", type=click.Choice(["inputs", "outputs"]), default="inputs", show_default=True)
@_COUNT
@_BY
@_LIVE
@click.option("--min", "minimum", type=click.FloatRange(min=0), help="Only from this size on, in the unit of --by.")
def common(output: Output, keys: tuple[str, ...], set_key: str | None, minimum: float | None, **options: Any) -> None:
    """What several nodes share."""
    import queries

    with opened(output) as graph:
        answer(output, queries.common(graph, list(keys), set=set_key, min=minimum, **options))


@click.command()
@question
@click.argument("keys", nargs=-1, required=True, metavar="KEY…")
@click.option("--to", metavar="KEY", help="Only what leads from the keys to this one.")
@_SET
@click.option("--depth", type=click.IntRange(min=1), default=2, show_default=True, help="Steps from the keys.")
@click.option("--width", type=click.IntRange(min=1), default=5, show_default=True, help="Edges kept at each node.")
@_VIA
@click.option("--direction", type=click.Choice(["in", "out", "both"]), default="in", show_default=True)
@_BY
@_LIVE
@click.option("--min", "minimum", type=click.FloatRange(min=0), help="Only edges of this size, in the unit of --by.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot", "graphml", "mermaid", "neuronpedia"]),
    default="text",
    show_default=True,
)
@click.option("--in", "there", metavar="MODEL/SET", help="Beside it, the same circuit in another set, by its matches.")
def circuit(
    output: Output,
    keys: tuple[str, ...],
    set_key: str | None,
    minimum: float | None,
    form: str,
    there: str | None,
    **options: Any,
) -> None:
    """The bounded subgraph around some nodes, or between two; the same circuit in another set."""
    import queries
    from queries import present

    if there and form not in ("text", "json"):
        raise click.UsageError("--in is answered as text, --format json or --csv")
    with opened(output) as graph:
        found = queries.circuit(graph, list(keys), set=set_key, min=minimum, **options)
        if there:
            image = queries.translate(graph, found, there)
            if output.csv:
                answer(output, image.edges)
            elif not output.show_cypher:
                as_json = output.json or form == "json"
                click.echo(present.translation_json(image) if as_json else present.translation_text(image))
        elif output.csv:
            answer(output, found.edges)
        elif not output.show_cypher:
            click.echo(present.circuit_as("json" if output.json else form, found))


@click.command()
@question
@click.argument("source", metavar="A")
@click.argument("targets", metavar="B…", nargs=-1, required=True)
@_SET
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@_SCORE
@_MADE_OF
@_LIVE
@click.option("--min-hops", type=click.IntRange(min=1), default=1, show_default=True, help="At least so many edges.")
@click.option("--max-hops", type=click.IntRange(min=1), help="At most so many edges.")
@click.option(
    "--through", multiple=True, metavar="PLACE", help="A feature or layer that every path visits; repeatable."
)
@_AVOID
@_VIA
@_SIGN
@_EDGES
@click.option("--total", is_flag=True, help="Also how much of what all paths carry these carry.")
def paths(
    output: Output,
    source: str,
    targets: tuple[str, ...],
    set_key: str | None,
    minimum: float | None,
    through: tuple[str, ...],
    avoid: tuple[str, ...],
    **options: Any,
) -> None:
    """The exact best paths from A to B, each a feature or a token; to any of several B."""
    import queries
    from queries import present

    ends = targets[0] if len(targets) == 1 else list(targets)
    with opened(output) as graph:
        found = queries.paths(
            graph, source, ends, set=set_key, min=minimum, through=list(through), avoid=list(avoid), **options
        )
        answer(output, found, text=present.paths_text)


@click.command()
@question
@click.argument("key")
@_SET
@_COUNT
@click.option("--total", is_flag=True, help="By all paths together instead of the best one.")
@_SCORE
@_MADE_OF
@_LIVE
@click.option("--max-hops", type=click.IntRange(min=1), help="By paths of at most so many edges.")
@_AVOID
@_SIGN
@_EDGES
@click.option("--layer", metavar="A-B", help="Only features of these layers.")
def reach(
    output: Output, key: str, set_key: str | None, minimum: float | None, avoid: tuple[str, ...], **options: Any
) -> None:
    """The features that a node reaches most, over all paths."""
    import queries

    with opened(output) as graph:
        answer(output, queries.reach(graph, key, set=set_key, min=minimum, avoid=list(avoid), **options))


def _width() -> int:
    import shutil

    return min(shutil.get_terminal_size((100, 24)).columns, 100)
