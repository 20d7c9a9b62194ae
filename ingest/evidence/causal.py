"""Does it hold? Take a source away where it fires, in the real model, and see what becomes of its targets.

For an edge from i to j, ``a_i(t) u_i`` is subtracted from what i's layer writes, at all counted positions of a window
where i fires, at once; everything behind it runs live: attention, norms, MLPs. What is read is the change of j's
pre-activation. The effect is minus that change, so an edge of positive weight should have a positive effect. Three
means of it are reported, each beside the statistic that predicts it:

``where``     over the positions where i fires                  beside drive_active
``overall``   the same times n_i / N, over all positions        beside drive_mean
``weighted``  sum a_j effect / sum a_j, over all positions      beside TWERA

Predictors are to be compared within a column only: drive_mean and TWERA share a factor with the effect they win on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy.stats import spearmanr
from torch import Tensor

from atlas.errors import BadSetting
from atlas.model import WriteSite
from atlas.observations import Observation
from atlas.observed import observed
from ingest.evidence.capture import listening
from ingest.evidence.corpus import Corpus
from ingest.evidence.subject import Subject

PREDICTORS = ("weight", "z", "share", "drive_active", "drive_mean", "era", "twera")
FIRES = 10
EFFECTS = ("where", "overall", "weighted")


def stored_edges(subject: Subject, observation: Observation) -> pd.DataFrame:
    """Every edge between features that the build or the observation keeps, with all predictors.

    ``share`` takes the weight's sign, as a predictor of a signed effect.
    """
    frame = pa.concat_tables(observed(subject.build, observation.name).edges("FEEDS")).to_pandas()
    return frame.assign(share=frame["share"] * np.sign(frame["weight"]))


def effects(
    subject: Subject,
    observation: Observation,
    text: Corpus,
    *,
    sources: int = 32,
    targets: int = 32,
    windows: int = 64,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """One row for each of a random sample of stored edges: its predictors, and the measured :data:`EFFECTS`.

    ``sources``: live features of each layer, drawn at random; ``targets``: stored edges out of each; ``windows`` of the
    text, drawn at random and the same for all. A source that fires less than :data:`FIRES` times in them is passed
    over. Memory is 8 bytes a position and feature of those windows.

    Raises :class:`atlas.errors.BadSetting` where no source of a stored edge fires that often.
    """
    features = observation.features().to_pandas()
    live = features["live"].to_numpy()
    edges = stored_edges(subject, observation)
    edges = edges[live[edges["source"]] & live[edges["target"]]]
    rng = np.random.default_rng(seed)
    by_source = {int(cast("int", source)): group for source, group in edges.groupby("source")}
    chosen: list[int] = []
    layer_of = subject.build.layer_of
    for layer in subject.build.layers[:-1]:
        here = [source for source in sorted(by_source) if layer_of[source] == layer]
        chosen += rng.permutation(here)[:sources].tolist()
    drawn = np.sort(rng.permutation(len(text))[:windows])
    intervene = _Intervention(subject, text, drawn)
    found = []
    for number, source in enumerate(chosen):
        group = by_source[source]
        group = group.iloc[np.sort(rng.permutation(len(group))[:targets])]
        measured = intervene.remove(source, np.array(group["target"]))
        if measured is not None:
            where, weighted = measured
            density = features["density"].iloc[source]
            found.append(group.assign(where=where, overall=where * density, weighted=weighted))
        if progress:
            progress("taking sources away", number + 1, len(chosen))
    if not found:
        raise BadSetting(
            f"none of {len(chosen)} sources of stored edges fires {FIRES} times or more in {len(drawn)} windows of "
            f"{text.manifest['name']}; measure on more windows, or observe more text"
        )
    return pd.concat(found, ignore_index=True).assign(
        source_layer=lambda frame: layer_of[frame["source"]], target_layer=lambda frame: layer_of[frame["target"]]
    )


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """How well each predictor orders and signs the effects, for each source layer and for all.

    Columns ``layer`` (of the source; ``all``), ``predictor``, ``edges``, ``sign`` (share of edges whose effect has the
    predictor's sign), then for each effect Spearman's rho of the signed values and of their sizes.
    """
    rows = []
    groups = [(str(layer), group) for layer, group in measured.groupby("source_layer")]
    for layer, group in [*groups, ("all", measured)]:
        for predictor in PREDICTORS:
            known = group[group[[predictor, *EFFECTS]].notna().all(axis=1)]
            predicted = np.asarray(known[predictor])
            said = predicted != 0
            row: dict[str, object] = {"layer": layer, "predictor": predictor, "edges": len(known)}
            row["sign"] = float((np.sign(predicted[said]) == np.sign(np.asarray(known["where"])[said])).mean())
            for effect in EFFECTS:
                values = np.asarray(known[effect])
                row[effect] = _rho(predicted, values)
                row[f"{effect}_size"] = _rho(abs(predicted), abs(values))
            rows.append(row)
    return pd.DataFrame(rows)


def _rho(a: np.ndarray, b: np.ndarray) -> float:
    ranked: Any = spearmanr(a, b)
    return float(ranked.statistic)


def size(measured: pd.DataFrame) -> pd.DataFrame:
    """Effect where the source fires over what drive predicts, by how many layers lie between: quartiles.

    Only edges in the upper half by drive: a ratio to next to nothing says nothing.
    """
    strong = measured[measured["drive_active"].abs() >= measured["drive_active"].abs().median()]
    ratio = pd.Series(strong["where"] / strong["drive_active"], name="ratio")
    by_distance = ratio.groupby(strong["target_layer"] - strong["source_layer"])
    # pandas takes several shares, its own types only one
    quartiles = by_distance.quantile([0.25, 0.5, 0.75]).unstack()  # pyright: ignore[reportArgumentType]
    return quartiles.rename_axis(index="layers apart").reset_index()


class _Intervention:
    """Some windows of the text as the model reads them, and again with a source taken away."""

    def __init__(self, subject: Subject, text: Corpus, windows: np.ndarray) -> None:
        self.subject, self.text, self.windows = subject, text, windows
        self.layers = subject.source.info.layers
        self.first = np.cumsum([0, *subject.shape_of])
        self.transcoders = {
            layer: subject.source.load(layer).to(subject.runner.device, subject.runner.dtype) for layer in self.layers
        }
        every = np.arange(int(self.first[-1]))
        self.before = [self._read(window, every) for window in windows.tolist()]

    def remove(self, source: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Effects ``where`` and ``weighted`` on each target; None where the source fires less than FIRES times."""
        total = torch.zeros(len(targets), dtype=torch.float64)
        product, mass = torch.zeros_like(total), torch.zeros_like(total)
        fires = 0
        columns = torch.from_numpy(targets)
        for window, (p, active) in zip(self.windows.tolist(), self.before, strict=True):
            own, activation = active[:, columns].double(), active[:, source]
            mass += own.sum(0)
            where = activation != 0
            if bool(where.any()):
                after, _ = self._read(window, targets, source, activation)
                effect = (p[:, columns] - after).double()
                total += effect[where].sum(0)
                product += (own * effect).sum(0)
                fires += int(where.sum())
        if fires < FIRES:
            return None
        return (total / fires).numpy(), torch.where(mass > 0, product / mass, torch.nan).numpy()

    def _read(
        self, window: int, rows: np.ndarray, source: int | None = None, activation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pre-activations and activations [n_counted, n_rows] of some features, on the CPU."""
        runner, info = self.subject.runner, self.subject.source.info
        ids = self.text.windows(window, window + 1)
        mask = torch.from_numpy(self.text.counted(ids, *self.subject.special)).to(runner.device)
        place = np.searchsorted(self.first, rows, side="right") - 1
        p = torch.empty(int(mask.sum()), len(rows))
        active = torch.empty_like(p)

        def reads(at: int) -> Callable:
            transcoder = self.transcoders[self.layers[at]]
            columns = torch.from_numpy(np.nonzero(place == at)[0])
            own = torch.from_numpy(rows[place == at] - self.first[at]).to(runner.device)

            def hook(x: Tensor, normed: Tensor) -> None:
                read = runner.read(info.read, x[mask], normed[mask])
                p[:, columns] = (read @ transcoder.w_enc[own].T + transcoder.b_enc[own]).float().cpu()
                if source is None:
                    active[:, columns] = transcoder.encode(read)[:, own].float().cpu()

            return hook

        def take_away(_: Tensor, y: Tensor) -> Tensor:
            assert source is not None
            assert activation is not None
            at = int(np.searchsorted(self.first, source, side="right") - 1)
            write = self.transcoders[self.layers[at]].w_dec[source - int(self.first[at])]
            if info.write is WriteSite.MLP_RAW_CENTRED:
                write = write - write.mean()
            y = y.clone()
            y[mask] -= activation.to(y)[:, None] * write
            return y

        hooks = [(runner.layers[self.layers[at]].norm, reads(at)) for at in sorted(set(place.tolist()))]
        if source is not None:
            sites = runner.layers[self.layers[int(np.searchsorted(self.first, source, side="right") - 1)]]
            behind = sites.post if info.write is WriteSite.MLP_POST_NORM and sites.post is not None else sites.mlp
            hooks.append((behind, take_away))
        with listening(hooks):
            runner.run(ids)
        return p, active
