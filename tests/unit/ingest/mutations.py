"""Ways to spoil a published file: cut short, lie in a header, change a tensor's type or size, lose or add one."""

from __future__ import annotations

import io
import json
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], Any]
_KILOBYTES, _SECONDS = 200_000, 10
"""that a refusal may take"""


def sweep(
    good: Path, folder: Path, spoils: Iterable[tuple[str, Spoil]], read: Callable[[Path], Any], refusal: type[Exception]
) -> list[str]:
    """What goes wrong when copies of a folder are read that were spoiled: each must end in a ``refusal`` of one line,
    in bounded memory and time, with nothing written."""
    wrong = []
    for name, spoil in spoils:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        spoil(folder)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        memory, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        said = _ended(read, folder, refusal)
        seconds = time.perf_counter() - clock
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        if said is None or "\n" in said or not 20 < len(said) < 700:
            wrong.append(f"{name}: {said}")
        if grown > _KILOBYTES or seconds > _SECONDS:
            wrong.append(f"{name}: {grown} kB, {seconds:.1f} s")
        if {path: path.stat().st_mtime_ns for path in folder.rglob("*")} != before:
            wrong.append(f"{name}: something was written")
    return wrong


def _ended(read: Callable[[Path], Any], folder: Path, refusal: type[Exception]) -> str | None:
    """What was said; None where nothing was wrong, and the traceback's last line where it was no error of ours."""
    try:
        read(folder)
    except refusal as error:
        return str(error)
    except Exception as error:
        return f"\n{type(error).__name__}: {error}"
    return None


def truncated(path_of: Callable[[Path], Path]) -> Iterator[tuple[str, Spoil]]:
    for name, left in {
        "nothing": 0,
        "4 bytes": 4,
        "8 bytes": 8,
        "60 bytes": 60,
        "half": 0.5,
        "all but a byte": -1,
    }.items():

        def spoil(folder: Path, left: float = left) -> None:
            data = path_of(folder).read_bytes()
            keep = len(data) + left if left < 0 else len(data) * left if 0 < left < 1 else left
            path_of(folder).write_bytes(data[: int(keep)])

        yield f"{name} left", spoil


def lying(path_of: Callable[[Path], Path]) -> Iterator[tuple[str, Spoil]]:
    """A safetensors file whose header is not what follows it."""

    def rewritten(change: Callable[[dict[str, Any]], Any]) -> Spoil:
        def spoil(folder: Path) -> None:
            path = path_of(folder)
            data = path.read_bytes()
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            told = json.dumps(change(header) or header).encode()
            path.write_bytes(struct.pack("<Q", len(told)) + told + data[8 + length :])

        return spoil

    def first(header: dict[str, Any]) -> dict[str, Any]:
        return header[next(name for name in header if name != "__metadata__")]

    yield "a header of exabytes", lambda f: path_of(f).write_bytes(b"\xff" * 8 + path_of(f).read_bytes()[8:])
    yield "a header longer than the file", lambda f: path_of(f).write_bytes(struct.pack("<Q", 10**7) + b"{}")
    yield "a header that is no JSON", lambda f: path_of(f).write_bytes(struct.pack("<Q", 4) + b"}{}{")
    yield "a header nested without end", lambda f: path_of(f).write_bytes(struct.pack("<Q", 90_000) + b"[" * 90_000)
    yield "an unknown type", rewritten(lambda h: first(h).update(dtype="F99"))
    yield "a shape of a trillion", rewritten(lambda h: first(h).update(shape=[10**6, 10**6]))
    yield "a negative shape", rewritten(lambda h: first(h).update(shape=[-1, 4]))
    yield "offsets beyond the file", rewritten(lambda h: first(h).update(data_offsets=[0, 10**15]))
    yield "offsets backwards", rewritten(lambda h: first(h).update(data_offsets=[80, 0]))


def tensors(
    path_of: Callable[[Path], Path], matrices: tuple[str, ...], biases: tuple[str, ...]
) -> Iterator[tuple[str, Spoil]]:
    """A safetensors file with one tensor changed."""

    def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Spoil:
        def spoil(folder: Path) -> None:
            stored = load_file(path_of(folder))
            found = next(key for key in stored if key == name)
            made = change(stored.pop(found))
            save_file(stored | ({} if made is None else {found: made.contiguous()}), path_of(folder))

        return spoil

    for name in (*matrices, *biases):
        yield f"{name} of integers", changed(name, lambda t: t.to(torch.int32))
        yield f"no {name}", changed(name, lambda t: None)
        yield f"a NaN in {name}", changed(name, lambda t: t.index_fill(0, torch.tensor([1]), torch.nan))
        yield f"{name} a row short", changed(name, lambda t: t[1:])
        yield f"{name} with an axis more", changed(name, lambda t: t[..., None])
    yield "a tensor nobody knows", lambda f: save_file(load_file(path_of(f)) | {"odd": torch.ones(3)}, path_of(f))
    yield (
        "a tensor twice",
        lambda f: save_file(
            (held := load_file(path_of(f))) | {biases[0].swapcase(): held[biases[0]].clone()}, path_of(f)
        ),
    )


def configs(
    path_of: Callable[[Path], Path], changes: dict[str, Any], load: Any, dump: Any
) -> Iterator[tuple[str, Spoil]]:
    """A config with absurd values, and one that is none."""
    for name, values in changes.items():
        for value in values:

            def spoil(folder: Path, name: str = name, value: Any = value) -> None:
                path = path_of(folder)
                path.write_text(dump(load(path.read_text()) | {name: value}))

            yield f"{name}: {str(value)[:40]}", spoil
    yield "a config nested without end", lambda f: path_of(f).write_text("[" * 100_000)
    yield "a config of bytes", lambda f: path_of(f).write_bytes(b"\xff\xfe\x00" * 50)
    yield "a config that is a number", lambda f: path_of(f).write_text("3")
    yield "a config of megabytes", lambda f: path_of(f).write_text('{"a": "' + "b" * 2_000_000 + '"}')


def npz(path_of: Callable[[Path], Path]) -> Iterator[tuple[str, Spoil]]:
    """An archive of arrays with one of them changed, or its archive."""

    def changed(name: str, change: Callable[[np.ndarray], Any]) -> Spoil:
        def spoil(folder: Path) -> None:
            with np.load(path_of(folder)) as stored:
                held = dict(stored)
            made = change(held.pop(name))
            np.savez(path_of(folder), **held, **({} if made is None else {name: made}))

        return spoil

    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
        yield f"{name} of integers", changed(name, lambda a: a.astype(np.int16))
        yield f"{name} of objects", changed(name, lambda a: np.array([None, {}], dtype=object))
        yield f"no {name}", changed(name, lambda a: None)
        yield f"{name} a row short", changed(name, lambda a: a[1:])
        yield (
            f"an infinity in {name}",
            changed(name, lambda a: np.where(np.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1)) == 1, np.inf, a)),
        )

    def lie(folder: Path) -> None:
        held = io.BytesIO()
        np.lib.format.write_array_header_1_0(held, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**6)})
        with zipfile.ZipFile(path_of(folder), "w") as archive:
            archive.writestr("W_enc.npy", held.getvalue() + b"\0" * 64)

    def bomb(folder: Path) -> None:
        with zipfile.ZipFile(path_of(folder), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("W_enc.npy", b"\0" * (1 << 26))

    yield "a header of exabytes", lie
    yield "a zip bomb", bomb
    yield "no zip at all", lambda f: path_of(f).write_bytes(b"PK\x03\x04 but no more of it")
