"""Does ``null_p`` of a comparison say how often chance would find as much? Sets of random directions: all is chance.

``python -m tests.bench.figures_null`` makes sets of random directions in the bundled model, compares each with the set
that is trained and with one another, and prints how often ``null_p`` falls to a level, beside the level. Directions are
``round`` (every direction as likely) or ``alike`` (spread as the trained features are: Gaussian with their covariance).
``blank`` is the same architecture with weights drawn anew, its directions round: two models that share a tokenizer and
nothing else. ``--model FOLDER`` takes another model of Llama's kind, its MLP neurons for a trained set.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import atlas
import ingest
import queries
from atlas.demo import MODEL, TRANSCODERS
from atlas.model import Activation, ReadSite, WriteSite
from ingest.sources import open_transcoders
from ingest.transcoder import Transcoder
from tests.bench.figures_shapes import measured

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5)
Layers = dict[int, Transcoder]


def trained(place: Path | None, layers: list[int]) -> Layers:
    """The bundled set, or the neurons of a model's MLPs."""
    if place is None:
        source = open_transcoders(str(TRANSCODERS))
        return {layer: source.load(layer) for layer in source.info.layers}
    from transformers import AutoModelForCausalLM

    blocks = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).model.layers
    return {
        layer: one(layer, blocks[layer].mlp.gate_proj.weight, blocks[layer].mlp.down_proj.weight.T) for layer in layers
    }


def one(layer: int, w_enc: torch.Tensor, w_dec: torch.Tensor) -> Transcoder:
    n, d = w_enc.shape
    kinds = {"activation": Activation.RELU, "read": ReadSite.NORM_POST_GAIN, "write": WriteSite.MLP_RAW}
    return Transcoder(layer, w_enc.detach(), torch.zeros(n), w_dec.detach().contiguous(), torch.zeros(d), **kinds)


def random(like: Layers, seed: int, kind: str) -> Layers:
    """As many random directions, of the same sites."""
    made = torch.Generator().manual_seed(seed)

    def drawn(vectors: torch.Tensor) -> torch.Tensor:
        n, d = vectors.shape
        if kind == "alike":  # sums of the features with random factors have their covariance
            return torch.randn(n, n, generator=made) @ vectors.float() / n**0.5
        return torch.randn(n, d, generator=made) / d**0.5

    found = {}
    for layer, other in like.items():
        plain = one(layer, drawn(other.w_enc), drawn(other.w_dec))
        found[layer] = Transcoder(**{**vars(plain), "read": other.read, "write": other.write})
    return found


def blank(folder: Path) -> Path:
    """The bundled model with weights drawn anew: another embedding of the same tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(MODEL)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return folder


def main(model: Path | None, layers: list[int], seeds: int, at: Path) -> None:
    real = trained(model, layers)
    place, name = str(model or MODEL), "model"

    def load(where: str, what: Layers, named: str) -> None:
        with measured(f"{named}"):
            build = ingest.build(model=where, transcoders=what, name=named, device="cpu", home=at / "home", check=False)
            atlas.load(build, at / "atlas")

    load(place, real, f"{name}/trained")
    kinds = {f"{kind}-{seed}": random(real, seed, kind) for kind in ("round", "alike") for seed in range(seeds)}
    for named, what in kinds.items():
        load(place, what, f"{name}/{named}")
    pairs = [(f"{name}/trained", f"{name}/{named}") for named in kinds]
    pairs += [(f"{name}/{a}", f"{name}/{b}") for a, b in combinations(kinds, 2) if a.split("-")[0] == b.split("-")[0]]
    if model is None:
        load(str(blank(at / "blank")), random(real, 99, "round"), "blank/round-99")
        pairs += [(f"{name}/trained", "blank/round-99"), (f"{name}/round-0", "blank/round-99")]
    print(
        "share of features with null_p at most" + " " * 12 + "".join(f"{level:>8}" for level in LEVELS) + "    KS",
        flush=True,
    )
    with atlas.open(at / "atlas", timeout=600) as graph:
        for left, right in pairs:
            for a, b in ((left, right), (right, left)):
                p = queries.compare(graph, a, b)["null_p"].to_numpy()
                shares = "".join(f"{(p <= level).mean():8.4f}" for level in LEVELS)
                print(f"{a:>22} in {b:<22}{shares}{stats.kstest(p, 'uniform').statistic:8.3f}", flush=True)
        if not np.isfinite(p).all():
            raise SystemExit("null_p is not a number somewhere")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of another model, of Llama's kind")
    parser.add_argument("--layers", default="3,4", help="of that model")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(given.model, [int(layer) for layer in given.layers.split(",")], given.seeds, Path(scratch))
