"""What is said of an edge through a head is what its source, taken out of a real model, takes off the target.

The source is taken out at every position of a text at once, where it writes; one head carries that on, by the pattern
that the library computed; other heads, MLPs and denominators of norms are held (:mod:`tests.unit.ingest.frozen`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from atlas.model import Activation, ReadSite, WriteSite
from atlas.observed import observed
from ingest.evidence.corpus import Request
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import Subject
from tests.unit.ingest.evidence.observed import subject
from tests.unit.ingest.frozen import Frozen

CASES = {
    "gpt2": ("gpt2", ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "llama, shared values": ("llama", ReadSite.NORM_PRE_GAIN, WriteSite.MLP_RAW),
    "gemma2, capped, before its norm": ("gemma2", ReadSite.NORM_POST_GAIN, WriteSite.MLP_RAW),
    "gemma2, capped, behind its norm": ("gemma2", ReadSite.RESID_MID, WriteSite.MLP_POST_NORM),
}
IDS = [0, 31, 7, 44, 12, 50, 3, 9, 22, 40, 18, 5, 33]
CLOSE = {"rel": 2e-6, "abs": 1e-12}


class Moved:
    """One text of one window, and what taking a source out of it moves."""

    def __init__(self, tiny: Subject, read: ReadSite, write: WriteSite) -> None:
        self.tiny, self.read, self.write = tiny, read, write
        model = tiny.runner.model
        model.set_attn_implementation("eager")
        with torch.no_grad():
            self.patterns = model(torch.tensor([IDS]), output_attentions=True).attentions
        self.real = Frozen(model, torch.tensor([IDS]), tiny.weights.family)
        self.first = np.cumsum([0, *tiny.shape_of])

    def at(self, row: int) -> tuple[int, int]:
        """Layer and number within it."""
        layer = int(np.searchsorted(self.first, row, side="right")) - 1
        return layer, row - int(self.first[layer])

    def activation(self, row: int) -> torch.Tensor:
        """[position]; nothing fires at BOS."""
        layer, number = self.at(row)
        found = self.real.pre_activations(self.real.clean, self.tiny.source.load(layer))[0, :, number].clamp(min=0)
        found[0] = 0
        return found

    def sigma(self, name: str, layer: int) -> torch.Tensor:
        """By position: of norms around attention (``before``, ``behind``), and what an MLP's norms divide by."""
        each = range(len(IDS))
        real, ones = self.real, torch.ones(len(IDS), dtype=torch.float64)
        norm = real.post_attention_norm(layer) if name == "behind" else f"{layer}.{real.anatomy.attention_norm}"
        match name:
            case "before" | "behind":
                return real.clean.sigma[norm][0, :, 0] if norm else ones
            case "read":
                return ones * torch.cat([real.read_sigma(layer, self.read, t) for t in each])
        return ones * torch.cat([real.write_sigma(layer, self.write, t) for t in each])

    def taken_out(self, edge: dict, strength: torch.Tensor) -> torch.Tensor:
        """What the target loses at each position, where ``strength`` [position] of the source is taken out.

        Nothing is predicted here: it is measured.
        """
        layer, source = self.at(edge["source"])
        writes = self.tiny.source.load(layer).w_dec[source]
        put = -strength[:, None] * writes
        head = edge["layer"], edge["head"]
        pattern = self.patterns[head[0]][0, head[1]]
        where = {"layer": layer, "site": self.write}
        both = torch.stack([put, torch.zeros_like(put)])
        to, target = self.at(edge["target"])
        # the source writes past the head too: what it loses with the head shut is not the head's
        moved = []
        for attended in (pattern, torch.zeros_like(pattern)):
            run = self.real.carried_by(attended, both, head, **where)
            pre = self.real.pre_activations(run, self.tiny.source.load(to))[:, :, target]
            moved.append(pre[0] - pre[1])
        return moved[0] - moved[1]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Moved, list[dict]]:
    home: Path = tmp_path_factory.mktemp("home")
    family, read, write = CASES[request.param]
    tiny = subject(home, family, activation=Activation.RELU, read=read, write=write, heads=3)
    np.save(home / "ids.npy", np.array([IDS]))
    seen = observe(tiny, Request(ids=str(home / "ids.npy")), Options(examples=1, strongest=1))
    table = pa.concat_tables(observed(tiny.build, seen.name).edges("FEEDS_VIA"))
    strong = sorted(table.to_pylist(), key=lambda edge: -abs(edge["twera"] or 0))
    some = [next(edge for edge in strong if (edge["layer"], edge["head"]) == at) for at in ((1, 0), (1, 3), (2, 2))]
    return Moved(tiny, read, write), some


def test_era_and_twera_are_what_the_head_carries_where_the_denominators_are_paid_for(case):
    moved, edges = case
    for edge in edges:
        layer, (source_layer, _), (target_layer, _) = edge["layer"], moved.at(edge["source"]), moved.at(edge["target"])
        a_i, a_j = moved.activation(edge["source"]), moved.activation(edge["target"])
        paid = moved.sigma("before", layer) * moved.sigma("write", source_layer)

        lost = moved.taken_out(edge, a_i * paid) * moved.sigma("read", target_layer) * moved.sigma("behind", layer)

        counted = slice(1, None)  # all but BOS
        lost, a_j = lost[counted], a_j[counted]
        assert (a_j > 0).any()
        assert edge["era"] == pytest.approx(-(lost * (a_j > 0)).mean().item(), **CLOSE)
        assert edge["twera"] == pytest.approx(-((lost * a_j).mean() / a_j.mean()).item(), **CLOSE)


def test_what_the_target_loses_is_the_weight_times_what_the_head_brings_over_the_true_denominators(case):
    moved, edges = case
    for edge in edges:
        layer, (source_layer, _), (target_layer, _) = edge["layer"], moved.at(edge["source"]), moved.at(edge["target"])
        a_i = moved.activation(edge["source"])

        lost = moved.taken_out(edge, a_i)

        divided = a_i / (moved.sigma("before", layer) * moved.sigma("write", source_layer))
        brought = moved.patterns[layer][0, edge["head"]] @ divided
        expected = -edge["weight"] * brought / (moved.sigma("read", target_layer) * moved.sigma("behind", layer))
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(lost, expected, rtol=2e-6, atol=1e-10)
