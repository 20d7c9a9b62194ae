"""Running the real model on a text and reading every transcoder's features off it.

The stream is taken where it enters the norm before each MLP; what a transcoder reads follows from it and from that
norm's own output (:class:`atlas.model.ReadSite`). The model runs as its library runs it, MLPs included: transcoders
only read. Nothing behind the last layer with a transcoder but the final norm is needed, and no logit is computed.

Models are those of transformers, or TransformerLens' bridge and HookedTransformer; ``tests/unit/ingest/evidence`` holds
the activations to the libraries' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from atlas.errors import BadModel, BadSetting
from atlas.model import ReadSite, WriteSite
from ingest import hooked
from ingest.evidence.corpus import PADDING
from ingest.families import Family, Norm, family_of
from ingest.folders import open_folder
from ingest.transcoder import Transcoder, TranscoderSource
from ingest.weights import ModelWeights

CELLS = 1 << 28
"""activations of one layer that are dense at a time: what bounds memory where a layer has many features"""
READABLE = (ReadSite.RESID_MID, ReadSite.RESID_MID_CENTRED, ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN)
"""where a set may read to be run here: at the norm before an MLP"""


def load(spec: Any, device: torch.device | str = "cpu", dtype: torch.dtype | str = torch.float32) -> nn.Module:
    """The model itself: a local folder, a hub ``repo[@revision]``, or one that is loaded already, which stays as it is.

    ``dtype``: ``auto`` for that of its files.
    """
    if isinstance(spec, nn.Module):
        return spec.eval()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    folder = open_folder(spec)
    wanted = [name for name in folder.names() if "/" not in name and name.endswith((".json", ".safetensors"))]
    if not wanted:
        raise BadModel(f"{folder.where} holds neither config.json nor safetensors; name a model's own folder")
    places = [folder.path(name) for name in wanted]
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the library's own bar, which no -q would silence
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(places[0].parent, local_files_only=True, dtype=dtype)
        return loaded.to(device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadModel(f"{folder.where}: the model cannot be loaded ({str(error).splitlines()[0]})") from error
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class Sites:
    """The modules of one layer that are listened to."""

    norm: nn.Module
    """before the MLP; the MLP itself where there is none, since what enters it is the stream"""
    mlp: nn.Module
    post: nn.Module | None
    """behind the MLP"""


@dataclass
class Runner:
    """A model and where its MLPs are. Raises :class:`atlas.errors.BadModel` where modules are not found."""

    model: nn.Module
    weights: ModelWeights
    call: Callable[[Tensor], Any] = field(init=False)
    root: nn.Module = field(init=False)
    """what the family's names of modules begin at"""
    family: Family = field(init=False)
    layers: list[Sites] = field(init=False)
    final: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        model = self.model
        original = getattr(model, "original_model", None)
        if hooked.is_lens(model) and isinstance(original, nn.Module):
            model = original
        if hooked.is_lens(model):
            _, family, _ = hooked.parameters(model)
            root: nn.Module = model
            self.call = lambda ids: model(ids, return_type=None)
        else:
            family = family_of(model.config, self.weights.name)
            root = model.get_submodule(family.prefix.rstrip("."))
            # Padding lies behind the text, so the mask says nothing; transformers warns where it is not told.
            self.call = lambda ids: root(ids, attention_mask=torch.ones_like(ids), use_cache=False)
        self.root, self.family = root, family
        try:
            self.final = root.get_submodule(family.final_norm)
            self.layers = [
                Sites(
                    norm=root.get_submodule((family.mlp_norm or family.mlp).format(layer)),
                    mlp=root.get_submodule(family.mlp.format(layer)),
                    post=root.get_submodule(family.post_mlp_norm.format(layer)) if family.post_mlp_norm else None,
                )
                for layer in range(self.weights.n_layers)
            ]
        except AttributeError as error:
            raise BadModel(f"{self.weights.name} is loaded without a module that its family has: {error}") from error

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def longest(self) -> int | None:
        """How many positions the model has; None where its config does not say."""
        config = getattr(self.model, "cfg", None) or self.model.config
        config = getattr(config, "text_config", config)
        names = ("max_position_embeddings", "n_positions", "n_ctx")
        return next((found for name in names if (found := getattr(config, name, None))), None)

    def refuse_longer(self, length: int, what: str) -> None:
        """Raises :class:`atlas.errors.BadSetting` for what has more positions than the model."""
        if self.longest is not None and length > self.longest:
            raise BadSetting(f"{what} is more than the {self.longest:,} positions the model has")

    def run(self, ids: np.ndarray) -> None:
        """One forward pass over int64 [windows, length]; padding lies behind the text, where nothing can see it."""
        with torch.no_grad():
            self.call(torch.from_numpy(np.where(ids == PADDING, 0, ids)).to(self.device))

    def sigma(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """What the model's norms divide ``x`` by."""
        if self.weights.norm is Norm.LAYER:
            x = x - x.mean(dim=-1, keepdim=True)
        return (x.square().mean(dim=-1, keepdim=True) + self.weights.eps).sqrt()

    def read(self, site: ReadSite, x: Tensor, normed: Tensor) -> Tensor:
        """What a transcoder at ``site``, one of :data:`READABLE`, reads of the norm's input and output."""
        match site:
            case ReadSite.RESID_MID:
                return x
            case ReadSite.RESID_MID_CENTRED:
                return x - x.mean(dim=-1, keepdim=True)
            case ReadSite.NORM_POST_GAIN:
                return normed
            case ReadSite.NORM_PRE_GAIN:
                centred = x - x.mean(dim=-1, keepdim=True) if self.weights.norm is Norm.LAYER else x
                return centred / self.sigma(x)
            case _:
                raise ValueError(f"{site} is not at the norm before an MLP")


@contextmanager
def listening(hooks: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward hooks, for the length of a ``with``; each is called with (input, output); the input is None where
    a module takes it by name."""

    def quiet(hook: Callable) -> Callable:
        def inner(module: nn.Module, inputs: tuple, output: Any) -> Any:
            return hook(inputs[0] if inputs else None, output)

        return inner

    handles = [module.register_forward_hook(quiet(hook)) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Batch:
    """What fired at the counted positions of some windows, in the order of the text."""

    window: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    """within its window"""
    token: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n_plus_1"]
    """``feature[start[t]:start[t + 1]]`` fired at t, ascending; int64"""
    feature: Int[np.ndarray, " fires"]
    """row number over all layers of the set, int32"""
    value: Float[np.ndarray, " fires"]
    """float32"""
    inverse: dict[str, np.ndarray]
    """sums over the positions of 1 / sigma, float64: ``in`` before each MLP of the set, ``out`` behind it (1 where
    there is no such norm), ``final`` [1]"""


class Reader:
    """Features of every layer of a set, read off one forward pass."""

    def __init__(self, runner: Runner, source: TranscoderSource) -> None:
        self.runner, self.source = runner, source
        self.layers = source.info.layers
        self.first = np.cumsum([0] + [source.info.n_features[layer] for layer in self.layers])
        # An encoder alone: w_dec is never read here, and a set's decoders are half of its memory.
        self.encoders = [_without_decoder(source.load(layer).to(runner.device, runner.dtype)) for layer in self.layers]

    def read(self, ids: np.ndarray, counted: np.ndarray, first_window: int) -> Batch:
        """Run windows ``first_window``, … and read the positions that ``counted`` marks."""
        runner, info = self.runner, self.source.info
        mask: Bool[Tensor, "windows length"] = torch.from_numpy(counted).to(runner.device)
        n, n_layers = int(counted.sum()), len(self.layers)
        fired: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        inverse = {
            "in": np.full(n_layers, n, np.float64),
            "out": np.full(n_layers, n, np.float64),
            "final": np.zeros(1),
        }

        def at_norm(index: int) -> Callable:
            def hook(x: Tensor, normed: Tensor) -> None:
                x, normed = x[mask], normed[mask]
                if info.read in (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN):
                    inverse["in"][index] = _inverse(runner.sigma(x))
                fired.append(self._fired(index, runner.read(info.read, x, normed)))

            return hook

        def behind(index: int) -> Callable:
            def hook(x: Tensor, _: Tensor) -> None:
                inverse["out"][index] = _inverse(runner.sigma(x[mask]))

            return hook

        def at_end(x: Tensor, _: Tensor) -> None:
            inverse["final"][0] = _inverse(runner.sigma(x[mask]))

        hooks: list[tuple[nn.Module, Callable]] = [(runner.final, at_end)]
        for index, layer in enumerate(self.layers):
            hooks.append((runner.layers[layer].norm, at_norm(index)))
            post = runner.layers[layer].post
            if post is not None and info.write is not WriteSite.MLP_POST_NORM:
                hooks.append((post, behind(index)))
        with listening(hooks):
            runner.run(ids)
        window, position = np.nonzero(counted)
        start, feature, value = _merged(fired, n)
        return Batch(
            window=(window + first_window).astype(np.int64),
            position=position.astype(np.int32),
            token=ids[window, position].astype(np.int32),
            start=start,
            feature=feature,
            value=value,
            inverse=inverse,
        )

    def _fired(self, index: int, read: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position, feature and activation of what fires in one layer, sorted by position."""
        encoder, found = self.encoders[index], []
        step = max(1, CELLS // encoder.n_features)
        for begin in range(0, max(len(read), 1), step):
            activations = encoder.encode(read[begin : begin + step])
            position, feature = activations.nonzero().T
            found.append((position + begin, feature + int(self.first[index]), activations[position, feature]))
        position, feature, value = (torch.cat(parts) for parts in zip(*found, strict=True))
        return position.cpu().numpy(), feature.to(torch.int32).cpu().numpy(), value.float().cpu().numpy()


def joined(batches: list[Batch]) -> Batch:
    """Several batches as one, in their order."""
    ends = np.cumsum([0] + [len(batch.feature) for batch in batches])
    starts = [batch.start[:-1] + end for batch, end in zip(batches, ends[:-1], strict=True)]
    return Batch(
        *(np.concatenate([getattr(batch, name) for batch in batches]) for name in ("window", "position", "token")),
        start=np.concatenate([*starts, ends[-1:]]).astype(np.int64),
        feature=np.concatenate([batch.feature for batch in batches]),
        value=np.concatenate([batch.value for batch in batches]),
        inverse={name: np.sum([batch.inverse[name] for batch in batches], axis=0) for name in batches[0].inverse},
    )


def _inverse(sigma: Tensor) -> float:
    return float((1 / sigma).double().sum())


def _without_decoder(transcoder: Transcoder) -> Transcoder:
    return replace(transcoder, w_dec=transcoder.w_dec.new_zeros(1, 1).expand(transcoder.w_dec.shape))


def _merged(
    fired: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Layers' (position, feature, value), each sorted by position, as one list sorted by (position, feature)."""
    counts = [np.bincount(rows, minlength=n) for rows, _, _ in fired]
    total = np.sum(counts, axis=0)
    start = np.concatenate([[0], np.cumsum(total)])
    feature, value = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
    base = start[:-1].copy()
    for (rows, features, values), count in zip(fired, counts, strict=True):
        # where a position's entries of this layer begin, less how many entries of the layer came before it
        place = (base - np.cumsum(count) + count)[rows] + np.arange(len(rows))
        feature[place], value[place] = features, values
        base += count
    return start, feature, value
