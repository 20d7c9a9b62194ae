"""Train ``tc-1k``: a JumpReLU transcoder for each of bunny's four MLPs, on the training part of the books.

``python -m atlas.demo.train_transcoders`` writes the set in circuit-tracer's layout; a layer that is already there,
from the same settings, weights and text, is kept. Settings and seed are fixed; rounding may differ between machines.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from atlas.demo import MODEL, TRANSCODERS
from atlas.demo.corpus import books

TOKENS = 1_200_000
"""Positions of the training text whose activations are captured, spread evenly over the books."""

SETTINGS = {"activation": "jumprelu", "tokens": 5_000_000, "lr": 0.01, "seed": 1}

LAYERS = (
    {"features": 1536, "l0": 12.0},
    {"features": 1024, "l0": 24.0},
    {"features": 1024, "l0": 24.0},
    {"features": 1536, "l0": 31.0},
)
"""What differs by layer: the first MLP mostly looks words up and needs few features at a time, the last needs most."""


def train(model_folder: Path, out: Path, log: Path | None = None, layers: list[int] | None = None) -> None:
    """Train the set for the model in ``model_folder``; figures go to the screen and, a line each, to ``log``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ingest.train import Settings, train_transcoders, windows

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    text = windows(tokenizer, [book.train for book in books()], model.config.n_positions, TOKENS)

    def show(progress) -> None:
        row = {name: round(value, 4) for name, value in asdict(progress).items()}
        print(row, flush=True)
        if log and (progress.step % 1000 == 0 or progress.step == progress.steps):
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")

    for layer in range(len(LAYERS)) if layers is None else layers:
        settings = Settings(**SETTINGS, **LAYERS[layer])
        train_transcoders(
            model,
            tokenizer,
            text,
            settings,
            out,
            model_name="bunny",
            scan="bunny/tc-1k",
            layers=[layer],
            progress=show,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--out", type=Path, default=TRANSCODERS)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--layers", type=int, nargs="+", help="only these: two processes can share the work")
    given = parser.parse_args()
    train(given.model, given.out, given.log, given.layers)


if __name__ == "__main__":
    main()
