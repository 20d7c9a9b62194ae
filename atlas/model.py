"""The nouns of the atlas: keys, sites, activations. Plain data, no dependencies.

A key is one string per node, the same in every store and on every surface::

    feature   gpt2-small/4-tc-24k/1201     model / layer - set / index   (Neuronpedia's triple)
    token     tok:gpt2/1234                vocabulary / id
    head      gpt2-small/L5H3              model / layer and head
    set       gpt2-small/tc-24k
    model     gpt2-small

People and other tools write features in other ways too; :func:`parse` reads them all, the atlas prints one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from atlas.errors import BadKey

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
MODEL_NAME = re.compile(rf"^{_NAME}\Z")
SET_NAME = re.compile(rf"^{_NAME}\Z")


class ReadSite(StrEnum):
    """Where a transcoder or an autoencoder reads: a closed list, since one hook name means different tensors in
    different tools.

    See ``methods``: https://transformerlensorg.github.io/TransformerLens/ for the hook names and
    :mod:`ingest.folding` for what each site does to an edge. The first four are those of transcoders.
    """

    RESID_MID = "resid_mid"
    """the residual stream entering the norm before the MLP, un-normalised"""
    RESID_MID_CENTRED = "resid_mid_centred"
    """the same, of a model whose stream is kept mean-centred (TransformerLens' processed GPT-2)"""
    NORM_PRE_GAIN = "norm_pre_gain"
    """normalised, before the norm's gain and bias"""
    NORM_POST_GAIN = "norm_post_gain"
    """the MLP module's own input: normalised, after gain and bias"""
    RESID_PRE = "resid_pre"
    """the residual stream entering the block"""
    RESID_POST = "resid_post"
    """the residual stream leaving the block"""
    ATTN_Z = "attn_z"
    """what the heads attend to, side by side, before the matrix W_O: n_heads * d_head wide"""
    ATTN_RAW = "attn_raw"
    """the attention module's output, before any norm behind it"""
    ATTN_POST_NORM = "attn_post_norm"
    """what attention adds to the stream, behind a norm after it (Gemma 2 and 3)"""
    MLP_RAW = "mlp_raw"
    """the MLP module's output, before any norm behind it"""
    MLP_POST_NORM = "mlp_post_norm"
    """what the MLP adds to the stream, behind a norm after it"""


class WriteSite(StrEnum):
    """Where a transcoder writes; an autoencoder writes where it reads."""

    MLP_RAW = "mlp_raw"
    """the MLP module's output, before any norm behind it"""
    MLP_POST_NORM = "mlp_post_norm"
    """what enters the residual stream, behind a post-MLP norm (Gemma 2 and 3)"""
    MLP_RAW_CENTRED = "mlp_raw_centred"
    """the MLP module's output with its mean over the axis d_model taken off"""
    RESID_PRE = "resid_pre"
    RESID_MID = "resid_mid"
    RESID_POST = "resid_post"
    ATTN_Z = "attn_z"
    ATTN_RAW = "attn_raw"
    ATTN_POST_NORM = "attn_post_norm"


TRANSCODER_READS = (
    ReadSite.RESID_MID,
    ReadSite.RESID_MID_CENTRED,
    ReadSite.NORM_PRE_GAIN,
    ReadSite.NORM_POST_GAIN,
)
"""where a transcoder can read; the other sites are those of autoencoders"""
TRANSCODER_WRITES = (WriteSite.MLP_RAW, WriteSite.MLP_POST_NORM, WriteSite.MLP_RAW_CENTRED)
RESIDUAL = (ReadSite.RESID_PRE, ReadSite.RESID_MID, ReadSite.RESID_POST)
"""where an autoencoder reads the stream itself"""


class Activation(StrEnum):
    """What turns a pre-activation into an activation."""

    RELU = "relu"
    JUMPRELU = "jumprelu"
    TOPK = "topk"


@dataclass(frozen=True, order=True)
class FeatureKey:
    """One feature of one layer's transcoder."""

    model: str
    layer: int
    set: str
    idx: int

    def __str__(self) -> str:
        return f"{self.model}/{self.layer}-{self.set}/{self.idx}"

    @property
    def set_key(self) -> str:
        return f"{self.model}/{self.set}"

    @property
    def short(self) -> str:
        """How a card names it within its own set: ``4/1201``."""
        return f"{self.layer}/{self.idx}"


@dataclass(frozen=True, order=True)
class TokenKey:
    """One entry of one vocabulary; models with the same vocabulary share it."""

    vocabulary: str
    token_id: int

    def __str__(self) -> str:
        return f"tok:{self.vocabulary}/{self.token_id}"


@dataclass(frozen=True, order=True)
class HeadKey:
    """One attention head."""

    model: str
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.model}/L{self.layer}H{self.head}"


