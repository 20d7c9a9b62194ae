"""Whether a set fits its model under the convention it declares, measured on a short text before anything is built.

A set that is read at another site than it was trained on still gives numbers, and edges that mean nothing. So the model
runs on a page of text, each of a few layers is read at every site that its kind could mean, and what it predicts is
compared with what is written at every site. The declared pair must explain the most: encoding ``hook_mlp_out`` with
features of ``hook_resid_pre`` lights up an eighth of them on any text, the same ones, and explains less than nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from atlas.errors import BadModel, BadTranscoder
from atlas.model import TRANSCODER_READS, TRANSCODER_WRITES, ReadSite, WriteSite
from ingest.families import Norm
from ingest.page import TEXT
from ingest.skips import Sigmas
from ingest.taps import Taps
from ingest.transcoder import predictions

if TYPE_CHECKING:
    from ingest.evidence.capture import Runner
    from ingest.transcoder import TranscoderSource
    from ingest.weights import ModelWeights

BETTER = 0.05
"""by so much of the variance another convention must explain more, to be taken for the right one"""
_LAYERS = 5
"""that are looked at, spread over the set; of a cross-layer set its first three"""
_ALWAYS_ON = 0.1
_SKIPPED = 4
"""positions at the start of a window that do not count: what is read there is unlike the rest of a text"""


@dataclass(frozen=True)
class Figures:
    """One convention: medians over the layers looked at."""

    read: ReadSite
    write: WriteSite
    explained: float
    """``1 - sum |y - y_hat|^2 / sum |y - mean(y)|^2`` of what is written"""
    l0: float
    """features active at a position"""
    always_on: float
    """share of features active at more than a tenth of the positions"""

    def __str__(self) -> str:
        pair = str(self.read) if str(self.read) == str(self.write) else f"{self.read} -> {self.write}"
        return f"{pair:<38} {self.explained:>9.1%} {self.l0:>9,.1f} {self.always_on:>10.1%}"


@dataclass(frozen=True)
class Fit:
    """What was measured; ``str(fit)`` shows it."""

    where: str
    layers: tuple[int, ...]
    positions: int
    declared: Figures
    others: tuple[Figures, ...]
    """every other convention the set could mean, the one that explains most first"""
    stated_l0: float | None
    """what the release says, the median over the same layers"""
    stated_explained: float | None

    @property
    def better(self) -> Figures | None:
        """A convention that explains clearly more than the declared one, and something at all."""
        best = self.others[0] if self.others else None
        clear = best is not None and best.explained > max(self.declared.explained + BETTER, 0.0)
        return best if clear else None

    @property
    def warnings(self) -> list[str]:
        """What is odd about the declared convention; nothing else fits better, or it would be refused."""
        found, declared = [], self.declared
        if declared.explained < 0:
            found.append("it explains less than nothing of what is written, as no convention known here does better")
        if self.stated_l0 and not self.stated_l0 / 3 < declared.l0 < 3 * self.stated_l0:
            found.append(
                f"{declared.l0:,.1f} features are active at a position, the release states {self.stated_l0:,.1f}"
            )
        return found

    def __str__(self) -> str:
        lines = [
            f"{self.where} on {self.positions} positions, layers {', '.join(map(str, self.layers))}",
            f"{'':<10}{'convention':<38} {'explained':>9} {'active':>9} {'always on':>10}",
            f"{'declared':<10}{self.declared}",
            *(f"{'or':<10}{other}" for other in self.others),
        ]
        if self.stated_l0 or self.stated_explained:
            explained = f"{self.stated_explained:>9.1%}" if self.stated_explained else f"{'':>9}"
            lines.append(f"{'stated':<10}{'':<38} {explained} {self.stated_l0 or 0:>9,.1f}")
        return "\n".join([*lines, *(f"warning: {said}" for said in self.warnings)])

    def row(self) -> dict[str, Any]:
        """For the run's notes."""
        shown = {name: round(getattr(self.declared, name), 4) for name in ("explained", "l0", "always_on")}
        return {"layers": list(self.layers), "positions": self.positions, **shown}


def measure(runner: Runner, source: TranscoderSource, tokenizer: Any, text: str = TEXT) -> Fit | None:
    """Run the model on a text and read the set at every site it could mean; None where that cannot be told.

    It cannot where the text has too few tokens, and for a cross-layer set without its first layer.
    """
    info = source.info
    layers = _chosen(info.layers, bool(info.targets))
    windows, counted = _windows(runner, tokenizer, text)
    if not layers or counted.sum() < 2:
        return None
    taps = Taps(runner, layers)
    seen = taps.run(windows, counted)
    pairs = _pairs(runner, info.kind == "sae", info.read, info.write)
    widths = {source.info.d_model}
    measured: dict[tuple[ReadSite, WriteSite], list[tuple[float, float, float]]] = {}
    for read in dict.fromkeys(read for read, _ in pairs):
        inputs = {layer: found for layer in layers if (found := seen[layer].read(read)) is not None}
        if len(inputs) < len(layers) or {x.shape[-1] for x in inputs.values()} != widths:
            continue
        for layer, active, predicted in predictions(source, inputs):
            firing = active > 0
            l0 = float(firing.sum(dim=1).double().mean())
            always = float((firing.double().mean(dim=0) > _ALWAYS_ON).double().mean())
            for write in (write for one, write in pairs if one is read):
                y = seen[layer].write(write)
                if y is not None and y.shape == predicted.shape:
                    measured.setdefault((read, write), []).append((_explained(y, predicted), l0, always))
    figures = [Figures(*pair, *map(statistics.median, zip(*rows, strict=True))) for pair, rows in measured.items()]
    declared = [found for found in figures if (found.read, found.write) == (info.read, info.write)]
    if not declared:
        return None
    others = sorted((f for f in figures if f is not declared[0]), key=lambda f: -f.explained)
    return Fit(
        info.repo,
        tuple(layers),
        int(counted.sum()),
        declared[0],
        tuple(others),
        _median([info.l0[layer] for layer in layers if layer in info.l0]),
        _median([info.explained[layer] for layer in layers if layer in info.explained]),
    )


