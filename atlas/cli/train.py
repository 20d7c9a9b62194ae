"""Transcoders for a model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from atlas.cli.build import chosen_layers
from atlas.errors import AtlasError, BadModel, BadSource

if TYPE_CHECKING:
    from ingest.train import Activation, Progress


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--text", required=True, type=click.Path(path_type=Path), help="A file of plain text to train on.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the set; finished layers stay.")
@click.option("--activation", type=click.Choice(["relu", "topk", "jumprelu"]), default="jumprelu", show_default=True)
@click.option("--features", type=click.IntRange(min=1), default=1024, show_default=True, help="Features a layer.")
@click.option("--k", type=click.IntRange(min=1), help="topk: features active at a position.")
@click.option("--l0", type=click.FloatRange(min=1), help="relu, jumprelu: features active at a position, on average.")
@click.option("--tokens", type=click.IntRange(min=1), default=4_000_000, show_default=True, help="Positions seen.")
@click.option("--layers", metavar="A-B", help="Only these layers, such as 0-5 or 0,3,7.")
@click.option("--context", type=click.IntRange(min=2), default=256, show_default=True, help="Positions a window.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:n]")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(
    model: Path,
    text: Path,
    out: Path,
    activation: Activation,
    features: int,
    k: int | None,
    l0: float | None,
    tokens: int,
    layers: str | None,
    context: int,
    seed: int,
    device: str,
    quiet: bool,
) -> None:
    """Train transcoders on what the MLPs of MODEL, a local folder, read and write on a text.

    The set is written in circuit-tracer's layout; `atlas ingest --model MODEL --transcoders OUT` makes an atlas of it.
    """
    if activation == "topk" and l0 is not None:
        raise click.UsageError("--l0 is for relu and jumprelu; topk has --k")
    if activation != "topk" and k is not None:
        raise click.UsageError("--k is for topk; relu and jumprelu have --l0")
    if not (model / "config.json").is_file():
        raise BadModel(f"{model} is no folder of a model: it has no config.json.")
    try:
        source = text.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSource(f"{text} cannot be read as text: {error}. Give a file of plain text in UTF-8.") from error
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ingest.train import Settings, train_transcoders, windows
    except ImportError as error:
        raise AtlasError(
            f"training needs the extra that brings torch ({error.name} is missing): pip install 'feature-atlas[ingest]'"
        ) from error
    settings = Settings(activation=activation, features=features, l0=k or l0 or 32.0, tokens=tokens, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    ids = windows(tokenizer, [source], context, limit=tokens)
    files = train_transcoders(
        network,
        tokenizer,
        ids,
        settings,
        out,
        model_name=model.resolve().name,
        scan=f"{model.resolve().name}/{out.resolve().name}",
        layers=chosen_layers(layers) if layers else None,
        progress=None if quiet else _show,
        device=("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
    )
    click.echo(f"{len(files)} layers in {out}")


def _show(progress: Progress) -> None:
    """One line on stderr: how far, and how good on the training text."""
    click.echo(
        f"layer {progress.layer}  {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"L0 {progress.l0:.1f}  explained {progress.explained:.3f}  dead {progress.dead:.1%}",
        err=True,
    )
