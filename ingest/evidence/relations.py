"""From sums over positions to what is reported: per feature, and per edge ERA, TWERA, drive and lift.

With N counted positions, a the activations, V the edge's weight, n the positions at which something is active::

    lift_ij         = N n_ij / (n_i n_j)
    drive_active_ij = V_ij E[a_i | a_i active] E[1 / sigma_j] E[1 / sigma_post_i]
    drive_mean_ij   = V_ij E[a_i]              E[1 / sigma_j] E[1 / sigma_post_i]
    ERA_ij          = V_ij E[a_i 1(a_j active)]
    TWERA_ij        = V_ij E[a_i a_j] / E[a_j]

Expectations run over all counted positions. ERA and TWERA are those of "Circuit Tracing" (Ameisen et al. 2025,
https://transformer-circuits.pub/2025/attribution-graphs/methods.html): they rank the sources of one target, drive also
compares targets, since it has the norm's denominator in it. A token counts as active, with activation 1, where it
stands. Into a logit only drive is defined: a logit does not fire.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from atlas import observations
from atlas.staging import Build
from ingest.evidence.counting import BINS, Shape, Sums, edges_of_bins
from ingest.folding import Vectors

LIVE_FIRES, LIVE_DENSITY = 10, 1e-4
"""a feature is live when it fires ten times or more, and oftener than once in ten thousand positions"""
ALWAYS_ON = 0.1
"""density beyond which a feature is flagged"""
TOP_TOKENS = 10
_CHUNK = 256
_WEIGHT, _Z, _TWERA, _DRIVE = 1, 2, 4, 8


@dataclass
class Totals:
    """Sums over the whole text that do not belong to one feature. All float64 or int64."""

    positions: int
    token_n: Int[np.ndarray, " n_vocab"]
    inverse: dict[str, np.ndarray]
    """sums of 1 / sigma, as in :class:`ingest.evidence.capture.Batch`"""
    n: Int[np.ndarray, " n_features"]
    sum: Float[np.ndarray, " n_features"]
    """of every feature's activations: a block needs those of its sources"""


