"""From the tensors of one file to one record: names, orientation, values.

Every reader ends here. Published files disagree about the orientation of ``W_enc`` and, in old ones, of ``W_dec``; the
lengths of ``b_enc`` (features) and ``b_dec`` (width written) decide, and where they cannot, the file is refused. Every
tensor of a file must be understood: one left out could change every edge.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import Activation, ReadSite, WriteSite
from ingest.folders import Folder
from ingest.transcoder import Transcoder

T = TypeVar("T")
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
WEIGHTS = (".safetensors", ".npz")
CALLED = {
    "w_enc": "w_enc",
    "b_enc": "b_enc",
    "w_dec": "w_dec",
    "b_dec": "b_dec",
    "threshold": "threshold",
    "activation_function.threshold": "threshold",
    "w_skip": "w_skip",
    "affine_skip_connection": "affine_skip",
    "k": "k",
}
"""what files call the tensors of the record, in small letters; ``affine_skip`` is ``w_skip`` with its axes exchanged"""
_NEEDED = ("w_enc", "b_enc", "w_dec", "b_dec")
_SKIPS = ("w_skip", "affine_skip")


def read_tensors(path: Path, layer: int) -> dict[str, Tensor]:
    """Every tensor of a safetensors or npz file.

    Raises :class:`atlas.errors.BadTranscoder` for a file that is cut short, of another format, or a pickle.
    """
    if path.suffix in PICKLES:
        raise pickled(path.name)
    try:
        if path.suffix == ".npz":
            return _npz(path)
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors, zipfile and numpy each raise their own
        if isinstance(error, MemoryError | BadTranscoder):
            raise
        raise BadTranscoder(
            f"layer {layer}: {path.name} is cut short or damaged ({first_line(error)}); fetch it again"
        ) from error


def read_shapes(folder: Folder, name: str, layer: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a file, from its header alone where the format has one, and without a download."""
    from safetensors import SafetensorError, safe_open

    told = folder.shapes(name)
    if told is not None:
        return told
    path = folder.path(name)
    try:
        if path.suffix == ".npz":
            return _npz_shapes(path)
        if path.suffix != ".safetensors":
            return {name: tuple(tensor.shape) for name, tensor in read_tensors(path, layer).items()}
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, SyntaxError, EOFError, zipfile.BadZipFile) as error:
        raise BadTranscoder(
            f"layer {layer}: {path.name} is cut short or damaged ({first_line(error)}); fetch it again"
        ) from error


def pickled(name: str) -> BadTranscoder:
    """Why a file of this name is not read."""
    return BadTranscoder(
        f"{name} is a pickle, which can run code when it is read; the one layout read from pickles is that of "
        "pchlenski/gpt2-transcoders, with --allow-pickle and the code left out: save others as safetensors"
    )


def canonical(
    found: Mapping[str, Any],
    layer: int,
    called: Mapping[str, str] = CALLED,
    needed: tuple[str, ...] = _NEEDED,
) -> dict[str, Any]:
    """Tensors, or shapes, by the names of the record; raises where one is missing or not understood.

    ``called``: what the layout calls them, in small letters.
    """
    named = {called.get(name.lower(), name): value for name, value in found.items()}
    unknown = sorted(set(named) - set(called.values()))
    missing = [name for name in needed if name not in named]
    if len(named) < len(found):
        raise BadTranscoder(f"layer {layer}: the file has one tensor under two names ({', '.join(sorted(found)[:12])})")
    if unknown or missing:
        problem = f"no {missing[0]}" if missing else f"a tensor {unknown[0]!r} that this layout does not have"
        raise BadTranscoder(
            f"layer {layer}: the file has {problem} (found {', '.join(sorted(found)[:12]) or 'nothing'}); "
            "a transcoder has W_enc, b_enc, W_dec, b_dec and perhaps a threshold, W_skip or k"
        )
    return named


def sizes(shapes: Mapping[str, tuple[int, ...]], layer: int) -> tuple[int, int, int]:
    """Features, width read and width written, decided by the biases; raises where they cannot decide."""
    b_enc, b_dec = shapes["b_enc"], shapes["b_dec"]
    if len(b_enc) != 1 or len(b_dec) != 1:
        raise BadTranscoder(f"layer {layer}: b_enc and b_dec have shapes {b_enc} and {b_dec}, expected one axis each")
    n, d_out = b_enc[0], b_dec[0]
    w_enc, w_dec = shapes["w_enc"], shapes["w_dec"]
    if len(w_enc) != 2 or n not in w_enc:
        raise BadTranscoder(f"layer {layer}: w_enc has shape {w_enc}, but b_enc has {n} features")
    d_in = w_enc[1] if w_enc[0] == n else w_enc[0]
    if sorted(w_dec) != sorted((n, d_out)):
        raise BadTranscoder(
            f"layer {layer}: w_dec has shape {w_dec}, but b_enc has {n} features and b_dec a width of {d_out}"
        )
    for name in _SKIPS:
        if sorted(shapes.get(name, (d_in, d_out))) != sorted((d_in, d_out)):
            raise BadTranscoder(f"layer {layer}: {name} has shape {shapes[name]}, expected {(d_out, d_in)}")
    if n in (d_in, d_out):
        raise BadTranscoder(
            f"layer {layer}: {n} features and a width of {n}: nothing tells rows from columns, so the orientation of "
            "its matrices cannot be known"
        )
    return n, d_in, d_out


