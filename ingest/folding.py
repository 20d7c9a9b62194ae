"""Read and write vectors: what is folded into what, so that every edge is a dot product.

With the norms' denominators held still, a source adds ``activation * write`` to the residual stream and a target's
pre-activation moves by ``read . change / sigma``, where sigma is the denominator of the norm before the target's MLP.
With ``e`` a row of ``w_enc``, ``u`` a row of ``w_dec``, ``w`` and ``b`` the norm's gain and bias, and ``C`` what takes
the mean over the axis d_model off:

=====================  ===========================  ==========================================================
reads at               RMSNorm                      LayerNorm
=====================  ===========================  ==========================================================
resid_mid              e                            e (sigma is 1)
resid_mid_centred      refused                      C e (sigma is 1)
norm_pre_gain          e                            C e
norm_post_gain         w * e                        C (w * e), and the bias gains b . e
=====================  ===========================  ==========================================================

=====================  =============================================================================================
writes at              write vector
=====================  =============================================================================================
mlp_raw                u; where a norm stands behind the MLP, w_post * u (and a denominator of that norm)
mlp_post_norm          u, what enters the stream; only where there is such a norm
mlp_raw_centred        C u; LayerNorm models only
=====================  =============================================================================================

What a cross-layer feature has written where a later layer reads it is the sum of its decoders into the layers between.
Asked for, paths also run through the skips between source and target (:mod:`ingest.skips`); else only the direct path
counts. In both cases what arrives depends on where it is read, and :meth:`Vectors.writes` takes the reader's layer.

A plain autoencoder of the residual stream reads ``e`` and writes ``u`` there.

A token writes its row of the embedding, times what the model scales it by. A logit reads ``w_final * W_U[v]``, centred
over all rows of W_U since a constant over the vocabulary changes no prediction, and for LayerNorm also ``C``.
Dunefsky, Chlenski and Nanda 2024 (https://arxiv.org/abs/2406.11944) call these products the input-invariant part;
``tests/unit/ingest/test_intervention.py`` proves each row by intervening on models of every family.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from atlas.errors import BadTranscoder
from atlas.model import RESIDUAL, ReadSite, WriteSite
from ingest import skips
from ingest.families import Norm
from ingest.skips import Sigmas, Skip
from ingest.transcoder import CrossLayerSource, Transcoder, TranscoderSource
from ingest.weights import ModelWeights

_CENTRED = (ReadSite.RESID_MID_CENTRED, WriteSite.MLP_RAW_CENTRED)
_NORMALISED = (ReadSite.NORM_PRE_GAIN, ReadSite.NORM_POST_GAIN)


@dataclass(frozen=True)
class _Layer:
    reads: Tensor
    writes: Tensor
    bias: Tensor
    threshold: Tensor
    constant_write: Tensor
    """what the layer writes with nothing active: its b_dec"""
    skip: Skip | None
    """where paths run through skips"""

    def small(self) -> _Layer:
        """The layer without its matrices. Copied: a view of a tensor that was read keeps the whole file in memory."""
        empty = self.reads.new_empty(0)
        vectors = {name: getattr(self, name).clone() for name in ("bias", "threshold", "constant_write")}
        return replace(self, reads=empty, writes=empty, **vectors)

    @property
    def bytes(self) -> int:
        return (self.reads.numel() + self.writes.numel()) * self.reads.element_size()


@dataclass
class Vectors:
    """Everything of a model and a set of transcoders that edges need; from here on all is dot products.

    Layers are read when they are asked for. The most recent are kept, up to ``cache_bytes`` and at least one, so a set
    larger than memory streams; token and logit vectors are kept once made. Tensors are of ``dtype`` on ``device``.
    ``with_skips`` lets paths run through the set's skips; a set that reads behind a norm then needs ``sigmas``.
    Raises :class:`atlas.errors.BadTranscoder` where the set does not fit the model.
    """

    model: ModelWeights
    source: TranscoderSource
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    cache_bytes: int = 2 << 30
    with_skips: bool = False
    sigmas: Sigmas | None = None
    _kept: OrderedDict[int, _Layer] = field(default_factory=OrderedDict, init=False, repr=False)
    _small: dict[int, _Layer] = field(default_factory=dict, init=False, repr=False)

    _arrived: OrderedDict[int, tuple[int, Tensor]] = field(default_factory=OrderedDict, init=False, repr=False)
    """by source layer (-1: tokens), what was written before some layer, to go on from"""

    def __post_init__(self) -> None:
        check(self.model, self.source)
        if self.with_skips:
            skips.check(self.source.info)

    @property
    def layers(self) -> list[int]:
        """Layers that have a transcoder, ascending."""
        return list(self.source.info.layers)

    @property
    def n_features(self) -> list[int]:
        """Features of each of :attr:`layers`, in that order."""
        return [self.source.info.n_features[layer] for layer in self.layers]

    @property
    def n_vocab(self) -> int:
        return self.model.n_vocab

    @property
    def d_model(self) -> int:
        return self.model.d_model

    @property
    def varies(self) -> bool:
        """Whether what a source has written depends on where it is read."""
        return self.with_skips or bool(self.source.info.targets)

    def token_writes(self, before: int | None = None) -> Float[Tensor, "n_vocab d_model"]:
        """What each token's embedding has written into the stream, scale included, where the MLP of layer ``before``
        reads it; at the end of the model where no layer is given."""
        return self._written_before(-1, before) if self.with_skips else self._token_writes

    def logit_reads(self) -> Float[Tensor, "n_vocab d_model"]:
        """What each logit reads from the stream, centred over the vocabulary; the final norm's denominator left out."""
        return self._logit_reads

    def reads(self, layer: int) -> Float[Tensor, "n_features d_model"]:
        """What each feature reads from the stream; the norm's denominator left out."""
        return self._layer(layer).reads

    def writes(self, layer: int, before: int | None = None) -> Float[Tensor, "n_features d_model"]:
        """What each feature has written into the stream, per unit activation, where the MLP of layer ``before`` reads
        it; at the end of the model where no layer is given."""
        return self._written_before(layer, before) if self.varies else self._layer(layer).writes

    def bias(self, layer: int) -> Float[Tensor, " n_features"]:
        """The encoder's bias, with the norm's bias read through the encoder; not divided by the norm."""
        return self._small_of(layer).bias

    def threshold(self, layer: int) -> Float[Tensor, " n_features"]:
        """The pre-activation above which each feature fires: 0 but for jumprelu."""
        return self._small_of(layer).threshold

    def constant(self, layer: int) -> Float[Tensor, " n_features"]:
        """What the stream's constants add to each feature, in the unit of weight.

        These are attention's constants up to and with this layer (up to the one before where the MLP reads beside
        attention), and the decoder biases of the transcoders before it; with skips, also what these carry of it, and
        of their norms' biases. An autoencoder writes nothing beside the model: there they are attention's alone, up to
        where it reads.
        """
        read, beside = self.source.info.read, self.source.info.kind != "sae"
        total = torch.zeros(self.d_model, device=self.device, dtype=self.dtype)
        for at, weights in enumerate(self.model.layers[: layer + 1]):
            if at == layer and read is ReadSite.RESID_PRE:
                break
            attention = self._here(weights.attention_constant)
            if not self.model.parallel:
                total += attention
            if at == layer and read is not ReadSite.RESID_POST:
                break
            if beside and at in self.source.info.n_features:
                skip = self._small_of(at).skip
                if skip is not None:
                    total += skip.added(total) + skip.constant()
                total += self._small_of(at).constant_write
            if self.model.parallel:
                total += attention
        return self.reads(layer) @ total

    def norm_enc(self, layer: int) -> Float[Tensor, " n_features"]:
        """Length of each read vector."""
        return self.reads(layer).norm(dim=1)

    def norm_dec(self, layer: int) -> Float[Tensor, " n_features"]:
        """Length of each write vector."""
        return self.writes(layer).norm(dim=1)

    @cached_property
    def _token_writes(self) -> Tensor:
        embedding = self._here(self.model.embedding)
        return embedding if self.model.embedding_scale == 1.0 else embedding * self.model.embedding_scale

    @cached_property
    def _logit_reads(self) -> Tensor:
        reads = self._here(self.model.unembedding) * self._here(self.model.final_gain)
        if self.model.norm is Norm.LAYER:
            reads -= reads.mean(dim=1, keepdim=True)
        reads -= reads.mean(dim=0)
        return reads

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype)

    def _small_of(self, layer: int) -> _Layer:
        if layer not in self._small:
            self._layer(layer)
        return self._small[layer]

    def _layer(self, layer: int) -> _Layer:
        if layer in self._kept:
            self._kept.move_to_end(layer)
            return self._kept[layer]
        made = self._fold(self.source.load(layer))
        self._small[layer] = made.small()
        self._kept[layer] = made
        while len(self._kept) > 1 and sum(kept.bytes for kept in self._kept.values()) > self.cache_bytes:
            self._kept.popitem(last=False)
        return made

    def _fold(self, transcoder: Transcoder) -> _Layer:
        fits(transcoder, self.model, self.source.info.n_features[transcoder.layer])
        norm = self.model.layers[transcoder.layer]
        w_enc, b_enc = self._here(transcoder.w_enc), self._here(transcoder.b_enc)
        reads, bias = w_enc, b_enc
        if transcoder.read is ReadSite.NORM_POST_GAIN:
            assert norm.mlp_gain is not None
            reads = w_enc * self._here(norm.mlp_gain)
            if norm.mlp_bias is not None:
                bias = b_enc + w_enc @ self._here(norm.mlp_bias)
        centred = transcoder.read is ReadSite.RESID_MID_CENTRED
        if centred or (self.model.norm is Norm.LAYER and transcoder.read in _NORMALISED):
            reads = reads - reads.mean(dim=1, keepdim=True)
        threshold = torch.zeros_like(b_enc) if transcoder.threshold is None else self._here(transcoder.threshold)
        writes = self._written(transcoder.w_dec, transcoder.layer)
        of_file = [reads.data_ptr() == transcoder.w_enc.data_ptr(), writes.data_ptr() == transcoder.w_dec.data_ptr()]
        if of_file[0] != of_file[1]:  # a view keeps the whole file in memory, the other matrix too, which is a copy
            reads, writes = (
                matrix.clone() if view else matrix for matrix, view in zip((reads, writes), of_file, strict=True)
            )
        return _Layer(
            reads=reads,
            writes=writes,
            bias=bias,
            threshold=threshold,
            constant_write=self._written(transcoder.b_dec, transcoder.layer),
            skip=skips.of_layer(transcoder, self.model, self.sigmas, (self.device, self.dtype))
            if self.with_skips
            else None,
        )

    def _written(self, vectors: Tensor, layer: int) -> Tensor:
        """What arrives in the stream of vectors [..., d_model] at the write site of a layer."""
        vectors, write = self._here(vectors), self.source.info.write
        post = self.model.layers[layer].post_mlp_gain
        if write is WriteSite.MLP_RAW_CENTRED:
            vectors = vectors - vectors.mean(dim=-1, keepdim=True)
        if post is not None and write is WriteSite.MLP_RAW:
            vectors = vectors * self._here(post)
        return vectors

    def carried(self, vectors: Tensor, first: int, before: int | None = None) -> Tensor:
        """What vectors [..., d_model] of the stream at layer ``first``'s norm have become where the MLP of layer
        ``before`` reads, or at the end: themselves, and with skips what these have added."""
        for layer in range(first, self.model.n_layers if before is None else before):
            vectors = self._skipped(vectors, layer)
        return vectors

    def _skipped(self, vectors: Tensor, layer: int) -> Tensor:
        skip = self._small_of(layer).skip if self.with_skips and layer in self.source.info.n_features else None
        return vectors if skip is None else vectors + skip.added(vectors)

    def _written_before(self, source: int, before: int | None) -> Tensor:
        """What a layer's features (-1: tokens) have written where layer ``before`` reads, or at the end.

        Summed layer by layer, each decoder read once while readers come in ascending order; the sums that were used
        last are kept to go on from, up to ``cache_bytes``.
        """
        end = self.model.n_layers if before is None else before
        at, total = self._arrived.pop(source, (max(source, 0), None))
        if at > end:
            at, total = max(source, 0), None
        if total is None:
            total = self._token_writes if source < 0 else None
        for layer in range(at, end):
            total = self._passed(total, source, layer)
        assert total is not None
        self._arrived[source] = (end, total)
        while len(self._arrived) > 1 and sum(kept.nbytes for _, kept in self._arrived.values()) > self.cache_bytes:
            self._arrived.popitem(last=False)
        return total

    def _passed(self, total: Tensor | None, source: int, layer: int) -> Tensor | None:
        """What has arrived, one layer further on."""
        if total is not None:
            total = self._skipped(total, layer)
        if layer == source:
            own = self._layer(layer).writes
        elif source >= 0 and layer in self.source.info.targets and isinstance(self.source, CrossLayerSource):
            own = self._written(self.source.decoder(source, layer), layer)
        else:
            return total
        return own if total is None else total + own


