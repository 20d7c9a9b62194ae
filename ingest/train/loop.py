"""The training loop: one for the three activations, one layer after the other, resumable by layer.

The loss is the share of variance left unexplained, plus sparsity, plus what revives dead features. The price of
sparsity is steered so that the wanted number of features is active at the end; a feature that fires too often pays a
higher price.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from atlas.errors import BadSetting
from ingest.train.activations import capture, counted, mlps
from ingest.train.dictionary import Dictionary, Settings
from ingest.train.files import layer_file, write_config, write_layer

MEMORY = 6 * 2**30
"""Bytes of activations kept at a time; more layers than fit are captured in several passes."""


@dataclass(frozen=True)
class Progress:
    """Where a layer's training stands; figures are means over the last steps, on training text."""

    layer: int
    step: int
    steps: int
    loss: float
    l0: float
    explained: float
    """Share of the variance of the MLP's output."""
    dead: float
    """Share of features that have not fired for ``dead_after`` positions."""
    busy: float
    """Share of features that fire on more than a tenth of the positions."""


def draws(n: int, settings: Settings) -> Iterator[Tensor]:
    """Row numbers of one batch after the other, every row once before any comes again."""
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        order = torch.randperm(n, generator=generator)
        yield from (part for part in order.split(settings.batch) if len(part) == settings.batch or n < settings.batch)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: up in a twentieth of the steps, flat, down to zero over the last half."""
    return min(1.0, 20 * (step + 1) / steps, 2 * (1 - step / steps))


def train_layer(
    x: Float[Tensor, "n d_in"],
    y: Float[Tensor, "n d_out"],
    settings: Settings,
    layer: int,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """Train one transcoder from what an MLP reads (``x``) and writes (``y``); its tensors in the model's units."""
    torch.manual_seed(settings.seed)
    sample = slice(0, 1 << 13)
    # Inputs of unit length, outputs of unit variance a dimension: so one learning rate suits encoder and decoder.
    scale_in = x[sample].float().var(0).sum().sqrt().item()
    scale_out = y[sample].float().var(0).mean().sqrt().item()
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(settings.seed))[sample]
    net = Dictionary(settings, x.size(1), y.size(1))
    net.begin(x[mixed].float() / scale_in, y[mixed].float() / scale_out)
    net.to(device)
    variance = y.size(1)  # of outputs scaled to unit variance a dimension
    adam = torch.optim.Adam(net.parameters(), lr=settings.lr, betas=(0.9, 0.99))
    steps = settings.tokens // settings.batch
    price = drift = 0.0
    rate = torch.full((settings.features,), settings.l0 / settings.features, device=device)
    silent = torch.zeros(settings.features, device=device)
    generator = torch.Generator().manual_seed(settings.seed)
    recent: list[tuple[float, ...]] = []
    for step, rows in zip(range(steps), draws(len(x), settings), strict=False):
        read = x[rows].to(device).float() / scale_in
        write = y[rows].to(device).float() / scale_out
        p = net.pre(read)
        a, counts = net.act(p)
        error = write - net.decode(a)
        unexplained = error.square().sum(1).mean() / variance
        fired = (a > 0).float().mean(0)
        rate.lerp_(fired, 0.02)
        silent = torch.where(fired > 0, 0.0, silent + len(rows))
        excess = (rate / settings.cap - 1).clamp(0, 4)
        weights = price + 0.2 * excess
        sparsity = (counts.mean(0) * weights).sum() / settings.l0
        dead = silent > settings.dead_after
        loss = unexplained + sparsity + settings.revive * (revival(net, p, error, dead) - net.b_enc[dead].sum())
        adam.zero_grad(set_to_none=True)
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = settings.lr * schedule(step, steps)
        adam.step()
        l0 = fired.sum().item()
        if settings.activation != "topk":
            miss = max(-1.0, min(1.0, l0 / settings.l0 - 1))
            drift += 1e-3 * miss
            price = drift + 0.3 * miss
        if (step + 1) % settings.replace_every == 0 and step < 0.6 * steps and dead.any():
            which = dead.nonzero()[:, 0]
            net.replace(which, read, error.detach(), generator)
            for parameter in net.parameters():
                for moment in (value for value in adam.state[parameter].values() if value.ndim):
                    if len(moment) == len(dead):
                        moment[which] = 0.0
            silent[which] = 0.0
        recent.append(((unexplained + sparsity).item(), l0, 1 - unexplained.item()))
        if progress and ((step + 1) % 200 == 0 or step + 1 == steps):
            mean, active, explained = (sum(column) / len(recent) for column in zip(*recent, strict=True))
            busy = (rate > 0.1).float().mean().item()
            progress(Progress(layer, step + 1, steps, mean, active, explained, dead.float().mean().item(), busy))
            recent = []
    return net.folded(scale_in, scale_out)