def skips(shapes: Mapping[int, Collection[str]], where: str) -> bool:
    """Whether a set has skips, by the tensors of each layer; raises where some layers have one and some have none."""
    having = [layer for layer, names in shapes.items() if {*_SKIPS} & set(names)]
    if having and len(having) < len(shapes):
        without = min(set(shapes) - set(having))
        raise BadTranscoder(f"{where}: layer {having[0]} has a skip, layer {without} has none; a set is of one kind")
    return bool(having)


def record(
    tensors: Mapping[str, Tensor],
    layer: int,
    *,
    read: ReadSite,
    write: WriteSite,
    activation: Activation,
    k: int | None = None,
) -> Transcoder:
    """One layer in float32, features in rows; raises :class:`atlas.errors.BadTranscoder` where it does not add up."""
    named = canonical(tensors, layer)
    named.pop("k", None)
    named = floats(named, layer)
    n, _, _ = sizes({name: tuple(tensor.shape) for name, tensor in named.items()}, layer)
    if "affine_skip" in named:
        named["w_skip"] = named.pop("affine_skip").T.contiguous()
    for name in ("w_enc", "w_dec"):
        if named[name].shape[0] != n:
            named[name] = named[name].T.contiguous()
    return checked(Transcoder(layer=layer, read=read, write=write, activation=activation, k=k, **named))


def floats(named: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """The same in float32; raises :class:`atlas.errors.BadTranscoder` for what is no floating point number."""
    for name, tensor in named.items():
        if not tensor.is_floating_point():
            raise BadTranscoder(f"layer {layer}: {name} is stored as {tensor.dtype}; weights must be floating point")
    return {name: tensor.float() for name, tensor in named.items()}


def checked(transcoder: Transcoder) -> Transcoder:
    """The same, if all of it is finite; raises :class:`atlas.errors.BadTranscoder` with the first row that is not."""
    for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "w_skip"):
        tensor = getattr(transcoder, name)
        # a sum is finite only if all its terms are, and costs no mask; a finite one that overflows is looked at again
        if tensor is None or torch.isfinite(tensor.sum()):
            continue
        bad = ~torch.isfinite(tensor.reshape(len(tensor), -1)).all(dim=1)
        if bad.any():
            raise BadTranscoder(
                f"layer {transcoder.layer}: {name} has NaN or Inf in row {int(bad.nonzero()[0])} "
                f"({int(bad.sum())} rows in all); a compare would drop them silently"
            )
    return transcoder


def keep(found: Mapping[int, T], layers: list[int] | None, where: str) -> dict[int, T]:
    """Some layers of what was found, ascending; raises :class:`atlas.errors.BadTranscoder` for one that is missing."""
    missing = sorted(set(layers or ()) - set(found))
    if missing:
        are = f"layer {missing[0]} is" if len(missing) == 1 else f"layers {', '.join(map(str, missing))} are"
        raise BadTranscoder(f"{are} not in {where}; it has {', '.join(map(str, sorted(found))) or 'none'}")
    return {layer: found[layer] for layer in sorted(found) if layers is None or layer in layers}


def set_name(n_features: Mapping[int, int]) -> str:
    """A set's name in keys, where nobody gave one: ``tc-24k`` for 24,576 features a layer."""
    widest = max(n_features.values())
    return f"tc-{widest // 1024}k" if widest >= 1024 else f"tc-{widest}"


def unpacked(path: Path, times: int = 100) -> int:
    """Bytes that a zip archive unpacks to; raises where that is ``times`` its size: weights do not shrink so much."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > times * path.stat().st_size:
        raise BadTranscoder(f"{path.name} unpacks to {size:,} bytes, {times} times its size; it holds no weights")
    return size


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """From the headers of the arrays; nothing else is unpacked."""
    unpacked(path)
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename
            with archive.open(member) as array:
                version = np.lib.format.read_magic(array)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(array)
                if dtype.hasobject:
                    raise ValueError(f"{name} is an array of objects")
                told = array.tell() + math.prod(shape) * dtype.itemsize
                if told != member.file_size or min(shape, default=0) < 0:
                    raise ValueError(f"{name} says that it has {told:,} bytes and has {member.file_size:,}")
                found[name.removesuffix(".npy")] = tuple(shape) or (1,)
    return found


def _npz(path: Path) -> dict[str, Tensor]:
    _npz_shapes(path)  # what the headers say of their sizes is made room for before it is read
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.atleast_1d(arrays[name])) for name in arrays.files}


def first_line(error: Exception) -> str:
    """An exception's own words, short enough for a message of one line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
