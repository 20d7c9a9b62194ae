"""How good a set of transcoders is, measured with its files as they are, on text it was not trained on.

:func:`fidelity` looks at each layer alone, on the model's own activations; :func:`recovery` runs the model with every
MLP replaced at once. The first position of a window and every BOS keep their MLP and are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from ingest.train.activations import counted, hooked, mlps
from ingest.train.files import THRESHOLD, layer_file

BUSY = 0.1


@dataclass(frozen=True)
class Fidelity:
    """One layer's figures over the counted positions of a text."""

    layer: int
    explained: float
    """``1 - sum |y - y_hat|^2 / sum |y - mean(y)|^2``."""
    l0: float
    """Features active at a position, on average."""
    dead: float
    """Share of features that fire nowhere in the text."""
    busy: float
    """Share of features that fire on more than a tenth of the positions."""


@dataclass(frozen=True)
class Recovery:
    """Cross-entropy of the next token, in nats, with the MLPs left alone, replaced and zeroed, at the counted
    positions.
    """

    original: float
    spliced: float
    zeroed: float

    @property
    def share(self) -> float:
        """How much of what zeroing costs the transcoders save."""
        return (self.zeroed - self.spliced) / (self.zeroed - self.original)


class Stored:
    """A transcoder as its file has it, run in float32."""

    def __init__(self, folder: Path, layer: int, device: torch.device | str = "cpu") -> None:
        self.tensors = {name: t.to(device).float() for name, t in load_file(layer_file(folder, layer)).items()}
        config = yaml.safe_load((folder / "config.yaml").read_text())
        self.k = config.get("k") if config.get("activation") == "topk" else None

    def encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Activations."""
        p = x @ self.tensors["W_enc"].T + self.tensors["b_enc"]
        if self.k is not None:
            best = p.topk(self.k, dim=-1)
            return torch.zeros_like(p).scatter_(-1, best.indices, best.values.relu())
        if THRESHOLD in self.tensors:
            return p * (p > self.tensors[THRESHOLD])
        return p.relu()

    def decode(self, a: Float[Tensor, "n n_features"]) -> Float[Tensor, "n d_out"]:
        """What stands in for the MLP's output."""
        return a @ self.tensors["W_dec"] + self.tensors["b_dec"]


@torch.no_grad()
def fidelity(
    model: PreTrainedModel, folder: Path, ids: Int[Tensor, "n_windows context"], bos: int | None, batch: int = 16
) -> list[Fidelity]:
    """Each layer's figures on windows of held-out text; ``model`` should be in float32."""
    modules = mlps(model)
    device = next(model.parameters()).device
    stored = [Stored(folder, layer, device) for layer in range(len(modules))]
    sums = [_Sums(len(s.tensors["b_enc"]), len(s.tensors["b_dec"]), device) for s in stored]
    mask = torch.empty(0)

    def look(layer: int) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            x, y = inputs[0][mask], output[mask]
            a = stored[layer].encode(x)
            sums[layer].add(a, y, stored[layer].decode(a))

        return hook

    with hooked(modules, [look(layer) for layer in range(len(modules))]):
        for rows in ids.to(device).split(batch):
            mask = counted(rows, bos)
            model.base_model(rows, use_cache=False)
    return [total.figures(layer) for layer, total in enumerate(sums)]


class _Sums:
    """Running sums of one layer, in double precision."""

    def __init__(self, n_features: int, d_out: int, device: torch.device) -> None:
        self.n, self.error, self.square = 0, 0.0, 0.0
        self.mean = torch.zeros(d_out, dtype=torch.float64, device=device)
        self.fired = torch.zeros(n_features, dtype=torch.int64, device=device)

    def add(self, a: Tensor, y: Tensor, guess: Tensor) -> None:
        self.n += len(y)
        self.error += (y - guess).double().square().sum().item()
        self.square += y.double().square().sum().item()
        self.mean += y.double().sum(0)
        self.fired += (a > 0).sum(0)

    def figures(self, layer: int) -> Fidelity:
        total = self.square - (self.mean.square().sum() / self.n).item()
        rate = self.fired / self.n
        return Fidelity(
            layer=layer,
            explained=1 - self.error / total,
            l0=rate.sum().item(),
            dead=(self.fired == 0).double().mean().item(),
            busy=(rate > BUSY).double().mean().item(),
        )


@torch.no_grad()
def recovery(
    model: PreTrainedModel, folder: Path, ids: Int[Tensor, "n_windows context"], bos: int | None, batch: int = 16
) -> Recovery:
    """Loss with all transcoders in place, beside the loss with the MLPs themselves and with none."""
    modules = mlps(model)
    device = next(model.parameters()).device
    stored = [Stored(folder, layer, device) for layer in range(len(modules))]
    mask = torch.empty(0)

    def splice(layer: int) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            guess = stored[layer].decode(stored[layer].encode(inputs[0]))
            return torch.where(mask[..., None], guess, output)

        return hook

    def zero(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return torch.where(mask[..., None], 0.0, output)

    variants = ([], [splice(layer) for layer in range(len(modules))], [zero] * len(modules))
    totals, n = [0.0, 0.0, 0.0], 0
    for rows in ids.to(device).split(batch):
        mask = counted(rows, bos)
        scored = mask[:, 1:] & mask[:, :-1]
        n += int(scored.sum())
        for number, hooks in enumerate(variants):
            with hooked(modules if hooks else [], hooks):
                scores = model(rows, use_cache=False).logits[:, :-1][scored]
            totals[number] += F.cross_entropy(scores.float(), rows[:, 1:][scored], reduction="sum").item()
    return Recovery(*(total / n for total in totals))