@dataclass(frozen=True)
class ShortKey:
    """A feature without its model and set: ``4/1201``, ``L4 F1201``, ``4_1201``, ``4_1201_9``, ``mlp4tc[1201]@-1``."""

    layer: int
    idx: int


@dataclass(frozen=True)
class TokenText:
    """A token by what it says: ``token:' rabbit'``."""

    text: str


@dataclass(frozen=True)
class SaeLensKey:
    """A feature by SAELens' names: ``RELEASE:SAE_ID:INDEX``."""

    release: str
    sae_id: str
    idx: int


Reference = FeatureKey | TokenKey | HeadKey | ShortKey | TokenText | SaeLensKey

_FEATURE = re.compile(rf"^({_NAME})/(\d+)-({_NAME})/(\d+)$")
_TOKEN = re.compile(rf"^tok:({_NAME})/(\d+)$")
_HEAD = re.compile(rf"^({_NAME})/L(\d+)H(\d+)$")
_TOKEN_TEXT = re.compile(r"^token:(?:'(.*)'|\"(.*)\"|(.+))$", re.DOTALL)
_SHORT = (
    re.compile(r"^(\d+)/(\d+)$"),
    re.compile(r"^[Ll](\d+)[ /.]?[Ff](\d+)$"),
    re.compile(r"^(\d+)_(\d+)(?:_\d+)?$"),
    re.compile(r"^mlp(\d+)tc\[(\d+)\](?:@-?\d+)?$"),
)
_SAELENS = re.compile(rf"^({_NAME}):([^:\s]+):(\d+)$")
_HOW = "A key looks like gpt2-small/4-tc-24k/1201, tok:gpt2/1234 or token:' rabbit'; `atlas models` lists what is here."


def parse(text: str) -> Reference:
    """Read any way of writing a node that people and tools use.

    Raises :class:`atlas.errors.BadKey` with the forms that are understood.
    """
    text = text.strip("\n")
    if match := _TOKEN_TEXT.match(text):
        return TokenText(next(group for group in match.groups() if group is not None))
    stripped = text.strip()
    if stripped.startswith(("http://", "https://")):
        address = urlsplit(stripped)
        parts = [unquote(part) for part in address.path.split("/") if part]
        if address.hostname not in {"neuronpedia.org", "www.neuronpedia.org"} or len(parts) != 3:
            raise BadKey(f"{text!r} is not the address of a feature on Neuronpedia. {_HOW}")
        stripped = "/".join(parts)
    if match := _TOKEN.match(stripped):
        return TokenKey(match[1], _number(match[2], text))
    if match := _HEAD.match(stripped):
        return HeadKey(match[1], _number(match[2], text), _number(match[3], text))
    if match := _FEATURE.match(stripped):
        return FeatureKey(match[1], _number(match[2], text), match[3], _number(match[4], text))
    for form in _SHORT:
        if match := form.match(stripped):
            return ShortKey(_number(match[1], text), _number(match[2], text))
    if match := _SAELENS.match(stripped):
        return SaeLensKey(match[1], match[2], _number(match[3], text))
    raise BadKey(f"{text[:80]!r} is not a key. {_HOW}")


def _number(digits: str, text: str) -> int:
    if len(digits) > 12 or not digits.isascii():
        raise BadKey(f"{text[:80]!r} has a number no layer, feature or token has. {_HOW}")
    return int(digits)