def check(model: ModelWeights, source: TranscoderSource) -> None:
    """Whether a set can stand in for this model's MLPs; raises :class:`atlas.errors.BadTranscoder` where not."""
    info = source.info
    if info.d_model != model.d_model:
        raise BadTranscoder(
            f"{info.repo} reads a stream {info.d_model} wide, but {model.name} has d_model {model.d_model}; "
            f"{f'it is made for {info.model_name}' if info.model_name else 'it is made for another model'}"
        )
    beyond = [layer for layer in (*info.layers, *info.targets) if layer >= model.n_layers]
    if beyond:
        raise BadTranscoder(f"{info.repo} has a transcoder for layer {beyond[0]}, but {model.name} ends at layer "
                            f"{model.n_layers - 1}")  # fmt: skip
    if info.kind == "sae" and info.read not in RESIDUAL:
        raise BadTranscoder(
            f"{info.repo} are autoencoders of {info.read}, which is not the stream: no dot product with what tokens "
            "and features write tells what reaches them; only autoencoders of the residual stream have such edges"
        )
    if info.targets and info.write is not WriteSite.MLP_POST_NORM and model.has_post_mlp_norm:
        raise BadTranscoder(
            f"{info.repo} writes at several layers before {model.name}'s norms behind the MLP: each has a denominator "
            "of its own, so its writes do not add up to an edge"
        )
    for site in (info.read, info.write):
        if site in _CENTRED and model.norm is not Norm.LAYER:
            raise BadTranscoder(
                f"{info.repo} declares the site {site}, but {model.name} has RMSNorm: nothing is centred"
            )
    if info.read in _NORMALISED and not model.has_mlp_norm:
        raise BadTranscoder(
            f"{info.repo} reads behind a norm before the MLP, but {model.name} has none there: its MLP reads the "
            f"stream itself, {ReadSite.RESID_MID}"
        )
    if info.write is WriteSite.MLP_POST_NORM and not model.has_post_mlp_norm:
        raise BadTranscoder(f"{info.repo} writes behind a norm after the MLP, but {model.name} has none there")


def fits(transcoder: Transcoder, model: ModelWeights, n_features: int) -> None:
    """Whether one layer has the sizes that its set and its model state; raises :class:`atlas.errors.BadTranscoder`."""
    found = (transcoder.n_features, transcoder.d_in, transcoder.d_out)
    expected = (n_features, model.d_model, model.d_model)
    if found != expected:
        raise BadTranscoder(
            f"layer {transcoder.layer}: features, width read and width written are {found}, expected {expected} for "
            f"{model.name}"
        )
