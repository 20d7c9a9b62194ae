"""The linear maps beside a set's features, which carry the stream from layer to layer.

A skip transcoder predicts ``a @ w_dec + b_dec + x @ w_skip.T``: whatever an earlier source wrote is also read by the
skip of every layer it passes, and written again. With ``N`` what a site reads of the stream and ``w_post`` the gain of
a norm behind the MLP, a row vector ``r`` of the stream leaves layer ``m`` as ::

    r + (N(r) @ w_skip.T) * w_post / (sigma_m * sigma_post_m)

Where the set reads the raw stream and nothing stands behind the MLP, both sigmas are 1 and the path is exact on every
text. Elsewhere they are means over a text (:class:`Sigmas`): an approximation, since the mean of a product is not the
product of means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadSetting, BadTranscoder
from atlas.model import ReadSite, WriteSite
from ingest.families import Norm

if TYPE_CHECKING:
    from ingest.transcoder import SetInfo, Transcoder
    from ingest.weights import ModelWeights


@dataclass(frozen=True)
class Sigmas:
    """Mean of 1 / sigma over a text, by layer: of the norm before each MLP, and of the norm behind it."""

    before: dict[int, float]
    behind: dict[int, float]


@dataclass(frozen=True)
class Skip:
    """What one layer's skip does to the stream, on ``device``; ``factor`` is the mean of its denominators."""

    w_skip: Float[Tensor, "d_model d_model"]
    gain: Float[Tensor, " d_model"] | None
    """of the norm before the MLP, where the set reads behind it"""
    bias: Float[Tensor, " d_model"] | None
    """of the same norm"""
    centred: bool
    """whether what is read has its mean taken off"""
    behind: Float[Tensor, " d_model"] | None
    """gain of a norm that what is written still passes"""
    centred_write: bool
    before_factor: float
    behind_factor: float

    def added(self, r: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the skip adds for vectors of the stream."""
        if self.centred:
            r = r - r.mean(dim=-1, keepdim=True)
        if self.gain is not None:
            r = r * self.gain
        return self._written(r @ self.w_skip.T) * self.before_factor

    def constant(self) -> Float[Tensor, " d_model"]:
        """What the skip adds on every text: it reads the norm's bias too."""
        if self.bias is None:
            return torch.zeros_like(self.w_skip[0])
        return self._written(self.bias @ self.w_skip.T)

    def _written(self, y: Tensor) -> Tensor:
        if self.centred_write:
            y = y - y.mean(dim=-1, keepdim=True)
        if self.behind is not None:
            y = y * self.behind * self.behind_factor
        return y


def of_layer(transcoder: Transcoder, model: ModelWeights, sigmas: Sigmas | None, place: tuple) -> Skip | None:
    """The skip of one layer, on ``place`` (device and dtype); None where it has none."""
    if transcoder.w_skip is None:
        return None
    layer, norms = transcoder.layer, model.layers[transcoder.layer]

    def here(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(*place)

    post = transcoder.read is ReadSite.NORM_POST_GAIN
    normalised = post or transcoder.read is ReadSite.NORM_PRE_GAIN
    behind = None if transcoder.write is WriteSite.MLP_POST_NORM else norms.post_mlp_gain
    if sigmas is None and (normalised or behind is not None):
        raise BadSetting(
            f"layer {layer}'s skip reads or writes at a norm, whose denominator depends on the text; edges through "
            "skips need its mean over one"
        )
    return Skip(
        w_skip=transcoder.w_skip.to(*place, copy=True),  # a view would keep the layer's whole file in memory
        gain=here(norms.mlp_gain) if post else None,
        bias=here(norms.mlp_bias) if post else None,
        centred=transcoder.read is ReadSite.RESID_MID_CENTRED or (normalised and model.norm is Norm.LAYER),
        behind=here(behind),
        centred_write=transcoder.write is WriteSite.MLP_RAW_CENTRED,
        before_factor=sigmas.before[layer] if normalised and sigmas else 1.0,
        behind_factor=sigmas.behind[layer] if behind is not None and sigmas else 1.0,
    )


def to_settings(sigmas: Sigmas | None) -> dict[str, Any]:
    """What a run's settings say of a build whose paths run through skips."""
    return {"paths": "with-skips", **({} if sigmas is None else {"sigmas": asdict(sigmas)})}


def of_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`ingest.folding.Vectors` that give a build's own weights, from its run's settings."""
    if "paths" not in settings:
        return {}
    stored = settings.get("sigmas")
    sides = stored and {side: {int(at): value for at, value in of.items()} for side, of in stored.items()}
    return {"with_skips": True, "sigmas": sides and Sigmas(**sides)}


def check(info: SetInfo) -> None:
    """Whether a set has skips to go through; raises :class:`atlas.errors.BadTranscoder` where not."""
    if not info.has_skip:
        raise BadTranscoder(f"{info.repo} has no skips, so there is no path through them; leave the option out")


def need_sigmas(info: SetInfo, model: ModelWeights) -> bool:
    """Whether a path through this set's skips passes a denominator."""
    normalised = info.read in (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN)
    return normalised or (model.has_post_mlp_norm and info.write is not WriteSite.MLP_POST_NORM)