@dataclass
class Rehearsal:
    """A model and a set about to be built from; the model is loaded when it is first needed, in its own precision."""

    model: Any
    weights: ModelWeights
    source: TranscoderSource
    device: str = "cpu"

    def check(self, force: bool = False, say: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Measure the fit, say it, and refuse the set where another convention fits better, unless forced.

        Returns what a run notes of it.
        """
        fit = measure(self.runner, self.source, self.tokenizer)
        if fit is None:
            return {}
        if say is not None:
            say(str(fit))
        check(fit, force)
        return {"fit": fit.row()}

    def forget(self) -> None:
        """Let go of the model, where it was loaded for this."""
        self.__dict__.pop("runner", None)

    def sigmas(self) -> Sigmas:
        """:func:`sigmas` of this model."""
        return sigmas(self.runner, self.tokenizer)

    @cached_property
    def runner(self) -> Runner:
        from ingest.evidence.capture import Runner, load

        spec = self.model[0] if isinstance(self.model, tuple) else self.model
        return Runner(load(spec, self.device, dtype="auto"), self.weights)

    @cached_property
    def tokenizer(self) -> Any:
        from ingest.evidence.subject import tokenizer_of

        return tokenizer_of(self.model)


def check(fit: Fit, force: bool = False) -> None:
    """Raise :class:`atlas.errors.BadTranscoder` for a set that fits another convention better, unless forced."""
    better = fit.better
    if better is None or force:
        return
    declared = fit.declared
    raise BadTranscoder(
        f"{fit.where} declares that it reads {declared.read} and writes {declared.write}, where it explains "
        f"{declared.explained:.1%} with {declared.l0:,.1f} features active and {declared.always_on:.1%} always on; "
        f"reading {better.read} and writing {better.write} it explains {better.explained:.1%} with {better.l0:,.1f}. "
        "Mend its config, or go on as it is with --force"
    )


def sigmas(runner: Runner, tokenizer: Any, text: str = TEXT) -> Sigmas:
    """Mean of 1 / sigma before and behind every MLP of the model, on a text."""
    windows, counted = _windows(runner, tokenizer, text)
    if not counted.any():
        raise BadModel(f"{runner.weights.name}: its tokenizer makes nothing of a page of English")
    layers = list(range(runner.weights.n_layers))
    seen = Taps(runner, layers).run(windows, counted)
    before, behind = {}, {}
    for layer in layers:
        before[layer] = _mean_inverse(runner, seen[layer].resid_mid)
        behind[layer] = _mean_inverse(runner, seen[layer].mlp) if runner.layers[layer].post is not None else 1.0
    return Sigmas(before, behind)


def _mean_inverse(runner: Runner, x: Tensor) -> float:
    return round(float((1 / runner.sigma(x.float())).double().mean()), 6)


def _pairs(runner: Runner, is_sae: bool, read: ReadSite, write: WriteSite) -> list[tuple[ReadSite, WriteSite]]:
    """The declared pair, and all others that mean something in this model."""
    if is_sae:
        found = [(ReadSite(str(site)), site) for site in WriteSite if str(site) in set(ReadSite)]
    else:
        centred, post = runner.weights.norm is Norm.LAYER, runner.weights.has_post_mlp_norm
        reads = [site for site in TRANSCODER_READS if centred or site is not ReadSite.RESID_MID_CENTRED]
        writes = [
            site
            for site in TRANSCODER_WRITES
            if (centred or site is not WriteSite.MLP_RAW_CENTRED) and (post or site is not WriteSite.MLP_POST_NORM)
        ]
        found = [(one, other) for one in reads for other in writes]
    return list(dict.fromkeys([(read, write), *found]))


def _chosen(layers: list[int], cross_layer: bool) -> list[int]:
    if cross_layer:
        return [layer for at, layer in enumerate(layers[:3]) if layer == at]
    at = np.unique(np.linspace(0, len(layers) - 1, min(_LAYERS, len(layers))).round().astype(int))
    return [layers[index] for index in at]


def _windows(runner: Runner, tokenizer: Any, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids [windows, length] of a text, each window behind the token that starts texts, and which positions count."""
    config = runner.model.config if hasattr(runner.model, "config") else runner.model.cfg
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    length = min(128, longest or getattr(config, "n_ctx", 128))
    bos = runner.weights.bos_id
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    step = length - (bos is not None)
    rows = [ids[first : first + step] for first in range(0, len(ids) - step + 1, step)] or [ids]
    windows = np.asarray([([] if bos is None else [bos]) + row for row in rows if row], np.int64)
    counted = np.ones_like(windows, bool)
    counted[:, : min(_SKIPPED, max(1, windows.shape[1] // 4))] = False
    return windows, counted


def _explained(y: Tensor, predicted: Tensor) -> float:
    lost = (y - predicted).double().square().sum()
    whole = (y - y.mean(0)).double().square().sum()
    return float(1 - lost / whole) if float(whole) > 0 else float("nan")


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
