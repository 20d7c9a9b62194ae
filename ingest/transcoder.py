"""One layer's transcoder, and the set it belongs to: the record every published format is read into.

A transcoder stands in for an MLP. It reads a vector ``x`` at one site of the model and predicts what the MLP writes::

    p = x @ w_enc.T + b_enc
    a = relu(p)                      relu
        relu(p) where p is among the k largest, else 0      topk
        p where p > threshold, else 0                       jumprelu
    y = a @ w_dec + b_dec (+ x @ w_skip.T)

Features of a cross-layer set read at one layer and write at that and all later ones, so what is predicted at a layer is
a sum (:func:`predictions`); its ``w_dec`` is what is written at the layer itself, and
:meth:`CrossLayerSource.decoder` reads the others one at a time. A plain autoencoder is the same record with one site.

Rows are features, always: files disagree about the orientation, readers in :mod:`ingest.sources` transpose, nothing
downstream does. Where it reads and writes is a closed list (:class:`atlas.model.ReadSite`,
:class:`atlas.model.WriteSite`), since one hook name means different tensors in different tools. What the sites do to an
edge is the business of :mod:`ingest.folding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import TRANSCODER_WRITES, Activation, ReadSite, WriteSite


@dataclass(frozen=True)
class Transcoder:
    """One layer. All tensors are floating point, finite, and of one device.

    Raises :class:`atlas.errors.BadTranscoder` where the shapes contradict each other or the activation lacks its
    threshold or its k.
    """

    layer: int
    """the block whose MLP it stands for"""
    w_enc: Float[Tensor, "n_features d_in"]
    b_enc: Float[Tensor, " n_features"]
    w_dec: Float[Tensor, "n_features d_out"]
    b_dec: Float[Tensor, " d_out"]
    activation: Activation
    read: ReadSite
    write: WriteSite
    threshold: Float[Tensor, " n_features"] | None = None
    """jumprelu only: the pre-activation above which a feature fires"""
    k: int | None = None
    """topk only: how many features may fire at once"""
    w_skip: Float[Tensor, "d_out d_in"] | None = None

    def __post_init__(self) -> None:
        n, (d_out,) = self.n_features, self.b_dec.shape
        expected = {
            "w_enc": (n, self.w_enc.shape[-1]),
            "w_dec": (n, d_out),
            "threshold": (n,),
            "w_skip": (d_out, self.w_enc.shape[-1]),
        }
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise BadTranscoder(
                    f"layer {self.layer}: {name} has shape {tuple(tensor.shape)}, expected {shape}: b_enc has {n} "
                    f"features and b_dec a width of {d_out}. Rows must be features; if the file stores it transposed, "
                    "its reader in ingest/sources must transpose it."
                )
        if (self.activation is Activation.JUMPRELU) != (self.threshold is not None):
            raise BadTranscoder(
                f"layer {self.layer}: the activation is {self.activation}, and there is "
                f"{'no' if self.threshold is None else 'a'} threshold; jumprelu has one, nothing else does."
            )
        if (self.activation is Activation.TOPK) != (self.k is not None):
            raise BadTranscoder(
                f"layer {self.layer}: the activation is {self.activation}, and k is {self.k}; topk needs a k, nothing "
                "else does. It is not in the weights: state it in the set's config."
            )
        if self.k is not None and not 0 < self.k <= n:
            raise BadTranscoder(f"layer {self.layer}: k is {self.k}, but there are {n} features.")

    @property
    def n_features(self) -> int:
        return self.b_enc.shape[0]

    @property
    def d_in(self) -> int:
        return self.w_enc.shape[1]

    @property
    def d_out(self) -> int:
        return self.w_dec.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_features"]:
        """Activations on what is read at the site :attr:`read`; never negative where thresholds are not."""
        p = x @ self.w_enc.T + self.b_enc
        if self.threshold is not None:
            return torch.where(p > self.threshold, p, 0.0)
        if self.k is not None:
            kept = p.topk(self.k, dim=-1)
            p = torch.zeros_like(p).scatter(-1, kept.indices, kept.values)
        return torch.relu(p)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Transcoder:
        """The same on a device, in a precision."""
        tensors = {name: value.to(device, dtype) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    @property
    def is_autoencoder(self) -> bool:
        """Whether it writes what it reads, and so stands for no MLP."""
        return self.write not in TRANSCODER_WRITES or str(self.read) == str(self.write)

    def decode(
        self, activations: Float[Tensor, "*batch n_features"], x: Float[Tensor, "*batch d_in"] | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """What it predicts at the site :attr:`write`; a skip also needs ``x``, what was read."""
        y = activations @ self.w_dec + self.b_dec
        if self.w_skip is None:
            return y
        if x is None:
            raise TypeError(f"layer {self.layer} has a skip: decode(activations, x) needs x, what was read")
        return y + x @ self.w_skip.T


@dataclass(frozen=True)
class SetInfo:
    """What is known of a set of transcoders before a weight is read."""

    name: str
    """a name for keys, such as ``tc-24k``; Neuronpedia's where it has one"""
    kind: str
    """``transcoder``; ``skip`` where a linear map stands beside the features; ``cross-layer``; ``sae``"""
    repo: str
    """hub repository, or the name of the local folder"""
    revision: str
    """commit, or the hash of the files"""
    files: dict[str, str]
    """SHA-256 of every file that is read, by its name in the repository"""
    layers: list[int]
    """ascending"""
    n_features: dict[int, int]
    """by layer"""
    d_model: int
    """width of what is read and written"""
    read: ReadSite
    write: WriteSite
    activation: Activation
    saelens_release: str | None = None
    neuronpedia_id: str | None = None
    model_name: str | None = None
    """the model, as the set's config names it"""
    l0: dict[int, float] = field(default_factory=dict)
    """features active at a position, by layer, where the release states it"""
    explained: dict[int, float] = field(default_factory=dict)
    """share of the variance explained, by layer, where the release states it"""
    targets: tuple[int, ...] = ()
    """layers at which a cross-layer set writes, ascending; empty for every other kind"""
    has_skip: bool = False
    """whether a linear map stands beside the features"""


