"""What features are: describe them, and exchange descriptions with other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas.cli.options import progress, worker
from atlas.errors import AtlasError, BadSetting, NoAtlas

if TYPE_CHECKING:
    from atlas.descriptions import Descriptions
    from atlas.staging import Build

_LABELS = click.option(
    "--labels",
    metavar="METHOD,METHOD…",
    help="Whose descriptions become labels, first choice first; kept for this set.",
)


_WORDS = ("neuronpedia", "circuit-tracer")
"""methods that give words and no tokens to predict firing by"""


@click.command()
@worker
@click.argument("name", metavar="MODEL[/SET]")
@click.option(
    "--preset", type=click.Choice(["atlas", "weightlens", "weightlens-paper"]), default="atlas", show_default=True
)
@click.option("--token-z", type=float, help="Deviations from which a token counts, instead of the preset's.")
@click.option("--false", type=float, default=0.05, show_default=True, help="At most this share of chance finds.")
@click.option("--feature-z", type=float, help="Deviations from which an earlier feature counts.")
@click.option(
    "--weightlens-branch", type=click.Choice(["gpt", "gemma", "llama"]), help="WeightLens' rules by model name."
)
@click.option("--tokens", metavar="N|FILE", help="Run only the first N tokens alone, or those of a file.")
@click.option("--show-rare", is_flag=True, help="Leave in tokens that were hardly ever trained.")
@click.option("--model", help="The build's model, where it is not where it was.")
@click.option("--transcoders", help="The build's transcoders, likewise.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:n]")
@_LABELS
@click.option(
    "--score", metavar="FILE", help="Then measure how well descriptions predict firing on this held-out text."
)
@click.option("--score-tokens", type=click.IntRange(min=1), help="At most so many positions of it.")
@click.option("--llm", metavar="ADDRESS", help="Then let a language model word them: an OpenAI-compatible address.")
@click.option("--llm-model", metavar="NAME", help="The model to ask there; its key comes from ATLAS_LLM_KEY.")
@click.option("--llm-timeout", type=click.FloatRange(min=0.1), default=60, show_default=True, help="Seconds an answer.")
def describe(store: str | None, quiet: bool, name: str, **given: Any) -> None:
    """Say what every feature is, from its weights, and confirm it by running single tokens.

    Describing again changes nothing; a run that was interrupted goes on. Descriptions are staged beside the build and
    loaded into the atlas, where they become labels and can be searched.
    """
    from atlas import builds, descriptions

    build = builds.find(name)
    if given["llm"] and not given["llm_model"]:
        raise click.UsageError("--llm needs --llm-model")
    if given["llm"] and given["preset"] != "atlas":
        raise click.UsageError("--llm words the descriptions of --preset atlas")
    if given["labels"]:
        descriptions.set_order(build, [method.strip() for method in given["labels"].split(",")])
    subject, found = _describe(build, quiet, given)
    if not quiet:
        click.echo(_summary(build, found))
    _into_store(build, store, quiet)
    if given["score"]:
        _score(subject, found, given["score"], given["score_tokens"], quiet)
    if given["llm"]:
        _word(subject, found, quiet, given)
        _into_store(build, store, quiet)


@click.command("export")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.argument("name", metavar="MODEL[/SET]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "graphml", "neo4j-import", "weightlens", "neuronpedia", "csv"]),
    required=True,
)
@click.option(
    "--run", help="With descriptions: this run; if not said the newest, of WeightLens' the one asked for last."
)
@click.option(
    "--method", help="With neuronpedia: descriptions by this method (default atlas); with tables: only these."
)
@click.argument("out", type=click.Path(path_type=Path))
def export(quiet: bool, name: str, form: str, run: str | None, method: str | None, out: Path) -> None:
    """Write a set's graph or its descriptions for other tools.

    The graph: parquet writes a folder of tables, graphml a file, neo4j-import a folder for Neo4j's own importer.
    Descriptions: weightlens and neuronpedia write a folder; OUT.csv and OUT.parquet are one row a description.
    """
    from atlas import builds, descriptions
    from atlas.exchange import neuronpedia, tables, weightlens

    build = builds.find(name)
    if form in ("graphml", "neo4j-import") or (form == "parquet" and out.suffix != ".parquet"):
        if run or method:
            raise click.UsageError("--run and --method go with descriptions")
        return _export_graph(build, form, out, quiet)
    if form == "weightlens":
        files = weightlens.write(weightlens.newest(build, run), out)
    elif form == "neuronpedia":
        files = neuronpedia.write(descriptions.find(build, method or "atlas", run), out)
    else:
        chosen = [one for one in descriptions.staged(build) if method in (None, one.method) and run in (None, one.run)]
        if out.suffix != f".{form}":
            raise BadSetting(f"{out} does not end in .{form}")
        files = [tables.write(build, chosen, out)]
    click.echo("\n".join(map(str, files)))


def _export_graph(build: Build, form: str, out: Path, quiet: bool) -> None:
    from atlas.exchange import graphs

    with progress(quiet) as show:
        if form == "neo4j-import":
            from atlas.stores.neo4j import offline

            plan = offline.write([build], out, show or _silent)
            click.echo(f"with an empty database, on the server's machine:\n  {plan.call}\nstart it, then:")
            return click.echo(f"  cypher-shell -f {out}/after.cypher")
        (graphs.parquet if form == "parquet" else graphs.graphml)(build, out, show or _silent)
    click.echo(str(out))


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@click.command("import")
@worker
@click.argument("place", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["weightlens", "neuronpedia", "circuit-tracer"]), required=True)
@click.option("--set", "name", metavar="MODEL/SET", required=True, help="The set that is described.")
@_LABELS
def import_(store: str | None, quiet: bool, place: Path, form: str, name: str, labels: str | None) -> None:
    """Take in descriptions that other tools made: a file, or a folder of them. All of it or nothing.

    Of circuit-tracer's (and Neuronpedia's) graphs: what is written on their features, and the names of supernodes.
    """
    from atlas import builds, descriptions
    from atlas.exchange import circuit_tracer, neuronpedia, weightlens

    build = builds.find(name)
    readers = {"weightlens": weightlens, "neuronpedia": neuronpedia, "circuit-tracer": circuit_tracer}
    found = readers[form].read(build, place)
    if labels:
        descriptions.set_order(build, [method.strip() for method in labels.split(",")])
    if not quiet:
        left_out = sum(found.manifest.get("left_out", {}).values())
        note = f"; {left_out:,} of other sets left out" if left_out else ""
        click.echo(f"{build.set_key}: {len(found.texts):,} descriptions by {found.method}{note}")
    _into_store(build, store, quiet)


def _describe(build: Build, quiet: bool, given: dict[str, Any]) -> tuple[Any, Descriptions]:
    try:
        from ingest import describe as engine
        from ingest.evidence import surface
    except ImportError as error:
        raise AtlasError(
            f"describing needs the extra that brings torch ({error.name} is missing): "
            "pip install 'feature-atlas[ingest]'"
        ) from error
    subject = surface.subject(build, given["model"], given["transcoders"], given["device"])
    request = engine.Request(
        preset=given["preset"],
        token_z=given["token_z"],
        feature_z=given["feature_z"],
        branch=given["weightlens_branch"],
        false=given["false"],
        tokens=engine.chosen_tokens(given["tokens"], subject) if given["tokens"] else None,
        show_rare=given["show_rare"],
    )
    with progress(quiet) as show:
        return subject, engine.describe(subject, request, show)


def _summary(build: Build, found: Descriptions) -> str:
    """Described features by layer, and what it took."""
    import numpy as np

    described = np.unique(found.texts["feature"].to_numpy())
    by_layer = build.layer_of[described]
    lines = [f"{build.set_key} by {found.method}, run {found.run}", "", " layer   features   described"]
    for layer, n in zip(build.layers, build.features_per_layer, strict=True):
        count = int((by_layer == layer).sum())
        lines.append(f" {layer:5}   {n:8,}   {count:8,}  {count / n:6.1%}")
    passes, candidates = found.manifest.get("passes"), found.manifest.get("candidates")
    if passes:
        lines += ["", f" {candidates:,} candidates tried in {passes:,} forward passes"]
    if found.manifest.get("close"):
        lines += ["", *_close(build, found)]
    return "\n".join(lines)


def _close(build: Build, found: Descriptions) -> list[str]:
    """WeightLens' features of which rounding decides something: the first of them, and where all are."""
    details = found.details()
    keys = build.keys("Feature").take(details["feature"]).to_pylist()
    calls = [(key, entries) for key, entries in zip(keys, details["close"].to_pylist(), strict=True) if entries]
    said = (
        f" {len(calls):,} features have a score within 1e-4 of a threshold, or rest on one that has: rounding decides"
    )
    lines = [f"   {key}: {'; '.join(entries[:3])}{'; …' if len(entries) > 3 else ''}" for key, entries in calls[:8]]
    return [said, *lines, *([f"   all: column close of {found.path}/details.parquet"] if len(calls) > 8 else [])]


