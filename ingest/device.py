"""Where tensors are computed: the device that is asked for, or that there is; and what can be said of one elsewhere."""

from __future__ import annotations

import re

import torch

from atlas.errors import BadSetting

RATES = (10, 100)
"""TFLOP a second for which a time is said where the device itself cannot be timed"""
_CUDA = re.compile(r"cuda(:\d+)?")


def device(asked: str, local: int = 0) -> str:
    """``auto`` is CUDA where there is one. ``local``: which of a machine's accelerators, where that is left to us.

    Raises :class:`atlas.errors.BadSetting` for a device that cannot be used here.
    """
    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    if asked == "auto":
        return "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadSetting(f"device {asked!r} cannot be used here ({reason}); try cpu or auto") from error
    return asked


def elsewhere(asked: str) -> bool:
    """Whether it is CUDA and this machine has none: a run there can be planned here, but not timed."""
    return bool(_CUDA.fullmatch(asked)) and not torch.cuda.is_available()


def unknown(flop: float, asked: str) -> str:
    """What can be said of a time on a device that is not here."""
    times = " and ".join(f"{duration(flop / rate / 1e12)} at {rate} TFLOP/s" for rate in RATES)
    return f"not known on {asked}: there is no CUDA here to time; {flop:.2g} FLOP would be {times}"


def duration(seconds: float) -> str:
    """A time for a person."""
    for unit, length, least in (("days", 86400, 2 * 86400), ("h", 3600, 2 * 3600), ("min", 60, 60)):
        if seconds >= least:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"