@runtime_checkable
class TranscoderSource(Protocol):
    """A set of transcoders, read a layer at a time: one layer of memory is enough."""

    @property
    def info(self) -> SetInfo: ...

    def load(self, layer: int) -> Transcoder:
        """Read one layer, in float32 on the CPU.

        Raises :class:`atlas.errors.BadTranscoder` for a layer that is not there, a file that is cut short, and NaN or
        Inf in any weight.
        """
        ...


@runtime_checkable
class CrossLayerSource(TranscoderSource, Protocol):
    """A set whose features write at several layers (:attr:`SetInfo.targets`)."""

    def decoder(self, layer: int, into: int) -> Float[Tensor, "n_features d_out"]:
        """What the features of ``layer`` write at the layer ``into``, not before their own, in float32 on the CPU."""
        ...


def predictions(
    source: TranscoderSource, read: Mapping[int, Float[Tensor, "positions d_in"]]
) -> Iterator[tuple[int, Float[Tensor, "positions n_features"], Float[Tensor, "positions d_out"]]]:
    """Layer, activations, and what the set predicts at its write site, of what is read at each layer.

    Layers come ascending. Of a cross-layer set all earlier layers write into a prediction, so all of them must be read.
    """
    active: dict[int, Tensor] = {}
    for layer in sorted(read):
        x = read[layer]
        transcoder = source.load(layer).to(x.device, x.dtype)
        active[layer] = transcoder.encode(x)
        y = transcoder.decode(active[layer], x)
        if isinstance(source, CrossLayerSource):
            for earlier in sorted(active)[:-1]:
                y = y + active[earlier] @ source.decoder(earlier, layer).to(x.device, x.dtype)
        yield layer, active[layer], y
        if not isinstance(source, CrossLayerSource):
            del active[layer]