class Relations:
    """Evidence for the edges of one build, once the totals are known."""

    def __init__(self, build: Build, vectors: Vectors, shape: Shape, totals: Totals, strongest: int) -> None:
        self.build, self.vectors, self.shape, self.totals, self.strongest = build, vectors, shape, totals, strongest
        self.live = (totals.n >= LIVE_FIRES) & (totals.n > LIVE_DENSITY * totals.positions)
        counts = np.diff(shape.first)
        mean_inverse = {name: sums / totals.positions for name, sums in totals.inverse.items()}
        self.layer = np.repeat(np.arange(len(counts)), counts)
        self.inv_in = mean_inverse["in"][self.layer]
        self.inv_out = mean_inverse["out"][self.layer]
        self.inv_final = float(mean_inverse["final"][0])
        with np.errstate(invalid="ignore", divide="ignore"):
            self.mean_active = np.where(totals.n > 0, totals.sum / totals.n, np.nan)
        self.mean = totals.sum / totals.positions

    @cached_property
    def kept(self) -> dict[str, pa.Table]:
        """Kept edges of FEEDS and ACTIVATES in the order of the files: source, target, weight, z, share."""
        return {kind: pa.concat_tables(self.build.edges(kind)) for kind in ("FEEDS", "ACTIVATES", "PROMOTES")}

    def features(self, sums: Sums) -> pa.Table:
        """Statistics of a block's features; columns :data:`atlas.observations.FEATURE`."""
        a, rows, total = sums.arrays, np.arange(sums.rows.start, sums.rows.stop), self.totals.positions
        n = a["n"]
        density = n / total
        bins = edges_of_bins()
        tokens, shares = _top_tokens(a["token_sum"], a["sum"])
        used = [np.nonzero(row)[0] for row in a["histogram"]]
        ends = [(int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0) for at in used]
        return pa.table(
            {
                "n_fires": n,
                "density": as_float(density),
                "mean_active": as_float(self.mean_active[rows]),
                "mean": as_float(self.mean[rows]),
                "max_active": as_float(np.where(n > 0, a["max"], np.nan)),
                "inv_sigma": as_float(self.inv_in[rows]),
                "token_share": as_float(self._token_share(a)),
                "live": self.live[rows],
                "always_on": density > ALWAYS_ON,
                "quantiles": _lists(_quantiles(a["histogram"], bins), pa.float32()),
                "bin_edges": _lists([bins[low : high + 1] if high else [] for low, high in ends], pa.float32()),
                "bin_counts": _lists(
                    [row[low:high] for row, (low, high) in zip(a["histogram"], ends, strict=True)], pa.int64()
                ),
                "top_tokens": _lists(tokens, pa.int32()),
                "top_token_shares": _lists(shares, pa.float32()),
            },
            schema=observations.FEATURE,
        )

    def feeds(self, sums: Sums) -> tuple[pa.Table, pa.Table]:
        """Evidence for the kept edges into a block's features, in the order of the files, and the extra edges.

        The extra are each live target's strongest by TWERA and by drive among live sources, exactly, that the build
        did not keep.
        """
        kept = self.kept["FEEDS"]
        target = kept["target"].to_numpy()
        low, high = np.searchsorted(target, [sums.rows.start, sums.rows.stop])
        source, target = kept["source"].to_numpy()[low:high], target[low:high]
        weight = kept["weight"].to_numpy()[low:high].astype(np.float64)
        found, bits = self._strongest(sums)
        known = source.astype(np.int64) + target.astype(np.int64) * self.shape.n_features
        place = np.searchsorted(known, found)
        is_kept = np.zeros(len(found), bool)
        inside = place < len(known)
        is_kept[inside] = known[place[inside]] == found[inside]
        why = self._why(source, target, np.abs(weight), np.abs(kept["z"].to_numpy()[low:high]))
        why[place[is_kept]] |= bits[is_kept]
        evidence = self._edges(sums, source, target, weight, why)
        found, bits = found[~is_kept], bits[~is_kept]
        source, target = found % self.shape.n_features, found // self.shape.n_features
        weight = self.weights(source, target)
        extra = self._edges(sums, source, target, weight.astype(np.float64), bits)
        extra = extra.add_column(2, "weight", pa.array(weight, pa.float32()))
        return evidence, extra

    def activates(self, sums: Sums) -> pa.Table:
        """Evidence for the kept edges from tokens into a block's features, in the order of the files."""
        kept = self.kept["ACTIVATES"]
        target = kept["target"].to_numpy()
        low, high = np.searchsorted(target, [sums.rows.start, sums.rows.stop])
        token, target = kept["source"].to_numpy()[low:high], target[low:high]
        row = target - sums.rows.start
        weight = kept["weight"].to_numpy()[low:high].astype(np.float64)
        total, n_token = self.totals.positions, self.totals.token_n[token]
        n_both, product = sums.arrays["token_n"][row, token], sums.arrays["token_sum"][row, token]
        per_unit = weight * self.inv_in[target]
        return _evidence(
            token,
            target,
            n_both,
            lift=ratio(total * n_both.astype(np.float64), n_token * self.totals.n[target].astype(np.float64)),
            drive_active=np.where(n_token > 0, per_unit, np.nan),
            drive_mean=per_unit * n_token / total,
            era=weight * n_both / total,
            twera=ratio(weight * product, self.totals.sum[target]),
            kept_by=np.full(len(target), _WEIGHT, np.int8),
        )

    def promotes(self) -> pa.Table:
        """Evidence for the kept edges to logits: drive in logits, the final norm's denominator included."""
        kept = self.kept["PROMOTES"]
        source, target = kept["source"].to_numpy(), kept["target"].to_numpy()
        per_unit = kept["weight"].to_numpy().astype(np.float64) * self.inv_out[source] * self.inv_final
        nothing = np.full(len(source), np.nan)
        return _evidence(
            source,
            target,
            None,
            lift=nothing,
            drive_active=per_unit * self.mean_active[source],
            drive_mean=per_unit * self.mean[source],
            era=nothing,
            twera=nothing,
            kept_by=np.full(len(source), _WEIGHT, np.int8),
        )

    def weights(self, source: Int[np.ndarray, " n"], target: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Weights of any pairs of row numbers, source in an earlier layer; float32."""
        found = np.empty(len(source), np.float32)
        from_layer, to_layer = self.layer[source], self.layer[target]
        for s, t in {*zip(from_layer.tolist(), to_layer.tolist(), strict=True)}:
            at = np.nonzero((from_layer == s) & (to_layer == t))[0]
            writes, reads = self._vectors(s, t)
            for part in np.array_split(at, max(1, len(at) // 65536)):
                pair = writes[source[part] - self.shape.first[s]].double() * reads[target[part] - self.shape.first[t]]
                found[part] = pair.sum(dim=1).float().cpu().numpy()
        return found

    def _vectors(self, s: int, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        layers = self.vectors.layers
        return self.vectors.writes(layers[s], layers[t]), self.vectors.reads(layers[t])

    def _edges(
        self, sums: Sums, source: np.ndarray, target: np.ndarray, weight: np.ndarray, why: np.ndarray
    ) -> pa.Table:
        n_both, of_source, product = sums.pairs(source, target)
        total = self.totals
        drive = weight * self.inv_in[target] * self.inv_out[source]
        return _evidence(
            source,
            target,
            n_both,
            lift=ratio(
                total.positions * n_both.astype(np.float64), total.n[source].astype(np.float64) * total.n[target]
            ),
            drive_active=drive * self.mean_active[source],
            drive_mean=drive * self.mean[source],
            era=weight * of_source / total.positions,
            twera=ratio(weight * product, total.sum[target]),
            kept_by=why,
        )

    def _strongest(self, sums: Sums) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Each live target's strongest by TWERA and by drive: ``target * n_features + source``, ascending; bits."""
        found: list[np.ndarray] = []
        bits: list[np.ndarray] = []
        first = self.shape.first
        for t in range(1, len(first) - 1):
            rows = [row for row in sums.rows if first[t] <= row < first[t + 1] and self.live[row]]
            for start in range(0, len(rows), _CHUNK):
                part = np.asarray(rows[start : start + _CHUNK])
                weight = self.weights_into(t, part)
                strength = np.where(self.live[: first[t]], self.mean_active[: first[t]] * self.inv_out[: first[t]], 0.0)
                product = np.stack([sums.products(row) for row in part.tolist()]) * self.live[: first[t]]
                for scores, bit in ((weight * product, _TWERA), (weight * strength, _DRIVE)):
                    row, source = _largest(np.abs(scores), self.strongest)
                    found.append(part[row].astype(np.int64) * self.shape.n_features + source)
                    bits.append(np.full(len(row), bit, np.int8))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int8)
        pairs, back = np.unique(np.concatenate(found), return_inverse=True)
        together = np.zeros(len(pairs), np.int8)
        np.bitwise_or.at(together, back, np.concatenate(bits))
        return pairs, together

    def weights_into(self, t: int, rows: np.ndarray) -> Float[np.ndarray, "n_rows n_sources"]:
        """Weights from all earlier features into some row numbers of the t-th layer of the set."""
        first = self.shape.first
        blocks = []
        for s in range(t):
            writes, reads = self._vectors(s, t)
            blocks.append((reads[torch.from_numpy(rows - first[t])] @ writes.T).cpu().numpy())
        return np.concatenate(blocks, axis=1).astype(np.float64)

    def _why(self, source: np.ndarray, target: np.ndarray, weight: np.ndarray, z: np.ndarray) -> Int[np.ndarray, " n"]:
        """Which of the build's own cuts keep an edge: it lies above the largest that was left out."""
        cut_in_z, cut_out_z, by_layer_in, by_layer_out = self._cuts
        by_z = (z > cut_in_z[target]) | (z > cut_out_z[source])
        by_weight = (weight > by_layer_in[target, self.layer[source]]) | (
            weight > by_layer_out[source, self.layer[target]]
        )
        bits = (by_z * _Z + by_weight * _WEIGHT).astype(np.int8)
        return np.where(bits, bits, _Z).astype(np.int8)  # neither: kept by min_z, or as strong as what was left out

    @cached_property
    def _cuts(self) -> tuple[np.ndarray, ...]:
        features = self.build.nodes("Feature")
        z = [features[name].to_numpy() for name in ("cut_in_z", "cut_out_z")]
        by_layer = [np.array(features[name].to_pylist()) for name in ("cuts_in_by_layer", "cuts_out_by_layer")]
        return *z, *by_layer

    def _token_share(self, a: dict[str, np.ndarray]) -> Float[np.ndarray, " n_rows"]:
        """How much of the variance of a feature's activation the token alone explains, adjusted for the number of
        tokens (Kelley's epsilon squared, https://doi.org/10.1073/pnas.21.9.554); 0 or more, null where it never varies.
        """
        total, seen = self.totals.positions, self.totals.token_n
        kinds = int((seen > 0).sum())
        of_mean = a["sum"] ** 2 / total
        whole = a["square"] - of_mean
        squares = [row @ (row / np.maximum(seen, 1)) for row in a["token_sum"]]
        between = np.asarray(squares) - of_mean
        if total <= kinds:
            return np.full(len(whole), np.nan)
        unexplained = ratio((whole - between) * (total - 1), whole * (total - kinds))
        return np.clip(1 - unexplained, 0, 1)


