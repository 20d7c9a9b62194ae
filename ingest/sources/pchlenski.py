"""Dunefsky and Chlenski's transcoders of GPT-2: ``final_sparse_autoencoder_…_blocks.{i}.ln2.hook_normalized_….pt``.

A file is a pickle of torch, ``{cfg, state_dict}``, whose config is an object of a class that nobody else has. It is
read only where that was asked for, by torch's own restricted unpickler, in which that one class is an empty shell:
tensors come out, no code runs. The sets expect ``x - b_dec`` before ``W_enc`` and add ``b_dec_out``::

    p = (x - b_dec) @ W_enc + b_enc         y = relu(p) @ W_dec + b_dec_out

so the record's ``b_enc`` is ``b_enc - b_dec @ W_enc`` and its ``b_dec`` is ``b_dec_out``. They read LayerNorm's output
before gain and bias and write the MLP's output with its mean taken off (TransformerLens' processed weights).

Dunefsky, Chlenski and Nanda 2024 (https://arxiv.org/abs/2406.11944); pchlenski/gpt2-transcoders.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.sources.hooks import text
from ingest.sources.tensors import checked, first_line, floats, keep, pickled, set_name
from ingest.transcoder import SetInfo, Transcoder
from ingest.weights import digest

if TYPE_CHECKING:
    from ingest.weights import ModelWeights

LAYOUT = "pchlenski's final_sparse_autoencoder_….pt"
_NAME = re.compile(r"(?:^|/)final_sparse_autoencoder_([\w.-]+)_blocks\.(\d+)\.ln2\.hook_normalized_(\d+)\.pt$")
_CONFIG_CLASS = "sae_training.config.LanguageModelSAERunnerConfig"
_NEEDED = ("W_enc", "b_enc", "W_dec", "b_dec", "b_dec_out")
_MOST_BYTES = 1 << 20
"""of the pickled description; the tensors lie beside it"""


class Shell:
    """What stands for the published config class: it holds attributes and does nothing."""


def recognises(folder: Folder) -> bool:
    return any(_NAME.search(name) for name in folder.names())


def open_set(folder: Folder, layers: list[int] | None, model: ModelWeights | None, allow_pickle: bool = False) -> Set:
    """The set in a folder. Raises :class:`atlas.errors.BadTranscoder` unless pickles are allowed."""
    found = {int(match[2]): match for name in folder.names() if (match := _NAME.search(name))}
    if not allow_pickle:
        raise pickled(next(iter(found.values())).string)
    return Set(folder, keep(found, layers, folder.where))


class Set:
    """A set in this layout; widths come from the files' names, so that nothing is read before it is wanted."""

    def __init__(self, folder: Folder, files: dict[int, re.Match]) -> None:
        self._folder, self._files = folder, {layer: match.string for layer, match in files.items()}
        n_features = {layer: int(match[3]) for layer, match in files.items()}
        first = next(iter(self._files))
        self._d_model = self._tensors(first)["W_enc"].shape[0]
        hashes = {name: folder.sha256(name) for name in self._files.values()}
        self.info = SetInfo(
            name=set_name(n_features),
            kind="transcoder",
            repo=folder.repo,
            revision=folder.revision or digest(hashes),
            files=hashes,
            layers=list(self._files),
            n_features=n_features,
            d_model=self._d_model,
            read=ReadSite.NORM_PRE_GAIN,
            write=WriteSite.MLP_RAW_CENTRED,
            activation=Activation.RELU,
            model_name=next(iter(files.values()))[1],
        )

    def load(self, layer: int) -> Transcoder:
        """One layer, in float32 on the CPU."""
        keep(self._files, [layer], self._folder.where)
        stored = floats(self._tensors(layer), layer)
        w_enc, b_dec = stored["W_enc"].T.contiguous(), stored["b_dec"]
        return checked(
            Transcoder(
                layer=layer,
                w_enc=w_enc,
                b_enc=stored["b_enc"] - w_enc @ b_dec,
                w_dec=stored["W_dec"].contiguous(),
                b_dec=stored["b_dec_out"],
                activation=self.info.activation,
                read=self.info.read,
                write=self.info.write,
            )
        )

    def _tensors(self, layer: int) -> dict[str, Tensor]:
        name = self._files[layer]
        content = unpickle(self._folder.path(name), layer)
        state = content.get("state_dict")
        if not isinstance(state, dict) or any(not isinstance(state.get(tensor), Tensor) for tensor in _NEEDED):
            held = sorted(map(str, state if isinstance(state, dict) else content))[:8]
            raise BadTranscoder(f"layer {layer}: {name} lacks one of {', '.join(_NEEDED)} (found {', '.join(held)})")
        unknown = sorted(set(state) - set(_NEEDED))
        if unknown:
            raise BadTranscoder(f"layer {layer}: the file has a tensor {unknown[0]!r} that this layout does not have")
        n, d = int(name.rpartition("_")[2].removesuffix(".pt")), state["b_dec"].numel()
        expected = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "b_dec_out": (d,)}
        for tensor, shape in expected.items():
            if tuple(state[tensor].shape) != shape:
                raise BadTranscoder(
                    f"layer {layer}: {tensor} has shape {tuple(state[tensor].shape)}, expected {shape}: {n} features "
                    f"by the file's name, and a width of {d}"
                )
        _sites(content.get("cfg"), layer)
        return {tensor: state[tensor] for tensor in _NEEDED}


def unpickle(path: Path, layer: int) -> dict[str, Any]:
    """The content of a file of torch with one class in it that is read as an empty shell; any other is refused.

    Raises :class:`atlas.errors.BadTranscoder` for a class that is not a tensor's, and for what unpacks beyond its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            described = max((m.file_size for m in archive.infolist() if m.filename.endswith("data.pkl")), default=0)
        if size > 2 * path.stat().st_size + 4096 or described > _MOST_BYTES:
            raise BadTranscoder(
                f"layer {layer}: {path.name} unpacks to {size:,} bytes with a description of {described:,}; torch "
                "stores tensors as they are"
            )
        with torch.serialization.safe_globals([(Shell, _CONFIG_CLASS)]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except BadTranscoder:
        raise
    except Exception as error:  # zipfile, torch and its unpickler each raise their own
        if isinstance(error, MemoryError):
            raise
        raise BadTranscoder(
            f"layer {layer}: {path.name} is no file of torch with tensors and {_CONFIG_CLASS} alone "
            f"({first_line(error)}); it is not read"
        ) from error
    if not isinstance(content, dict):
        raise BadTranscoder(f"layer {layer}: {path.name} holds no table with a state_dict")
    return content


def _sites(cfg: Any, layer: int) -> None:
    """Whether the config, where it says so, reads and writes what this layout does."""
    stated = vars(cfg) if isinstance(cfg, Shell) else cfg if isinstance(cfg, dict) else {}
    expected = {"hook_point": f"blocks.{layer}.ln2.hook_normalized", "out_hook_point": f"blocks.{layer}.hook_mlp_out"}
    for name, hook in expected.items():
        if text(stated.get(name)) not in (None, hook):
            raise BadTranscoder(f"layer {layer}: its config has {name} {stated[name]!r}, expected {hook}")
