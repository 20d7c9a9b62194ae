"""Measure bunny and ``tc-1k`` as they are committed, on the held-out part of the books.

``python -m atlas.demo.evaluate`` prints the figures; with ``--write`` it puts them into ``MODEL_CARD.md`` between its
two marks. Everything is run in float32 on the half-precision weights.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas.demo import HERE, MODEL, TRANSCODERS
from atlas.demo.corpus import books

CARD = HERE / "MODEL_CARD.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


@dataclass(frozen=True)
class Figures:
    """What the model card states."""

    bits_per_character: float
    layers: list[dict]
    """A row for each layer: see :class:`ingest.train.Fidelity`."""
    loss: float
    loss_spliced: float
    loss_zeroed: float
    recovered: float


def measure(model_folder: Path = MODEL, transcoders: Path = TRANSCODERS, limit: int | None = None) -> Figures:
    """All figures; ``limit`` positions of the held-out text for the transcoders, None for all of it.

    With a limit, bits per character are taken on every tenth window.
    """
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    from atlas.demo.train_model import bits_per_character
    from ingest.train import fidelity, recovery, windows

    model = GPT2LMHeadModel.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    shelf = books()
    ids = windows(tokenizer, [book.held_out for book in shelf], model.config.n_positions, limit)
    losses = recovery(model, transcoders, ids, tokenizer.bos_token_id)
    return Figures(
        bits_per_character=bits_per_character(model, tokenizer, shelf, every=1 if limit is None else 10),
        layers=[asdict(row) for row in fidelity(model, transcoders, ids, tokenizer.bos_token_id)],
        loss=losses.original,
        loss_spliced=losses.spliced,
        loss_zeroed=losses.zeroed,
        recovered=losses.share,
    )


def table(figures: Figures) -> str:
    """The figures as Markdown."""
    lines = [
        f"Bits a character on the held-out text: **{figures.bits_per_character:.3f}**.",
        "",
        "| layer | explained variance | L0 | dead | on more than a tenth of positions |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['layer']} | {row['explained']:.3f} | {row['l0']:.1f} | {row['dead']:.1%} | {row['busy']:.1%} |"
        for row in figures.layers
    ]
    lines += [
        "",
        f"Loss of the next token with all four transcoders in place: {figures.loss_spliced:.3f} nats, against "
        f"{figures.loss:.3f} with the MLPs and {figures.loss_zeroed:.3f} without any: "
        f"**{figures.recovered:.1%}** recovered.",
    ]
    return "\n".join(lines)


def stated(card: Path = CARD) -> Figures:
    """The figures the card states, from the line of JSON behind its table."""
    line = next(line for line in card.read_text("utf-8").splitlines() if line.startswith("<!-- json "))
    return Figures(**json.loads(line.removeprefix("<!-- json ").removesuffix(" -->")))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--transcoders", type=Path, default=TRANSCODERS)
    parser.add_argument("--limit", type=int, help="positions of the held-out text to measure on")
    parser.add_argument("--write", action="store_true", help="put the figures into the model card")
    given = parser.parse_args()
    figures = measure(given.model, given.transcoders, given.limit)
    print(table(figures))
    if given.write:
        before, rest = CARD.read_text("utf-8").split(BEGIN)
        after = rest.split(END)[1]
        note = f"<!-- json {json.dumps(asdict(figures))} -->"
        CARD.write_text(f"{before}{BEGIN}\n{table(figures)}\n\n{note}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