def _largest(scores: Float[np.ndarray, "n_rows n"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each row's ``count`` largest scores above 0; ties go to the lower column."""
    if scores.shape[1] > count:
        least = np.partition(scores, -count, axis=1)[:, [-count]]
        above = scores > least
        ties = (scores == least) & (np.cumsum(scores == least, axis=1) <= count - above.sum(axis=1, keepdims=True))
        scores = scores * (above | ties)
    row, column = np.nonzero(scores > 0)
    return row, column


def _top_tokens(token_sum: np.ndarray, total: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Each feature's tokens by how much of its activation falls on them, largest first."""
    count = min(TOP_TOKENS, token_sum.shape[1])
    tokens, shares = [], []
    for row, whole in zip(token_sum, total, strict=True):
        top = np.argpartition(-row, count - 1)[:count]
        top = top[np.lexsort((top, -row[top]))]
        top = top[row[top] > 0]
        tokens.append(top)
        shares.append(row[top] / whole if whole > 0 else row[top])
    return tokens, shares


def _quantiles(histogram: Int[np.ndarray, "n bins"], bins: np.ndarray) -> list[Float[np.ndarray, " n_quantiles"]]:
    """Of the activation when it fires: the middle of the bin that holds the ceil(q n)-th smallest, to 1/16 octave."""
    middle = np.sqrt(bins[:-1] * bins[1:])
    found = []
    for row in histogram:
        below = np.cumsum(row)
        wanted = np.ceil(np.asarray(observations.QUANTILES) * below[-1])
        found.append(middle[np.minimum(np.searchsorted(below, wanted), BINS - 1)] if below[-1] else np.empty(0))
    return found


def _evidence(source: np.ndarray, target: np.ndarray, n_both: np.ndarray | None, **values: np.ndarray) -> pa.Table:
    kept_by = values.pop("kept_by")
    both = pa.nulls(len(source), pa.int64()) if n_both is None else pa.array(n_both, pa.int64())
    columns = {"source": source.astype(np.int32), "target": target.astype(np.int32), "n_both": both}
    columns |= {name: as_float(column) for name, column in values.items()}
    return pa.table(columns | {"kept_by": kept_by}, schema=observations.EDGE)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Not a number where nothing is below."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)


def as_float(values: np.ndarray) -> pa.Array:
    """float32, undefined as null."""
    return pa.array(values.astype(np.float32), pa.float32(), mask=np.isnan(values))


def _lists(values: list, kind: pa.DataType) -> pa.Array:
    return pa.array([np.asarray(row).tolist() for row in values], pa.list_(kind))