def revival(
    net: Dictionary, p: Float[Tensor, "batch n_features"], error: Float[Tensor, "batch d_out"], dead: Tensor
) -> Tensor:
    """What is left unexplained of the error after the dead features with the largest pre-activations have had a try.

    The auxiliary loss of Gao et al. 2024, section A.2, with half as many features as the output has dimensions.
    """
    count = int(dead.sum())
    if not count:
        return p.new_zeros(())
    k = min(count, net.w_dec.size(1) // 2)
    best = p[:, dead].topk(k, dim=-1, sorted=False)
    a = torch.zeros(len(p), count, device=p.device).scatter_(-1, best.indices, best.values.relu())
    target = error.detach()
    return (target - a @ net.w_dec[dead]).square().sum(1).mean() / target.square().sum(1).mean().clamp_min(1e-12)


def recipe(settings: Settings, model: nn.Module, ids: Tensor, layer: int) -> str:
    """A digest of all that decides one layer's result: settings, weights, text, layer."""
    digest = hashlib.sha256(json.dumps([asdict(settings), layer], sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    digest.update(ids.cpu().numpy().tobytes())
    return digest.hexdigest()


def train_transcoders(
    model: PreTrainedModel,
    tokenizer,
    tokens: Int[Tensor, "n_windows context"],
    settings: Settings,
    out: Path,
    *,
    model_name: str,
    scan: str,
    layers: list[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Train a transcoder for each of ``layers`` (all, if None) and write them to ``out`` in circuit-tracer's layout.

    ``tokens`` are windows from :func:`~ingest.train.activations.windows`. A layer whose file was trained from the same
    settings, weights and text is kept as it is. Returns the files. Raises :class:`BadSetting` for layers the model
    lacks.
    """
    depth = len(mlps(model))
    layers = list(range(depth)) if layers is None else layers
    if missing := [layer for layer in layers if not 0 <= layer < depth]:
        raise BadSetting(f"Layers {missing} were asked for; the model has layers 0 to {depth - 1}.")
    bos = tokenizer.bos_token_id
    model.eval()
    nn.Module.to(model, device)  # its own `to` is typed for something else
    recipes = {layer: recipe(settings, model, tokens, layer) for layer in layers}
    todo = [layer for layer in layers if not finished(layer_file(out, layer), recipes[layer])]
    positions = int(counted(tokens, bos).sum())
    at_once = max(1, MEMORY // (4 * positions * model.config.hidden_size))
    for start in range(0, len(todo), at_once):
        group = todo[start : start + at_once]
        found = capture(model, tokens, group, bos)
        for layer in group:
            tensors = train_layer(*found.pop(layer), settings, layer, progress, device)
            write_layer(out, layer, tensors, {"recipe": recipes[layer], "settings": json.dumps(asdict(settings))})
    write_config(out, model_name, scan, settings)
    return [layer_file(out, layer) for layer in layers]


def finished(path: Path, recipe: str) -> bool:
    """Whether ``path`` holds a layer trained by exactly this recipe."""
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("recipe") == recipe