def _into_store(build: Build, store: str | None, quiet: bool) -> None:
    """Load what is staged; an atlas without the set stays as it is."""
    from atlas import settings
    from atlas.stores import open_store

    place = settings.load(store).store
    try:
        open_store(store).close()
    except NoAtlas:
        click.echo(f"no atlas at {place} yet; `atlas load {build.id}` loads the set with its descriptions", err=True)
        return
    with open_store(store, read_only=False) as graph, progress(quiet) as show:
        loaded = graph.describe(build, show)
    if not loaded:
        click.echo(
            f"{place} does not hold this build; `atlas load {build.id}` loads it with its descriptions", err=True
        )


def _score(subject: Any, found: Descriptions, text: str, tokens: int | None, quiet: bool) -> None:
    import tempfile

    from ingest.describe import open_evidence, scores
    from queries import present

    with tempfile.TemporaryDirectory() as folder, progress(quiet) as show:
        seen = scores.look(subject, text, Path(folder), tokens, show)
    runs = [found, *(one for one in _others(found) if "atlas-llm" not in one.method and one.method not in _WORDS)]
    click.echo("\n" + present.table(scores.table(subject, seen, runs, open_evidence(subject))))
    if found.method == "atlas":
        tracks = scores.by_confidence(subject, seen, found)
        click.echo("\n" + present.table(tracks))
        click.echo(f"\nconfidence and average precision: Spearman {tracks.attrs.get('spearman', float('nan')):.2f}")


def _others(found: Descriptions) -> list[Descriptions]:
    """The newest run of every other method."""
    from atlas import descriptions

    newest = {one.method: one for one in descriptions.staged(found.build)}
    return [one for method, one in newest.items() if method != found.method]


def _word(subject: Any, found: Descriptions, quiet: bool, given: dict[str, Any]) -> None:
    from ingest.describe.wording import Explainer, word

    explainer = Explainer(
        given["llm"], given["llm_model"], os.environ.get("ATLAS_LLM_KEY", ""), timeout=given["llm_timeout"]
    )
    with progress(quiet) as show:
        worded = word(found, subject.weights.vocabulary.texts, explainer, show)
    if not quiet:
        click.echo(f"{len(worded.texts):,} descriptions worded by {explainer.model}")
