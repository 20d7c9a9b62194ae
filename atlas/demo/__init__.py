"""The model that ships with the atlas: ``bunny``, its transcoders ``tc-1k``, and the books both were trained on.

Paths only; nothing here imports torch. Figures and how to reproduce them are in ``MODEL_CARD.md``.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent

MODEL = HERE / "model"
"""Folder of the language model: config, tokenizer, weights, as transformers reads them."""

TRANSCODERS = HERE / "transcoders"
"""Folder of the transcoder set, in circuit-tracer's layout."""

CORPUS = HERE / "corpus.parquet"
"""The books, one row each; :mod:`atlas.demo.corpus` says how it was made and reads it."""
